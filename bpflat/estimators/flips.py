"""Monte Carlo for weights ±1: replica exchange over the cost of an error, by flips of single weights.

The measure is ``Π e^{γ w̃ w}/(2 cosh γ) e^{-β E}``.  A sweep draws every weight anew from the prior, one after the
other, and takes each change by the rule of Metropolis: at β = 0 sweeps are independent samples.  A flip of weight
(k, i) costs one column of the patterns; drawing the same value again costs nothing.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from bpflat.estimators import tempering
from bpflat.estimators.binary import BinaryPoint
from bpflat.estimators.point import Point, point_of_samples
from bpflat.estimators.problem import Problem
from bpflat.parallel import over_processes
from bpflat.randomness import spawn_streams

_LONGEST = 200  # temperatures


@njit(cache=True)
def _sweeps(columns, reference, chance, labels, betas, flipped, sums, votes, energy, energies, norms, rng):
    """Run all temperatures for ``len(energies)`` sweeps, in place.

    columns (N, P) the inputs; reference (K, N); chance p of a flip under the prior; flipped (T, K, N) the states,
    sums (T, K, P) their ``Σ_i x_i w_ki``, votes (T, P) numbers of positive ones, energy (T,) errors.  Fills energies
    (sweeps, T), and norms (sweeps,) with the number of flipped weights at the last temperature over p.
    """
    n_temperatures, n_hidden, n_inputs = flipped.shape
    n_patterns = len(labels)
    for sweep in range(len(energies)):
        for t in range(n_temperatures):
            for k in range(n_hidden):
                for i in range(n_inputs):
                    new = rng.random() < chance
                    if new == flipped[t, k, i]:
                        continue
                    step = -2.0 * reference[k, i] if new else 2.0 * reference[k, i]
                    wrong = 0
                    for p in range(n_patterns):
                        h = sums[t, k, p]
                        count = votes[t, p] + (h + step * columns[i, p] >= 0.0) - (h >= 0.0)
                        wrong += (2 * count > n_hidden) != (labels[p] > 0)
                    rise = wrong - energy[t]
                    if rise > 0 and betas[t] > 0 and rng.random() >= np.exp(-betas[t] * rise):
                        continue
                    for p in range(n_patterns):
                        h = sums[t, k, p]
                        sums[t, k, p] = h + step * columns[i, p]
                        votes[t, p] += (sums[t, k, p] >= 0.0) - (h >= 0.0)
                    flipped[t, k, i] = new
                    energy[t] = wrong
        for t in range(sweep % 2, n_temperatures - 1, 2):
            gain = (betas[t + 1] - betas[t]) * (energy[t + 1] - energy[t])
            if gain >= 0 or rng.random() < np.exp(gain):
                flipped[t], flipped[t + 1] = flipped[t + 1].copy(), flipped[t].copy()
                sums[t], sums[t + 1] = sums[t + 1].copy(), sums[t].copy()
                votes[t], votes[t + 1] = votes[t + 1].copy(), votes[t].copy()
                energy[t], energy[t + 1] = energy[t + 1], energy[t]
        energies[sweep] = energy
        norms[sweep] = np.sum(flipped[n_temperatures - 1]) / chance


class _Sampler:
    """States of one chain of replicas: which weights differ from the reference."""

    def __init__(self, patterns, reference, labels, chance, seed):
        # copied: what joblib maps from a file can only be read, for which numba would compile all again
        self.columns, self.reference = np.array(patterns.T, order="C"), np.array(reference)
        self.labels, self.chance = np.array(labels), chance
        self.rng = np.random.default_rng(seed)
        self.flipped = self.rng.random((1, *reference.shape)) < chance

    def grow(self):
        """Add a replica that starts where the last one is."""
        self.flipped = np.concatenate([self.flipped, self.flipped[-1:]])

    def run(self, betas, n_sweeps):
        """Energies (n_sweeps, T), and flips over p at the last temperature (n_sweeps,)."""
        sums = np.where(self.flipped, -self.reference, self.reference) @ self.columns  # anew: sums of reals drift
        votes = np.count_nonzero(sums >= 0, axis=1)
        energy = np.count_nonzero((2 * votes > sums.shape[1]) != (self.labels > 0), axis=1).astype(np.float64)
        energies, norms = np.empty((n_sweeps, len(betas))), np.empty(n_sweeps)
        fixed = self.columns, self.reference, self.chance, self.labels, betas
        _sweeps(*fixed, self.flipped, sums, votes, energy, energies, norms, self.rng)
        return energies, norms


def _chain(sampler, betas, n_sweeps):
    """Energies (n_sweeps, T), and flips over p (n_sweeps,), of one chain."""
    tempering.anneal(sampler, betas, n_sweeps)
    return sampler.run(betas, n_sweeps)


def solve(
    problem: Problem,
    delta: float,
    start: Point | None = None,
    *,
    n_samples: int = 4000,
    n_chains: int = 4,
    seed: int | np.random.SeedSequence | None = None,
    n_jobs: int = 1,
) -> Point:
    """Estimate log Z at odds Δ of a flip, a `BinaryPoint`; options and convergence as in `monte_carlo.solve`."""
    chance, allowed = float(delta / (1 + delta)), int(problem.n_errors)
    scout, *samplers = (
        _Sampler(problem.inputs.patterns, problem.weights, problem.labels, chance, child)
        for child in spawn_streams(seed, n_chains + 1)
    )
    n_scout = max(100, n_samples // 10)
    betas, reached = tempering.ladder(scout, allowed, problem.beta, n_scout, _LONGEST, independent=True)
    chains = over_processes(_chain, ((sampler, betas, n_samples) for sampler in samplers), n_jobs)
    energies, norms = (np.array(x) for x in zip(*chains, strict=True))  # (chains, samples, T), (chains, samples)
    point, _ = point_of_samples(
        energies,
        norms,
        betas,
        allowed,
        problem.beta,
        delta=float(delta),
        n_weights=int(problem.n_weights),
        n_sampled=int(problem.n_weights),
        reached=reached,
        rhat=float(tempering.rhat(energies).max()),
        kind=BinaryPoint,
    )
    return point
