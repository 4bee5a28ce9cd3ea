"""States of the noise at all inverse temperatures of all chains: elliptical slice sampling with replica exchange."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpflat.randomness import stream

_TRIES = 40
"""Angles of one ellipse; a state that finds no place by then stays, which keeps its measure exactly."""


class Energy(Protocol):
    """What an ensemble samples: an energy of standard normal z, and how it is evaluated."""

    w: Tensor  # (n,), for the type and the device of z
    together: int

    def draw(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill a row (n,) with a sample of the prior."""

    def __call__(self, states: Tensor, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Energies (G,) of states (G, n), which may be overwritten; infinite where they exceed the limits (G,)."""


class Ensemble:
    """States z of the measure ``N(0, 1) e^{-β U(z)}``, in C chains with a state at each of T inverse temperatures.

    A sweep is an elliptical slice step of every state, and an exchange of neighbouring ones.  At β = 0 each step is a
    new sample of the prior.  Random numbers do not depend on how many states are evaluated together.

    Memory: ``C·T + 2·together`` rows of n numbers.

    Parameters
    ----------
    energy : Energy
    n_chains : int
    seed : SeedSequence
    progress : callable, optional
        Called after each sweep.

    Attributes
    ----------
    swaps : ndarray, shape (T − 1,)
        Fraction of accepted exchanges in the last run; NaN where there was none.
    """

    def __init__(
        self,
        energy: Energy,
        n_chains: int,
        seed: np.random.SeedSequence,
        progress: Callable[[], object] = lambda: None,
    ):
        self.energy, self.progress = energy, progress
        self.rng = np.random.default_rng(stream(seed, 0))
        self.generator = torch.Generator(energy.w.device)
        self.generator.manual_seed(int(stream(seed, 1).generate_state(1, np.uint64)[0] >> np.uint64(1)))
        self.z = [[torch.zeros_like(energy.w)] for _ in range(n_chains)]
        self.u = np.zeros((n_chains, 1))
        self.swaps = np.empty(0)
        self.nu, self.proposals = energy.w.new_empty((2, energy.together, len(energy.w)))

    def samples(self, n: int) -> Iterator[Tensor]:
        """Samples of the prior (n,), each valid until the next one."""
        for _ in range(n):
            self.energy.draw(self.nu[0], self.generator)
            yield self.nu[0]

    def grow(self) -> None:
        """Add a temperature whose states start where the last ones are."""
        for chain in self.z:
            chain.append(chain[-1].clone())
        self.u = np.concatenate([self.u, self.u[:, -1:]], axis=1)

    def run(self, betas: NDArray[np.float64], n_sweeps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energies (C, n_sweeps, T) and |z|² at the last temperature (C, n_sweeps)."""
        if len(betas) == 1:
            return self._independent(n_sweeps)
        energies, norms = np.empty((len(self.z), n_sweeps, len(betas))), np.empty((len(self.z), n_sweeps))
        tried, swapped = np.zeros((2, len(betas) - 1))
        for sweep in range(n_sweeps):
            self._step_all(betas)
            for t in range(sweep % 2, len(betas) - 1, 2):
                swapped[t] += self._exchange(t, betas[t + 1] - betas[t])
                tried[t] += len(self.z)
            energies[:, sweep] = self.u
            norms[:, sweep] = [self._square(chain[-1]) for chain in self.z]
            self.progress()
        self.swaps = np.divide(swapped, tried, out=np.full(len(tried), np.nan), where=tried > 0)
        return energies, norms

    def _independent(self, n_sweeps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Samples of the prior, the β = 0 of `run`, as many together as there is room for."""
        n_chains, most = len(self.z), self.energy.together
        energies, norms = np.empty(n_sweeps * n_chains), np.empty(n_sweeps * n_chains)
        for start in range(0, len(energies), most):
            rows = range(start, min(start + most, len(energies)))
            for k, i in enumerate(rows):
                self.energy.draw(self.nu[k], self.generator)
                norms[i] = self._square(self.nu[k])
                self.z[i % n_chains][0].copy_(self.nu[k])
                if i % n_chains == n_chains - 1:
                    self.progress()
            energies[start : rows.stop] = self.energy(self.nu[: len(rows)], np.full(len(rows), math.inf))
        self.u[:, 0] = energies[-n_chains:]
        shape = (n_sweeps, n_chains)
        return energies.reshape(shape).T[..., None], norms.reshape(shape).T

    def _step_all(self, betas: NDArray[np.float64]) -> None:
        """Elliptical slice step of every state."""
        states = [(c, t) for c in range(len(self.z)) for t in range(len(betas))]
        exponential = self.rng.standard_exponential(len(states))
        uniform = self.rng.random((len(states), _TRIES))
        for start in range(0, len(states), self.energy.together):
            rows = slice(start, start + self.energy.together)
            self._step(states[rows], betas, exponential[rows], uniform[rows])

    def _step(self, states: Sequence[tuple[int, int]], betas: NDArray, exponential: NDArray, uniform: NDArray) -> None:
        """Step of some states at once: those without a place on their ellipses yet try further angles."""
        at = betas[[t for _, t in states]]
        limits = np.full(len(states), math.inf)
        np.divide(exponential, at, out=limits, where=at > 0)
        limits += self.u[tuple(np.transpose(states))]
        theta = np.where(at > 0, 2 * math.pi * uniform[:, 0], math.pi / 2)  # there only ν is left of z cos θ + ν sin θ
        low, high = theta - 2 * math.pi, theta.copy()
        for k in range(len(states)):
            self.energy.draw(self.nu[k], self.generator)
        pending = np.arange(len(states))
        for attempt in range(1, _TRIES + 1):
            for i, k in enumerate(pending.tolist()):
                self._point(states[k], k, theta[k], out=self.proposals[i])
            energies = self.energy(self.proposals[: len(pending)], limits[pending])
            accepted = energies <= limits[pending]
            for k, energy in zip(pending[accepted].tolist(), energies[accepted], strict=True):
                c, t = states[k]
                self._point((c, t), k, theta[k], out=self.z[c][t])
                self.u[c, t] = energy
            pending = pending[~accepted]
            if not len(pending) or attempt == _TRIES:
                return
            angle = theta[pending]
            low[pending] = np.where(angle < 0, angle, low[pending])
            high[pending] = np.where(angle < 0, high[pending], angle)
            theta[pending] = low[pending] + uniform[pending, attempt] * (high[pending] - low[pending])

    def _point(self, state: tuple[int, int], k: int, theta: float, out: Tensor) -> None:
        """The point ``z cos θ + ν sin θ`` of the ellipse of a state and the k-th ν."""
        c, t = state
        torch.mul(self.z[c][t], math.cos(theta), out=out).add_(self.nu[k], alpha=math.sin(theta))

    def _exchange(self, t: int, step: float) -> int:
        """Exchange of the states at temperatures t and t + 1, a step in β apart, in each chain; counts the accepted."""
        with np.errstate(invalid="ignore"):  # ∞ − ∞ at infinite energies: exchanging them changes nothing
            gain = step * (self.u[:, t + 1] - self.u[:, t])
        accepted = np.flatnonzero(-self.rng.standard_exponential(len(self.z)) < gain)
        for c in accepted:
            self.z[c][t], self.z[c][t + 1] = self.z[c][t + 1], self.z[c][t]
            self.u[c, [t, t + 1]] = self.u[c, [t + 1, t]]
        return len(accepted)

    def _square(self, row: Tensor) -> float:
        """|z|², by a sum in pairs, on memory that is free between steps."""
        return torch.square(row, out=self.proposals[0]).sum().item()
