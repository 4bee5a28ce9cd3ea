"""One step of descent for a batch of machines: compiled, in the span of the patterns, or by torch, in the inputs.

On the CPU the bits of a machine do not depend on its neighbours.  The compiled kernels see one machine at a time.  For
torch's products, which change their order of summation otherwise, that needs two precautions: every row starts at a
multiple of 64 bytes, and no product is of one machine alone, which takes another path (it runs beside its copy).
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch

from training import kernels
from training.loss import descent_slopes_
from training.problem import Problem
from training.protocols import Protocol, Scales

# Minibatches gathered at once: on the CPU what stays in its cache between the gathering and the two products.
_CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 1 << 30}


class Pull(NamedTuple):
    """Attraction by a part `strength` of the way to `anchors` (R, K, N'), each of the machines of one restart."""

    anchors: torch.Tensor
    strength: float


class Kicks(NamedTuple):
    """Noise of the steps of one outer step, standard normal (R, L, K, N'), and what multiplies it."""

    noise: torch.Tensor
    amplitude: float


def descent(problem: Problem, protocol: Protocol, n_machines: int, generators: list[torch.Generator]):
    """Choose the form that `problem` is made for, to be used on `n_machines`; `generators` drop their inputs."""
    if problem.span is not None:
        return SpanDescent(problem, protocol, n_machines)
    return InputDescent(problem, protocol, n_machines, generators)


def _gain(protocol: Protocol, scales: Scales, eta: float) -> float:
    """What multiplies the slopes of `descent_slopes_`."""
    return eta * 4 * scales.beta / math.sqrt(protocol.K) / (protocol.B if protocol.reduction == "mean" else 1)


class SpanDescent:
    """Descent in the coordinates of `training.problem.Span`, where patterns are short and none is gathered."""

    def __init__(self, problem: Problem, protocol: Protocol, n_machines: int):
        p = self.protocol = protocol
        self._patterns, self._ends = problem.patterns.numpy(), problem.ends
        self._h = torch.empty(n_machines, p.K, p.B, dtype=problem.dtype)
        self._r = torch.empty_like(self._h)
        self._s = torch.empty(n_machines, 1, p.B, dtype=problem.dtype)
        self._all = np.arange(len(problem))[None]
        self._no_anchor = np.empty((0, p.K, problem.patterns.shape[1]), self._patterns.dtype)

    def step(
        self,
        u: torch.Tensor,
        index: torch.Tensor,
        scales: Scales,
        eta: float,
        pull: Pull | None = None,
        kicks: Kicks | None = None,
        inner: int = 0,
    ) -> None:
        """``u ← norm(u − η ∇L − pull (u − anchor) + √η' ε kick)`` on one minibatch, in place.

        Shapes: u (M, K, N'), index (M, B) in rising order.  `inner` counts the kicks.
        """
        batches, weights, exact = index.numpy(), u.numpy(), self._patterns.dtype.type
        kernels.project(weights, self._patterns, self._ends, batches, self._h.numpy())
        slopes = descent_slopes_(self._h.mul_(2 * scales.beta), scales.omega, self._r, self._s).numpy()
        kernels.advance(
            weights,
            self._patterns,
            self._ends,
            batches,
            slopes,
            exact(_gain(self.protocol, scales, eta)),
            exact(0 if pull is None else pull.strength),
            self._no_anchor if pull is None else pull.anchors.numpy(),
            exact(0 if kicks is None else kicks.amplitude),
            self._no_anchor[None][:0] if kicks is None else kicks.noise.numpy(),
            inner,
        )

    def preactivations(self, u: torch.Tensor) -> torch.Tensor:
        """σh on all patterns, shapes (M, K, N') -> (M, K, P)."""
        h = torch.empty(*u.shape[:2], len(self._patterns), dtype=u.dtype)
        kernels.project(u.numpy(), self._patterns, self._ends, self._all, h.numpy())
        return h


class InputDescent:
    """Descent in the inputs, on any device and with dropout."""

    def __init__(self, problem: Problem, protocol: Protocol, n_machines: int, generators: list[torch.Generator]):
        p, (_, n_padded) = protocol, problem.patterns.shape
        self.protocol, self._patterns, self._generators = p, problem.patterns, generators
        # Equal chunks, at least two machines in each.
        bytes_each = problem.patterns.element_size() * p.B * n_padded
        n_chunks = min(-(-n_machines * bytes_each // _CHUNK_BYTES[problem.device.type]), n_machines // 2)
        self._chunks = _even_slices(n_machines, max(n_chunks, 1))
        chunk = max(2, *(part.stop - part.start for part in self._chunks))
        like = {"dtype": problem.dtype, "device": problem.device}
        self._x = torch.empty(chunk * p.B, n_padded, **like)
        self._z = torch.empty(chunk, p.K, p.B, **like)
        self._r = torch.empty_like(self._z)
        self._s = torch.empty(chunk, 1, p.B, **like)
        self._norm = torch.empty(n_machines, p.K, 1, **like)

    def step(
        self,
        u: torch.Tensor,
        index: torch.Tensor,
        scales: Scales,
        eta: float,
        pull: Pull | None = None,
        kicks: Kicks | None = None,
        inner: int = 0,
    ) -> None:
        """As `SpanDescent.step`."""
        keep, gain = 1.0 if pull is None else 1 - pull.strength, _gain(self.protocol, scales, eta)
        for part in self._chunks:
            self._descend(part, u[part], index[part], scales, keep, gain)
        if pull is not None:
            restarts = u.view(len(pull.anchors), -1, *u.shape[1:])
            restarts.add_(pull.anchors.unsqueeze(1), alpha=pull.strength)
        if kicks is not None:
            u.add_(kicks.noise[:, inner], alpha=kicks.amplitude)
        norm = torch.linalg.vector_norm(u, dim=-1, keepdim=True, out=self._norm)
        u.div_(norm.add_(norm, alpha=0.0))  # ∞ + 0 ∞ is NaN: a row that overflowed is no row of zeros

    def _descend(
        self, part: slice, u: torch.Tensor, index: torch.Tensor, scales: Scales, keep: float, gain: float
    ) -> None:
        """``u ← keep u + gain Σ_μ slope_μ x_μ`` for the machines `part` of the batch, in place."""
        machines, n = u, len(u)
        x = self._x[: n * index.shape[1]]
        # Six times faster than patterns[index], which would also allocate.
        torch.index_select(self._patterns, 0, index.flatten(), out=x)
        x = x.view(n, index.shape[1], -1)
        if self.protocol.dropout:
            self._drop_inputs(x, self._generators[part])
        if n == 1:
            x, u, n = torch.cat([x, x]), torch.cat([u, u]), 2
        z = torch.bmm(u, x.transpose(1, 2), out=self._z[:n]).mul_(2 * scales.beta)
        u.baddbmm_(descent_slopes_(z, scales.omega, self._r[:n], self._s[:n]), x, beta=keep, alpha=gain)
        if u is not machines:
            machines.copy_(u[:1])

    def _drop_inputs(self, x: torch.Tensor, generators: list[torch.Generator]) -> None:
        keep = 1 - self.protocol.dropout
        for inputs, generator in zip(x, generators, strict=True):
            inputs.mul_(torch.empty_like(inputs).bernoulli_(keep, generator=generator))
        x.div_(keep)

    def preactivations(self, u: torch.Tensor) -> torch.Tensor:
        """As `SpanDescent.preactivations`."""
        # A batched product, though all machines see the same patterns, for the bits.
        pair = torch.cat([u, u]) if len(u) == 1 else u
        return torch.bmm(pair, self._patterns.T.expand(len(pair), -1, -1))[: len(u)]


def _even_slices(n: int, parts: int) -> list[slice]:
    """Cut range(n) into `parts` slices whose lengths differ by at most 1."""
    bounds = [n * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
