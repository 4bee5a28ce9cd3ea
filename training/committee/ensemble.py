"""All running restarts as one tensor, and one epoch of SGD, rSGD or eSGD on it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from training import randomness
from training.committee.descent import Inner, descent
from training.committee.loss import pattern_loss, stability
from training.committee.problem import Problem
from training.committee.protocols import Protocol, Scheduled


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
        Their weights, rows of norm 1, in the order of `restarts` and the coordinates of `problem`: all there is to be
        saved.
    seed : int

    Notes
    -----
    The bits of a restart do not depend on its neighbours on the CPU; see `training.committee.descent`.
    """

    def __init__(self, protocol: Protocol, problem: Problem, restarts: list[int], u: torch.Tensor, seed: int):
        self.protocol, self.problem, self.seed = protocol, problem, seed
        self.restarts = list(restarts)
        self.u = u.contiguous().clone()
        self.distance = torch.full((len(self.restarts),), math.nan, device=u.device, dtype=u.dtype)
        n_machines = len(self.restarts) * protocol.y
        random = protocol.epsilon or protocol.dropout
        self._generators = [torch.Generator(u.device) for _ in range(n_machines)] if random else []
        self._descent = descent(problem, protocol, len(self.restarts), self._generators)
        # Large arrays are cheaper to keep than to ask for at every epoch.
        self._scratch, self._mean = torch.empty_like(self.u), torch.empty_like(self.u[:, :1])
        self._noise = u.new_empty(len(u), protocol.L, *u.shape[2:]) if protocol.epsilon else None

    @classmethod
    def start(cls, protocol: Protocol, problem: Problem, restarts: list[int], seed: int) -> Ensemble:
        """Ensemble at its random initial weights."""
        drawn = 1 if protocol.start == "equal" else protocol.y
        shape = (drawn, protocol.K, problem.n_inputs)
        u = torch.stack([problem.coordinates(randomness.initial_weights(seed, r, shape)) for r in restarts])
        return cls(protocol, problem, restarts, u.repeat(1, protocol.y // drawn, 1, 1), seed)

    def without(self, stopped: np.ndarray) -> Ensemble:
        """Ensemble of the restarts that are not `stopped` (bool, one entry per restart)."""
        keep = np.flatnonzero(~stopped)
        restarts = [self.restarts[i] for i in keep]
        return Ensemble(self.protocol, self.problem, restarts, self.u[torch.from_numpy(keep)], self.seed)

    def weights(self) -> np.ndarray:
        """Weights of the running restarts, shape (R, y, K, N)."""
        return np.stack([self.problem.weights(u) for u in self.u])

    def centre(self) -> torch.Tensor:
        """Unit-row coordinates of the solutions, shape (R, K, N'); for rSGD the normalised centre of the replicas."""
        return normalize_rows_(self.u.mean(1))

    def solutions(self, which: Iterable[int]) -> list[np.ndarray]:
        """Weights (K, N) of the solutions of these of the running restarts, rows of norm 1."""
        centre = self.centre()
        return [self.problem.weights(centre[i]) for i in which]

    def errors(self) -> np.ndarray:
        """Errors of the solutions on the training set (hard signs, sign(0) = +1), shape (R,), as counts."""
        stabilities = self._descent.preactivations(self.centre())  # σ h
        right = torch.count_nonzero((stabilities > 0) | ((stabilities == 0) & self.problem.positive), dim=1)
        return torch.count_nonzero(2 * right < self.protocol.K, dim=1).cpu().numpy()

    def mean_loss(self, scheduled: Scheduled) -> np.ndarray:
        """Mean loss of the solutions on the training set, shape (R,)."""
        s = stability(self._descent.preactivations(self.centre()).mul_(2 * scheduled.beta))
        return pattern_loss(s.double(), scheduled.omega).mean(1).cpu().numpy()

    def distances(self) -> np.ndarray:
        """Squared distance at the end of the last epoch (see `Protocol`), shape (R,); NaN for SGD."""
        return self.distance.cpu().numpy()

    def run_epoch(self, epoch: int) -> None:
        """Go once through the patterns (eSGD: L times) and update `distance`.

        Raises
        ------
        ValueError
            When weights have left the range of their precision.
        """
        p = self.protocol
        for machine, generator in enumerate(self._generators):
            restart, replica = divmod(machine, p.y)
            generator.manual_seed(randomness.device_seed(self.seed, self.restarts[restart], epoch, replica))
        train = self._esgd_epoch if p.algorithm == "esgd" else self._sgd_epoch
        train(self.orders(epoch), p.scheduled(epoch), **p.attractions(epoch))
        lost = self.u[..., 0].isnan().flatten(1).any(1)  # a row that overflows is NaN from then on
        if lost.any():
            which = ", ".join(str(r) for r, bad in zip(self.restarts, lost.tolist(), strict=True) if bad)
            raise ValueError(
                f"patterns, rates or noise are too large: in epoch {epoch + 1} of {p.name}, weights of restart {which} "
                f"leave the range of {str(self.u.dtype).removeprefix('torch.')}: rescale or lower them"
            )

    def orders(self, epoch: int) -> torch.Tensor:
        """Indices (steps, R, y, B) of the minibatches of every step of the epoch, in rising order."""
        p = self.protocol
        orders = [
            randomness.minibatch_orders(
                self.seed, restart, epoch, y=p.y, passes=p.L, n_patterns=len(self.problem), batch=p.B
            )
            for restart in self.restarts
        ]
        return torch.from_numpy(np.sort(np.stack(orders, axis=1).astype(np.int32))).to(self.u.device)

    def _sgd_epoch(self, orders: torch.Tensor, scheduled: Scheduled, pull: float = 0.0) -> None:
        """SGD, and rSGD (Algorithm 2): replicas attracted by their mean."""
        self._descent.run(self.u, orders, scheduled, pull)
        if self.protocol.algorithm == "rsgd":
            torch.mean(self.u, 1, keepdim=True, out=self._mean)
            self.distance = squared_distance(self.u, self._mean, self._scratch)

    def _esgd_epoch(self, orders: torch.Tensor, scheduled: Scheduled, pull: float, outer_step: float) -> None:
        """Entropy-SGD (Algorithm 1): as many outer steps as there are minibatches in one pass through the patterns."""
        for minibatches in orders.split(self.protocol.L):
            u, mean = self._scratch.copy_(self.u), self._mean.copy_(self.u)
            self._descent.run(u, minibatches, scheduled, pull, Inner(self.u, self._draw_noise(), mean))
            self.u.mul_(1 - outer_step).add_(mean, alpha=outer_step)
            normalize_rows_(self.u)
            self.distance = squared_distance(self.u, mean, self._scratch)

    def _draw_noise(self) -> torch.Tensor | None:
        """Normal numbers for the L inner steps of one outer step, zero in the padding."""
        if self._noise is None:
            return None
        for noise, generator in zip(self._noise, self._generators, strict=True):
            noise.normal_(generator=generator)
        self._noise[..., self.problem.n_inputs :] = 0
        return self._noise
