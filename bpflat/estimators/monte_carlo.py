"""Monte Carlo: log Z(w, Δ) by elliptical slice sampling along a ladder of inverse temperatures.

The measure is ``N(w, Δ) e^{-β E}`` with E the number of training errors, or the sum of all energies where the output
node weighs patterns (then the ladder ends at β = 1).  It depends on the weights through the pre-activations
``h = s⁰ + √Δ L z`` only, with ``C = L Lᵀ`` and z standard normal: the chains live on z (K, r), r the rank of C, and the
directions of weight space that no pattern sees are integrated exactly.  Where the prior has scales, C and L are those
of each hidden unit.  An elliptical slice step costs one product L ν; every point of its ellipse is then nearly free.
Replicas at neighbouring β exchange their states, and the stepping stones
``log Z(β_{j+1})/Z(β_j) = log ⟨e^{-(β_{j+1} - β_j) E}⟩_j`` give log Z, without an integral over β to discretise.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload
from numpy.typing import NDArray

from bpflat.estimators import posterior, tempering
from bpflat.estimators.point import Point, point_of_samples
from bpflat.estimators.posterior import Posterior, Question, Sums, View
from bpflat.estimators.problem import Problem
from bpflat.estimators.tables import OutputNode, TableNode
from bpflat.parallel import over_processes
from bpflat.randomness import spawn_streams

_LONGEST = 200  # temperatures
_EVERY = 10  # sweeps between two states of a chain that vote
_FORBIDDEN = 1e6  # energy of a forbidden pattern where others are weighed: a ladder leads there, as not to infinity


class _Table(NamedTuple):
    """Costs of patterns by the signs of their pre-activations.

    ``cost[row[p], place]``, (2, S), with the steps (K,) of all positive units of pattern p added to its place.
    """

    steps: NDArray[np.int32]
    cost: NDArray[np.float64]
    row: NDArray[np.int64]


class _Costs(NamedTuple):
    """Costs by a node's own function, where no table holds them."""

    node: OutputNode
    labels: NDArray[np.float64]


def _finite(energies: NDArray, is_hard: bool) -> NDArray[np.float64]:
    """1 for each error, where errors are counted; else energies, with a high price for what is forbidden."""
    return np.where(np.isinf(energies), 1.0 if is_hard else _FORBIDDEN, energies)


def _energy(offset, a, b, cosine, sine, costs, places):
    """Total cost of the pre-activations ``offset + a cos θ + b sin θ``, all of shape (K, P): compiled for a table."""
    energies = costs.node.energy(offset + a * cosine + b * sine, costs.labels)
    return float(np.sum(_finite(energies, costs.node.is_hard)))


@overload(_energy)
def _compiled_energy(offset, a, b, cosine, sine, costs, places):
    """`_energy` by a table, within compiled code; places (P,) is room to work."""

    def energy(offset, a, b, cosine, sine, costs, places):
        n_hidden, n_patterns = a.shape
        places[:] = 0
        for k in range(n_hidden):
            step = costs.steps[k]
            for p in range(n_patterns):
                places[p] += step if offset[k, p] + a[k, p] * cosine + b[k, p] * sine >= 0.0 else 0
        total = 0.0
        for p in range(n_patterns):
            total += costs.cost[costs.row[p], places[p]]
        return total

    return energy


@njit(cache=True)
def _total(offset, a, costs):
    """`_energy` of ``offset + a``."""
    return _energy(offset, a, a, 1.0, 0.0, costs, np.empty(offset.shape[1], np.int32))


@njit(cache=True)
def _project(z, factor):
    """``√Δ z Lᵀ`` (K, P) of z (K, r), from √Δ Lᵀ of all units (r, P) or of each (K, r, P)."""
    if factor.ndim == 2:
        return np.dot(z, factor)
    projected = np.empty((len(z), factor.shape[-1]))
    for k in range(len(z)):
        projected[k] = np.dot(z[k], factor[k])
    return projected


@njit(cache=True)
def _sweeps(offset, factor, costs, betas, z, a, energy, energies, norms, rng):
    """Run all temperatures for ``len(energies)`` sweeps, in place.

    offset (K, P); factor ``√Δ Lᵀ``, as in `_project`; z (T, K, r) the states, a (T, K, P) their ``√Δ z Lᵀ``, energy
    (T,) their costs.
    Fills energies (sweeps, T) and norms (sweeps,), the |z|² at the last temperature.
    """
    n_temperatures, n_hidden, rank = z.shape
    places = np.empty(offset.shape[1], np.int32)
    for sweep in range(len(energies)):
        for t in range(n_temperatures):
            nu = rng.standard_normal((n_hidden, rank))
            b = _project(nu, factor)
            allowed = energy[t] + (rng.standard_exponential() / betas[t] if betas[t] > 0 else math.inf)
            theta = rng.random() * 2 * math.pi
            low, high = theta - 2 * math.pi, theta
            while True:
                cosine, sine = math.cos(theta), math.sin(theta)
                cost = _energy(offset, a[t], b, cosine, sine, costs, places)
                if cost <= allowed:
                    break
                if theta < 0:
                    low = theta
                else:
                    high = theta
                theta = low + rng.random() * (high - low)
            energy[t] = cost
            z[t] = z[t] * cosine + nu * sine
            a[t] = a[t] * cosine + b * sine
        for t in range(sweep % 2, n_temperatures - 1, 2):
            gain = (betas[t + 1] - betas[t]) * (energy[t + 1] - energy[t])
            if gain >= 0 or rng.random() < math.exp(gain):
                z[t], z[t + 1] = z[t + 1].copy(), z[t].copy()
                a[t], a[t + 1] = a[t + 1].copy(), a[t].copy()
                energy[t], energy[t + 1] = energy[t + 1], energy[t]
        energies[sweep] = energy
        norms[sweep] = np.sum(z[n_temperatures - 1] ** 2)


class _Sampler:
    """States of one chain of replicas and what its sweeps need: pre-activations (K, P), ``√Δ Lᵀ`` and costs."""

    def __init__(self, hidden, factor, costs, seed):
        # copied: what joblib maps from a file can only be read, for which numba would compile all again
        self.offset, self.factor = np.array(hidden), np.array(factor)
        is_table = isinstance(costs, _Table)
        self.costs = _Table(*map(np.array, costs)) if is_table else costs
        self.sweeps = _sweeps if is_table else _sweeps.py_func
        self.rng = np.random.default_rng(seed)
        self.z = self.rng.standard_normal((1, len(hidden), factor.shape[-2]))
        self.a = _project(self.z[0], self.factor)[None]
        total = _total if is_table else _total.py_func
        self.energy = np.array([total(self.offset, self.a[0], self.costs)])

    def grow(self):
        """Add a replica that starts where the last one is."""
        for name in ("z", "a", "energy"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, old[-1:]]))

    def run(self, betas, n_sweeps):
        """Energies (n_sweeps, T) and |z|² at the last temperature (n_sweeps,)."""
        energies, norms = np.empty((n_sweeps, len(betas))), np.empty(n_sweeps)
        states = (self.z, self.a, self.energy)
        self.sweeps(self.offset, self.factor, self.costs, betas, *states, energies, norms, self.rng)
        return energies, norms


def _chain(hidden, factor, costs, betas, n_sweeps, seed, view=None):
    """Energies (n_sweeps, T) and |z|² (n_sweeps,) of one chain, after annealing along the ladder and a burn-in.

    And sums of what a view shows, if there is one, every few sweeps: an even number, as neighbours exchange by turns.
    """
    sampler = _Sampler(hidden, factor, costs, seed)
    tempering.anneal(sampler, betas, n_sweeps)
    if view is None:
        return *sampler.run(betas, n_sweeps), None
    runs, sums = [], None
    for start in range(0, n_sweeps, _EVERY):
        runs.append(sampler.run(betas, min(_EVERY, n_sweeps - start)))
        seen = view.at(sampler.z[-1], sampler.energy[-1], betas[-1])
        sums = seen if sums is None else Sums(*map(np.add, sums, seen))
    return *map(np.concatenate, zip(*runs, strict=True)), sums


def solve(
    problem: Problem,
    delta: float,
    start: Point | None = None,
    *,
    n_samples: int = 4000,
    n_chains: int = 4,
    seed: int | np.random.SeedSequence | None = None,
    n_jobs: int = 1,
    question: Question | None = None,
) -> Point:
    """Estimate log Z at one Δ, with a standard error: of the states with no more than E₀ errors, or at a cost β.

    Where the output node weighs patterns, all states count by their factors.

    Parameters
    ----------
    problem : Problem
        One reference.
    delta : float
        Prior variance Δ > 0.
    start : Point, optional
        Not used: chains begin at samples of the prior.
    n_samples : int
        Sweeps of each chain over its ladder, after the burn-in.
    n_chains : int
        Independent chains, each with a whole ladder of replicas; at least 2.
    seed : int or SeedSequence, optional
    n_jobs : int
        Processes over chains.
    question : Question, optional
        What is asked about the local posterior; nothing else depends on it.

    Returns
    -------
    Point
        ``std_error`` is that of Φ, autocorrelation included; ``residual`` is the largest R-hat - 1, over the ladder, of
        the numbers of errors.  Where all states are allowed, log Z is 0 and the standard error is one event in all
        samples.  Not ``converged``: a large R-hat, and a ladder that ends before the given β or the allowed states.

    References
    ----------
    I. Murray, R. P. Adams and D. J. C. MacKay, Elliptical slice sampling, AISTATS 2010; A. Gelman and D. B. Rubin,
    Statistical Science 7, 457 (1992); C. J. Geyer, Statistical Science 7, 473 (1992), Section 3.3.
    """
    run = _run(problem, delta, n_samples, n_chains, seed, n_jobs, question)
    point, _ = point_of_samples(
        run.energies,
        run.norms,
        run.betas,
        int(problem.n_errors),
        _last_beta(problem),
        charged=problem.node.is_hard,
        delta=float(delta),
        n_weights=int(problem.n_weights),
        n_sampled=run.n_seen,
        reached=run.reached,
        rhat=float(tempering.rhat(run.energies).max()),
    )
    if question is None:
        return point
    told = run.posterior if point.converged else posterior.unknown(problem.weights, question, n_chains)
    return replace(point, posterior=told)


def cumulants(
    problem: Problem,
    delta: float,
    costs: NDArray[np.float64],
    *,
    n_samples: int = 4000,
    n_chains: int = 4,
    seed: int | np.random.SeedSequence | None = None,
    n_jobs: int = 1,
) -> NDArray[np.float64]:
    """``log ⟨e^{-βE}⟩``, its standard error and ⟨E⟩_β, shape (3, B), at costs β that rise; as `solve` otherwise.

    All are read off one ladder up to the last cost: from the temperature below, whose states are weighed anew.  NaN
    where the ladder, as far as a cost needs it, did not converge.
    """
    run = _run(problem.at_cost(float(costs[-1])), delta, n_samples, n_chains, seed, n_jobs)
    rhats = tempering.rhat(run.energies)
    log_mean_exp, error, mean_errors, _ = tempering.cumulants(run.energies, run.betas, costs, rhats, reach=0.0)
    error = np.maximum(error, -np.expm1(-costs) / run.norms.size)
    return np.where(costs <= run.betas[-1], [log_mean_exp, error, mean_errors], np.nan)


class _Run(NamedTuple):
    """Inverse temperatures (T,), energies (chains, samples, T) at them, |z|² (chains, samples) at the last.

    Whether the ladder reaches as far as it should; how many numbers z has; the local posterior, if it was asked for.
    """

    betas: NDArray[np.float64]
    energies: NDArray[np.float64]
    norms: NDArray[np.float64]
    reached: bool
    n_seen: int
    posterior: Posterior | None


def _run(problem: Problem, delta: float, n_samples: int, n_chains: int, seed, n_jobs: int, question=None) -> _Run:
    """Make a ladder, and run chains on it."""
    hidden, sizes, costs = _seen(problem)
    factors = [_factor(gram / np.outer(size, size), delta) for gram, size in zip(problem.grams, sizes, strict=True)]
    rank = max(map(len, factors))
    factor = np.array([np.pad(each, ((0, rank - len(each)), (0, 0))) for each in factors])
    view = None if question is None else View.of(problem, delta, factor, sizes, _last_beta(problem), question)
    factor = factor if len(factor) > 1 else factor[0]
    seeds = spawn_streams(seed, n_chains + 1)
    scout = _Sampler(hidden, factor, costs, seeds[-1])
    last = _last_beta(problem)
    betas, reached = tempering.ladder(scout, int(problem.n_errors), last, max(100, n_samples // 10), _LONGEST)
    # Processes, not threads: a BLAS that itself starts threads for every small product would make them wait.
    calls = ((hidden, factor, costs, betas, n_samples, s, view) for s in seeds[:-1])
    energies, norms, sums = zip(*over_processes(_chain, calls, n_jobs), strict=True)
    told = None if view is None else posterior.of_samples(view, Sums(*map(np.array, zip(*sums, strict=True))), question)
    # energies (chains, samples, T), norms (chains, samples)
    return _Run(betas, np.array(energies), np.array(norms), reached, len(hidden) * rank, told)


def _last_beta(problem: Problem) -> float | None:
    """β at the end of the ladder; None where it ends at the states that are allowed."""
    return problem.beta if problem.node.is_hard else 1.0


def _seen(problem: Problem) -> tuple[NDArray[np.float64], NDArray[np.float64], _Table | _Costs]:
    """Pre-activations (K, P), in units of the sizes (1 or K, P) of patterns as a unit sees them, and what they cost."""
    node, labels = problem.node, problem.labels
    sizes = np.sqrt(np.diagonal(problem.grams, axis1=-2, axis2=-1))
    if not isinstance(node, TableNode):
        return problem.hidden, np.ones_like(sizes), _Costs(node, labels)
    # the signs of h - σκ are all that counts: in these units small patterns count as much as others
    sizes = np.where(sizes > 0, sizes, 1.0)
    plus, minus = _finite(node.energies, node.is_hard)
    cost = np.array([plus, minus[::-1]])  # a positive unit disagrees with the label -1
    table = _Table(node.steps.astype(np.int32), cost, np.where(labels > 0, 0, 1))
    return (problem.hidden - node.margin * labels) / sizes, sizes, table


def _factor(gram: NDArray, delta: float) -> NDArray[np.float64]:
    """``√Δ Lᵀ`` (r, P) with C = L Lᵀ."""
    values, vectors = np.linalg.eigh(gram)
    seen = values > 1e-10 * values[-1]
    return (vectors[:, seen] * np.sqrt(delta * values[seen])).T
