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
    n_weights: int  # how many numbers of z are sampled, and not 0
    together: int

    def draw(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill a row (n,) with a sample of the prior."""

    def __call__(self, states: Tensor, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Energies (G,) of states (G, n), which may be overwritten; infinite where they exceed the limits (G,)."""


class Ensemble:
    """States z of the measure ``N(0, 1) e^{-β U(z)}``, in C chains with a state at each of T inverse temperatures.

    A sweep is a slice step of every state, and exchanges of neighbouring ones, T rounds of them since they cost no
    energy.  At β = 0 each step is a new sample of the prior.  Elsewhere it is elliptical, and turns all n directions by
    an angle θ that the narrowest of them allows.  Where the mean sin²θ is less than 1/n, steps along a line do more, as
    they sample one direction anew: at such temperatures every other step is one, along the difference of two states of
    the same chain at other such temperatures, so that wide directions are tried more often.  Chains never see each
    other.  Random numbers do not depend on how many states are evaluated together.

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
    turns : ndarray, shape (T,)
        Mean sin²θ of the elliptical steps in the last run.
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
        self.swaps, self.turns = np.empty(0), np.ones(1)
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
        self.turns = np.append(self.turns, self.turns[-1])

    def run(self, betas: NDArray[np.float64], n_sweeps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energies (C, n_sweeps, T) and |z|² at the last temperature (C, n_sweeps)."""
        if len(betas) == 1:
            return self._independent(n_sweeps)
        energies, norms = np.empty((len(self.z), n_sweeps, len(betas))), np.empty((len(self.z), n_sweeps))
        tried, swapped = np.zeros((2, len(betas) - 1))
        turned = np.zeros((2, len(betas)))  # number of elliptical steps, and their sin²θ
        cold = np.flatnonzero(self.turns * self.energy.n_weights < 1)
        for sweep in range(n_sweeps):
            self._step_all(betas, cold[sweep % 2 :: 2], cold[1 - sweep % 2 :: 2], turned)
            self._exchange(np.diff(betas), sweep % 2, tried, swapped)
            energies[:, sweep] = self.u
            norms[:, sweep] = [self._square(chain[-1]) for chain in self.z]
            self.progress()
        self.swaps = np.divide(swapped, tried, out=np.full(len(tried), np.nan), where=tried > 0)
        self.turns = np.divide(turned[1], turned[0], out=self.turns, where=turned[0] > 0)
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

    def _step_all(self, betas: NDArray, moved: NDArray, others: NDArray, turned: NDArray) -> None:
        """Elliptical step of every state but those at temperatures `moved`, which then step along lines of `others`."""
        if len(others) < 2:  # a line needs two states
            moved = moved[:0]
        turning = np.delete(np.arange(len(betas)), moved)
        turned[0, turning] += len(self.z)
        self._step_some(betas, self._states(turning), None, turned[1])
        if len(moved):
            states = self._states(moved)
            first, apart = self.rng.integers([[0], [1]], len(others), (2, len(states)))
            self._step_some(betas, states, others[[first, (first + apart) % len(others)]].T, turned[1])

    def _states(self, places: NDArray) -> NDArray[np.int64]:
        """Chain and temperature of the states at some temperatures, (C len(places), 2)."""
        return np.stack(np.meshgrid(np.arange(len(self.z)), places, indexing="ij"), axis=-1).reshape(-1, 2)

    def _step_some(self, betas: NDArray, states: NDArray, pairs: NDArray | None, sines: NDArray) -> None:
        """Step of some states, on ellipses, or along the difference of a pair of temperatures for each."""
        exponential = self.rng.standard_exponential(len(states))
        uniform = self.rng.random((len(states), _TRIES))
        normal = np.zeros(len(states)) if pairs is None else self.rng.standard_normal(len(states))
        for start in range(0, len(states), self.energy.together):
            rows = slice(start, start + self.energy.together)
            lines = None if pairs is None else (pairs[rows], normal[rows])
            self._step(states[rows], betas, exponential[rows], uniform[rows], lines, sines)

    def _step(
        self,
        states: NDArray,
        betas: NDArray,
        exponential: NDArray,
        uniform: NDArray,
        lines: tuple[NDArray, NDArray] | None,
        sines: NDArray,
    ) -> None:
        """Step of some states at once: those without a place on their ellipses yet try further angles.

        A line is the ellipse of the part of z along its direction e, which has ν₁ e for ν and leaves the rest alone.
        Adds sin²θ of ellipses to `sines` (T,).
        """
        at = betas[states[:, 1]]
        limits = np.full(len(states), math.inf)
        np.divide(exponential, at, out=limits, where=at > 0)
        limits += self.u[tuple(states.T)]
        theta = np.where(at > 0, 2 * math.pi * uniform[:, 0], math.pi / 2)  # there only ν is left of z cos θ + ν sin θ
        low, high = theta - 2 * math.pi, theta.copy()
        if lines is None:
            for row in self.nu[: len(states)]:
                self.energy.draw(row, self.generator)
        else:
            along = self._directions(states, lines[0])

        def factors(rows: NDArray) -> tuple[NDArray, NDArray]:
            """Factors of z and of ν, or of e."""
            cosine, sine = np.cos(theta[rows]), np.sin(theta[rows])
            if lines is None:
                return cosine, sine
            return np.ones(len(rows)), along[rows] * (cosine - 1) + lines[1][rows] * sine

        pending = np.arange(len(states))
        for attempt in range(1, _TRIES + 1):
            of_z, of_nu = factors(pending)
            for i, k in enumerate(pending.tolist()):
                self._point(states[k], k, of_z[i], of_nu[i], out=self.proposals[i])
            energies = self.energy(self.proposals[: len(pending)], limits[pending])
            accepted = energies <= limits[pending]
            for i in np.flatnonzero(accepted).tolist():
                k = pending[i]
                c, t = states[k]
                self._point((c, t), k, of_z[i], of_nu[i], out=self.z[c][t])
                self.u[c, t] = energies[i]
                sines[t] += 0.0 if lines else math.sin(theta[k]) ** 2
            pending = pending[~accepted]
            if not len(pending) or attempt == _TRIES:
                return
            angle = theta[pending]
            low[pending] = np.where(angle < 0, angle, low[pending])
            high[pending] = np.where(angle < 0, high[pending], angle)
            theta[pending] = low[pending] + uniform[pending, attempt] * (high[pending] - low[pending])

    def _directions(self, states: NDArray, pairs: NDArray) -> NDArray[np.float64]:
        """Fill ν of some states with unit vectors e from one state of a pair to the other, and return e·z."""
        along = np.empty(len(states))
        for k, ((c, t), (i, j)) in enumerate(zip(states.tolist(), pairs.tolist(), strict=True)):
            e = torch.sub(self.z[c][i], self.z[c][j], out=self.nu[k])
            e /= e.norm().clamp(min=1e-30)  # of equal states: e = 0, and z stays
            along[k] = e.dot(self.z[c][t]).item()
        return along

    def _point(self, state: Sequence[int], k: int, of_z: float, of_nu: float, out: Tensor) -> None:
        """The point ``of_z z + of_nu ν`` of a state and the k-th ν."""
        c, t = state
        torch.mul(self.z[c][t], of_z, out=out).add_(self.nu[k], alpha=of_nu)

    def _exchange(self, steps: NDArray, first: int, tried: NDArray, swapped: NDArray) -> None:
        """Exchange neighbouring states, `steps` apart in β, even or odd ones by turns, T rounds; counts them."""
        place = np.tile(np.arange(len(steps) + 1), (len(self.z), 1))  # where states come from
        for turn in range(first, first + len(steps) + 1):
            t = np.arange(turn % 2, len(steps), 2)
            with np.errstate(invalid="ignore"):  # ∞ − ∞ at infinite energies: exchanging them changes nothing
                gain = steps[t] * (self.u[:, t + 1] - self.u[:, t])
            accepted = -self.rng.standard_exponential(gain.shape) < gain
            tried[t] += len(self.z)
            swapped[t] += accepted.sum(axis=0)
            c, i = np.nonzero(accepted)
            for values in (self.u, place):
                values[c, t[i]], values[c, t[i] + 1] = values[c, t[i] + 1], values[c, t[i]]
        self.z = [[chain[i] for i in row] for chain, row in zip(self.z, place, strict=True)]

    def _square(self, row: Tensor) -> float:
        """|z|², by a sum in pairs, on memory that is free between steps."""
        return torch.square(row, out=self.proposals[0]).sum().item()
