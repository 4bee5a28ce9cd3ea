"""One step of descent for a batch of machines: compiled, in the span of the patterns, or by torch, in the inputs.

On the CPU the bits of a machine do not depend on its neighbours.  The compiled kernels see one machine at a time.  For
torch's products, which change their order of summation otherwise, that needs two precautions: every row starts at a
multiple of 64 bytes, and no product is of one machine alone, which takes another path (it runs beside its copy).
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from training.committee import kernels
from training.committee.loss import descent_slopes_
from training.committee.problem import Problem
from training.committee.protocols import Protocol, Scheduled

# Minibatches gathered at once: on the CPU what stays in its cache between the gathering and the two products.
_CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 1 << 30}


class Inner(NamedTuple):
    """What the inner loop of eSGD has besides its machines u': their anchor u, noise for its steps, and their mean μ.

    Shapes (R, 1, K, N'), (R, L, K, N') or None, (R, 1, K, N'); μ is updated in place.
    """

    anchor: torch.Tensor
    noise: torch.Tensor | None
    mean: torch.Tensor


def descent(
    problem: Problem, protocol: Protocol, n_restarts: int, generators: list[torch.Generator]
) -> SpanDescent | InputDescent:
    """Choose the form that `problem` is made for; `generators`, one per machine, drop inputs."""
    if problem.span is not None:
        return SpanDescent(problem, protocol)
    return InputDescent(problem, protocol, n_restarts, generators)


def _gain(p: Protocol, scheduled: Scheduled) -> float:
    """What multiplies the slopes of `descent_slopes_` in an update."""
    eta = p.eta_prime if p.algorithm == "esgd" else p.eta
    return eta * 4 * scheduled.beta / math.sqrt(p.K) / (p.B if p.reduction == "mean" else 1)


def _amplitude(p: Protocol) -> float:
    """What multiplies the noise."""
    return math.sqrt(p.eta_prime) * p.epsilon


class SpanDescent:
    """Descent in the coordinates of `problem.Span`, where patterns are short and none is gathered."""

    def __init__(self, problem: Problem, protocol: Protocol):
        self.protocol, self._ends, self._threads = protocol, problem.ends, problem.threads
        self._patterns = problem.patterns.numpy()
        float_format = np.finfo(self._patterns.dtype)
        self._pool = ThreadPoolExecutor(self._threads)  # which starts no thread before it needs it
        self._layout = np.array([float_format.nmant, float_format.maxexp - 1], f"i{self._patterns.itemsize}")
        self._none = np.empty((0, 1, protocol.K, self._patterns.shape[1]), self._patterns.dtype)

    def run(
        self, u: torch.Tensor, orders: torch.Tensor, scheduled: Scheduled, pull: float = 0.0, inner: Inner | None = None
    ) -> None:
        """``u ← norm(u − η ∇L − pull (u − anchor) + √η' ε noise)`` on one minibatch after the other, in place.

        Shapes: u (R, y, K, N'), orders (S, R, y, B) in rising order along B.  The anchor of replicas is their mean; see
        `Inner` for that of eSGD.
        """
        p, exact = self.protocol, self._patterns.dtype.type
        machines, batches = u.numpy(), orders.numpy()
        anchors, noise, means = (self._none if x is None else x.numpy() for x in inner or (None, None, None))
        factors = (2 * scheduled.beta, 2 * scheduled.omega / math.sqrt(p.K), _gain(p, scheduled), _amplitude(p))
        factors, strength, alpha = tuple(exact(factor) for factor in factors), exact(pull), exact(p.alpha)

        def descend(part: slice) -> None:
            """Go through the steps of some of the restarts."""
            kernels.descend(
                machines[part],
                self._patterns,
                self._ends,
                np.ascontiguousarray(batches[:, part]),
                factors,
                strength,
                anchors[part],
                noise[part],
                means[part],
                alpha,
                self._layout,
            )

        parts = _even_slices(len(u), min(self._threads, len(u)))
        list(self._pool.map(descend, parts) if len(parts) > 1 else map(descend, parts))

    def preactivations(self, u: torch.Tensor) -> torch.Tensor:
        """σh on all patterns, shapes (M, K, N') -> (M, K, P)."""
        h = torch.empty(*u.shape[:2], len(self._patterns), dtype=u.dtype)
        kernels.project(u.numpy(), self._patterns, self._ends, h.numpy())
        return h


class InputDescent:
    """Descent in the inputs, on any device and with dropout."""

    def __init__(self, problem: Problem, protocol: Protocol, n_restarts: int, generators: list[torch.Generator]):
        p, (_, n_padded) = protocol, problem.patterns.shape
        self.protocol, self._patterns, self._generators = p, problem.patterns, generators
        n_machines = n_restarts * p.y
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
        self._centre = torch.empty(n_restarts, 1, p.K, n_padded, **like)

    def run(
        self, u: torch.Tensor, orders: torch.Tensor, scheduled: Scheduled, pull: float = 0.0, inner: Inner | None = None
    ) -> None:
        """Make the steps of `SpanDescent.run`."""
        machines = u.view(-1, *u.shape[2:])
        for step, index in enumerate(orders.flatten(1, 2)):
            anchor = None
            if pull > 0:
                anchor = torch.mean(u, 1, keepdim=True, out=self._centre) if inner is None else inner.anchor
            for part in self._chunks:
                self._descend(part, machines[part], index[part], scheduled, 1 - pull)
            if anchor is not None:
                u.add_(anchor, alpha=pull)
            if inner is not None and inner.noise is not None:
                u.add_(inner.noise[:, step : step + 1], alpha=_amplitude(self.protocol))
            norm = torch.linalg.vector_norm(machines, dim=-1, keepdim=True, out=self._norm)
            machines.div_(norm.add_(norm, alpha=0.0))  # ∞ + 0 ∞ is NaN: a row that overflowed is no row of zeros
            if inner is not None:
                inner.mean.lerp_(u, 1 - self.protocol.alpha)

    def _descend(self, part: slice, u: torch.Tensor, index: torch.Tensor, scheduled: Scheduled, keep: float) -> None:
        """``u ← keep u − η ∇L`` for the machines `part` of the batch, in place."""
        machines, n = u, len(u)
        x = self._x[: n * index.shape[1]]
        # Six times faster than patterns[index], which would also allocate.
        torch.index_select(self._patterns, 0, index.flatten(), out=x)
        x = x.view(n, index.shape[1], -1)
        if self.protocol.dropout:
            self._drop_inputs(x, self._generators[part])
        if n == 1:
            x, u, n = torch.cat([x, x]), torch.cat([u, u]), 2
        z = torch.bmm(u, x.transpose(1, 2), out=self._z[:n]).mul_(2 * scheduled.beta)
        slopes = descent_slopes_(z, scheduled.omega, self._r[:n], self._s[:n])
        u.baddbmm_(slopes, x, beta=keep, alpha=_gain(self.protocol, scheduled))
        if u is not machines:
            machines.copy_(u[:1])

    def _drop_inputs(self, x: torch.Tensor, generators: list[torch.Generator]) -> None:
        keep = 1 - self.protocol.dropout
        for inputs, generator in zip(x, generators, strict=True):
            inputs.mul_(torch.empty_like(inputs).bernoulli_(keep, generator=generator))
        x.div_(keep)

    def preactivations(self, u: torch.Tensor) -> torch.Tensor:
        """Return σh as `SpanDescent.preactivations`."""
        # A batched product, though all machines see the same patterns, for the bits.
        pair = torch.cat([u, u]) if len(u) == 1 else u
        return torch.bmm(pair, self._patterns.T.expand(len(pair), -1, -1))[: len(u)]


def _even_slices(n: int, parts: int) -> list[slice]:
    """Cut range(n) into `parts` slices whose lengths differ by at most 1."""
    bounds = [n * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
