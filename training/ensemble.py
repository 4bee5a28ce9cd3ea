"""All running restarts as one tensor, and one epoch of SGD, rSGD or eSGD on it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from training import randomness
from training.loss import descent_slopes_, pattern_loss, stability
from training.protocols import Protocol, Scales

_ALIGNMENT = 16  # floats in 64 bytes; see Ensemble

# Minibatches gathered at once: on the CPU what stays in its cache between the gathering and the two products.
_CHUNK_BYTES = {"cpu": 4 << 20, "cuda": 1 << 30}


def _even_slices(n: int, parts: int) -> list[slice]:
    """Cut range(n) into `parts` slices whose lengths differ by at most 1."""
    bounds = [n * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


class Problem:
    """Training set on the device: patterns times labels, since ``σ tanh(β u·x) = tanh(β u·(σx))``.

    Attributes
    ----------
    patterns : Tensor, shape (P, N')
        ``σ x`` in float32, with N padded by zeros to a multiple of 16.
    positive : Tensor of bool, shape (P,)
        Whether ``σ = +1``.
    n_inputs : int
        N.
    """

    def __init__(self, patterns: np.ndarray, labels: np.ndarray, device: torch.device):
        signed = torch.as_tensor(patterns * labels[:, None], dtype=torch.float32)
        self.n_inputs = signed.shape[1]
        self.patterns = torch.nn.functional.pad(signed, (0, -self.n_inputs % _ALIGNMENT)).to(device).contiguous()
        self.positive = torch.as_tensor(labels > 0).to(device)

    def __len__(self) -> int:
        return len(self.patterns)


def normalize_rows_(u: torch.Tensor) -> torch.Tensor:
    """Divide the rows of `u` (..., N) by their norms, in place."""
    return u.div_(torch.linalg.vector_norm(u, dim=-1, keepdim=True))


def squared_distance(u: torch.Tensor, anchor: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """``Σ_ki (u_ki − anchor_ki)²`` averaged over replicas: shapes (R, y, K, N), (R, 1, K, N) -> (R,)."""
    return torch.sub(u, anchor, out=scratch).square_().sum((2, 3)).mean(1)


class Ensemble:
    """The running restarts of one protocol.

    Parameters
    ----------
    protocol : Protocol
    problem : Problem
    restarts : list of int
        Running restarts.
    u : Tensor, shape (R, y, K, N')
        Their weights, rows of norm 1, in the order of `restarts`; N' as in `Problem`.
    seed : int

    Notes
    -----
    On the CPU the bits of a restart do not depend on its neighbours.  That needs two precautions, because the
    matrix products change their order of summation otherwise: every row starts at a multiple of 64 bytes (hence N'),
    and no product is of one machine alone, which takes another path (a last machine runs beside its copy).
    """

    def __init__(self, protocol: Protocol, problem: Problem, restarts: list[int], u: torch.Tensor, seed: int):
        self.protocol, self.problem, self.seed = protocol, problem, seed
        self.restarts = list(restarts)
        alone = len(self.restarts) * protocol.y == 1
        self.lanes = self.restarts * 2 if alone else self.restarts
        self.u = torch.cat([u, u]) if alone else u.contiguous().clone()
        self.distance = torch.full((len(self.lanes),), math.nan, device=u.device)
        self._allocate()

    def _allocate(self) -> None:
        p, device = self.protocol, self.u.device
        n_machines, n_padded = len(self.lanes) * p.y, self.u.shape[-1]
        bytes_each = 4 * p.B * n_padded
        # Equal chunks, at least two machines in each: see Notes.
        n_chunks = min(-(-n_machines * bytes_each // _CHUNK_BYTES[device.type]), n_machines // 2)
        self._chunks = _even_slices(n_machines, max(n_chunks, 1))
        chunk = max(part.stop - part.start for part in self._chunks)
        self._x = torch.empty(chunk * p.B, n_padded, device=device)
        self._z = torch.empty(chunk, p.K, p.B, device=device)
        self._r = torch.empty_like(self._z)
        self._s = torch.empty(chunk, 1, p.B, device=device)
        self._scratch = torch.empty_like(self.u)
        self._centre = torch.empty_like(self.u[:, :1])
        self._norm = torch.empty(n_machines, p.K, 1, device=device)
        self._noise = torch.zeros(len(self.lanes), p.L, p.K, n_padded, device=device) if p.epsilon else None
        random = p.epsilon or p.dropout
        self._generators = [torch.Generator(device) for _ in range(n_machines)] if random else []

    @classmethod
    def start(cls, protocol: Protocol, problem: Problem, restarts: list[int], seed: int) -> Ensemble:
        """Ensemble at its random initial weights."""
        drawn = 1 if protocol.start == "equal" else protocol.y
        shape = (drawn, protocol.K, problem.n_inputs)
        u = np.stack([randomness.initial_weights(seed, r, shape) for r in restarts])
        u = u.repeat(protocol.y // drawn, axis=1)
        u = np.pad(u, [(0, 0)] * 3 + [(0, problem.patterns.shape[1] - problem.n_inputs)])
        return cls(protocol, problem, restarts, torch.from_numpy(u).to(problem.patterns.device), seed)

    def without(self, stopped: np.ndarray) -> Ensemble:
        """Ensemble of the restarts that are not `stopped` (bool, one entry a restart)."""
        keep = np.flatnonzero(~stopped)
        restarts = [self.restarts[i] for i in keep]
        return Ensemble(self.protocol, self.problem, restarts, self.u[torch.from_numpy(keep)], self.seed)

    def weights(self) -> torch.Tensor:
        """Weights of the running restarts, shape (R, y, K, N'): all there is to be saved."""
        return self.u[: len(self.restarts)]

    def solution(self) -> torch.Tensor:
        """Unit-row weights of the lanes, shape (lanes, K, N'); the normalised centre of the replicas for rSGD."""
        return normalize_rows_(self.u.mean(1))

    def errors(self) -> np.ndarray:
        """Errors of the solutions on the training set (hard signs, sign(0) = +1), shape (R,), as counts."""
        stabilities = self._all_preactivations(1.0)  # σ h
        right = torch.count_nonzero((stabilities > 0) | ((stabilities == 0) & self.problem.positive), dim=1)
        return torch.count_nonzero(2 * right < self.protocol.K, dim=1).cpu().numpy()[: len(self.restarts)]

    def mean_loss(self, scales: Scales) -> np.ndarray:
        """Mean loss of the solutions on the training set, shape (R,)."""
        s = stability(self._all_preactivations(2 * scales.beta))
        return pattern_loss(s.double(), scales.omega).mean(1).cpu().numpy()[: len(self.restarts)]

    def distances(self) -> np.ndarray:
        """Squared distance at the end of the last epoch (see `Protocol`), shape (R,); NaN for SGD."""
        return self.distance.cpu().numpy()[: len(self.restarts)]

    def _all_preactivations(self, factor: float) -> torch.Tensor:
        # A batched product of at least two, though all lanes see the same patterns, for the bits: see Notes.
        u, patterns = self.solution(), self.problem.patterns
        u = torch.cat([u, u]) if len(u) == 1 else u
        return torch.bmm(u, patterns.T.expand(len(u), -1, -1)).mul_(factor)

    def run_epoch(self, epoch: int) -> None:
        """Go once through the patterns (eSGD: L times) and update `distance`."""
        p = self.protocol
        orders = self._orders(epoch)
        for machine, generator in enumerate(self._generators):
            lane, replica = divmod(machine, p.y)
            generator.manual_seed(randomness.device_seed(self.seed, self.lanes[lane], epoch, replica))
        scales = p.scales(epoch)
        gain = 4 * scales.beta / math.sqrt(p.K) / (p.B if p.reduction == "mean" else 1)
        if p.algorithm == "esgd":
            self._esgd_epoch(orders, scales, gain, **p.attractions(epoch))
        else:
            self._sgd_epoch(orders, scales, gain, **p.attractions(epoch))

    def _orders(self, epoch: int) -> torch.Tensor:
        """Indices (steps, machines * B) of the minibatches of every step of the epoch."""
        p = self.protocol
        orders = [
            randomness.minibatch_orders(
                self.seed, restart, epoch, y=p.y, passes=p.L, n_patterns=len(self.problem), batch=p.B
            )
            for restart in self.lanes
        ]
        flat = np.stack(orders, axis=1).reshape(len(orders[0]), -1)
        return torch.from_numpy(flat).to(self.u.device)

    def _sgd_epoch(self, orders: torch.Tensor, scales: Scales, gain: float, pull: float = 0.0) -> None:
        """SGD, and rSGD (Algorithm 2): replicas attracted by their mean."""
        p = self.protocol
        for index in orders:
            anchor = self._mean_replica() if p.algorithm == "rsgd" else None
            self._step(self.u, index, scales, p.eta * gain, anchor, pull)
        if p.algorithm == "rsgd":
            self.distance = squared_distance(self.u, self._mean_replica(), self._scratch)

    def _mean_replica(self) -> torch.Tensor:
        """ū, shape (lanes, 1, K, N'), in a buffer that the next call overwrites."""
        return torch.mean(self.u, 1, keepdim=True, out=self._centre)

    def _esgd_epoch(self, orders: torch.Tensor, scales: Scales, gain: float, pull: float, outer_step: float) -> None:
        """Entropy-SGD (Algorithm 1): as many outer steps as there are minibatches in one pass through the patterns."""
        p = self.protocol
        for indices in orders.split(p.L):
            noise = self._draw_noise()
            u, mean = self.u.clone(), self.u.clone()
            for step, index in enumerate(indices):
                kick = None if noise is None else noise[:, step : step + 1]
                self._step(u, index, scales, p.eta_prime * gain, self.u, pull, kick)
                mean.lerp_(u, 1 - p.alpha)
            self.u.mul_(1 - outer_step).add_(mean, alpha=outer_step)
            normalize_rows_(self.u)
            self.distance = squared_distance(self.u, mean, self._scratch)

    def _step(
        self,
        u: torch.Tensor,
        index: torch.Tensor,
        scales: Scales,
        gain: float,
        anchor: torch.Tensor | None,
        pull: float,
        kick: torch.Tensor | None = None,
    ) -> None:
        """``u ← norm(u − η ∇L − pull (u − anchor) + √η' ε kick)`` on one minibatch, in place.

        Shapes: u (R, y, K, N'), index (R y B,), anchor (R, 1, K, N'), kick (R, 1, K, N').  `gain` is what multiplies
        the slopes of `descent_slopes_`: 4 η β / √K, over B where gradients are averaged.
        """
        p = self.protocol
        machines = u.view(-1, p.K, u.shape[-1])
        for part in self._chunks:
            self._descend(part, machines[part], index, scales, 1.0 if anchor is None else 1 - pull, gain)
        if anchor is not None:
            u.add_(anchor, alpha=pull)
        if kick is not None:
            u.add_(kick, alpha=math.sqrt(p.eta_prime) * p.epsilon)
        machines.div_(torch.linalg.vector_norm(machines, dim=-1, keepdim=True, out=self._norm))

    def _descend(
        self, part: slice, u: torch.Tensor, index: torch.Tensor, scales: Scales, keep: float, gain: float
    ) -> None:
        """``u ← keep u + gain Σ_μ slope_μ x_μ`` for the machines `part` of the ensemble, in place."""
        n, batch = len(u), self.protocol.B
        x = self._x[: n * batch]
        # Six times faster than patterns[index], which would also allocate.
        torch.index_select(self.problem.patterns, 0, index[part.start * batch : part.stop * batch], out=x)
        x = x.view(n, batch, -1)
        if self.protocol.dropout:
            self._drop_inputs(x, self._generators[part])
        z = torch.bmm(u, x.transpose(1, 2), out=self._z[:n]).mul_(2 * scales.beta)
        u.baddbmm_(descent_slopes_(z, scales.omega, self._r[:n], self._s[:n]), x, beta=keep, alpha=gain)

    def _drop_inputs(self, x: torch.Tensor, generators: list[torch.Generator]) -> None:
        keep = 1 - self.protocol.dropout
        for inputs, generator in zip(x, generators, strict=True):
            inputs.mul_(torch.empty_like(inputs).bernoulli_(keep, generator=generator))
        x.div_(keep)

    def _draw_noise(self) -> torch.Tensor | None:
        """Normal numbers for the L inner steps of one outer step, zero in the padding."""
        if self._noise is None:
            return None
        for noise, generator in zip(self._noise, self._generators, strict=True):
            noise.normal_(generator=generator)
        self._noise[..., self.problem.n_inputs :] = 0
        return self._noise
