"""Monte Carlo: log Z(w, Δ) by elliptical slice sampling along a ladder of inverse temperatures.

The measure is ``N(w, Δ) e^{-β E}`` with E the number of training errors, which depends on the weights through the
pre-activations ``h = s⁰ + √Δ L z`` only, with ``C = L Lᵀ`` and z standard normal: the chains live on z (K, r), r the
rank of C, and the directions of weight space that no pattern sees are integrated exactly.  An elliptical slice step
costs one product L ν; every point of its ellipse is then nearly free.  Replicas at neighbouring β exchange their
states, and the stepping stones ``log Z(β_{j+1})/Z(β_j) = log ⟨e^{-(β_{j+1} - β_j) E}⟩_j`` give log Z, without an
integral over β to discretise.
"""

from __future__ import annotations

import math

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import brentq

from bpflat.arguments import spawn_streams
from bpflat.point import Point

_STEP = 0.8  # of the ladder: (β_{j+1} - β_j) × the standard deviation of E at β_j
_ENOUGH = 0.3  # a ladder without errors ends where this fraction of states makes none
_BATCHES = 10  # of each chain, for the jackknife
_RHAT = 1.05
_LONGEST = 200
_FORBIDDEN = 30.0  # a cost of one more error, beyond which nothing changes: e^-30


@njit(cache=True)
def _errors(offset, a, b, cosine, sine, labels, votes):
    """Number of wrong votes of the pre-activations ``offset + a cos θ + b sin θ``, all of shape (K, P)."""
    n_hidden, n_patterns = a.shape
    votes[:] = 0
    for k in range(n_hidden):
        for p in range(n_patterns):
            votes[p] += offset[k, p] + a[k, p] * cosine + b[k, p] * sine >= 0.0
    wrong = 0
    for p in range(n_patterns):
        wrong += (2 * votes[p] > n_hidden) != (labels[p] > 0)
    return wrong


@njit(cache=True)
def _sweeps(offset, factor, labels, betas, z, a, energy, energies, norms, rng):
    """Run all temperatures for ``len(energies)`` sweeps, in place.

    offset (K, P); factor ``√Δ Lᵀ`` (r, P); z (T, K, r) the states, a (T, K, P) their ``√Δ z Lᵀ``, energy (T,) their
    errors.
    Fills energies (sweeps, T) and norms (sweeps,), the |z|² at the last temperature.
    """
    n_temperatures, n_hidden, rank = z.shape
    votes = np.empty(len(labels), np.int32)
    for sweep in range(len(energies)):
        for t in range(n_temperatures):
            nu = rng.standard_normal((n_hidden, rank))
            b = np.dot(nu, factor)
            allowed = energy[t] + (rng.standard_exponential() / betas[t] if betas[t] > 0 else math.inf)
            theta = rng.random() * 2 * math.pi
            low, high = theta - 2 * math.pi, theta
            while True:
                cosine, sine = math.cos(theta), math.sin(theta)
                wrong = _errors(offset, a[t], b, cosine, sine, labels, votes)
                if wrong <= allowed:
                    break
                if theta < 0:
                    low = theta
                else:
                    high = theta
                theta = low + rng.random() * (high - low)
            energy[t] = wrong
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
    """States of one chain of replicas and the arrays that its sweeps need."""

    def __init__(self, hidden, factor, labels, seed):
        self.offset, self.factor = np.ascontiguousarray(hidden.T), np.ascontiguousarray(factor.T)
        self.labels = labels
        self.rng = np.random.default_rng(seed)
        self.z = self.rng.standard_normal((1, hidden.shape[1], factor.shape[1]))
        self.a = self.z @ self.factor
        votes = np.empty(len(labels), np.int32)
        self.energy = np.array([_errors(self.offset, self.a[0], self.a[0], 1.0, 0.0, labels, votes)], dtype=np.float64)

    def grow(self):
        """Add a replica that starts where the last one is."""
        for name in ("z", "a", "energy"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, old[-1:]]))

    def run(self, betas, n_sweeps):
        """Energies (n_sweeps, T) and |z|² at the last temperature (n_sweeps,)."""
        energies, norms = np.empty((n_sweeps, len(betas))), np.empty(n_sweeps)
        _sweeps(self.offset, self.factor, self.labels, betas, self.z, self.a, self.energy, energies, norms, self.rng)
        return energies, norms


def _ladder(sampler: _Sampler, n_errors: int, beta: float | None, n_sweeps: int) -> NDArray[np.float64]:
    """Inverse temperatures from 0 to where the wanted states are common, by a short run at each; grows the sampler."""
    betas = [0.0]
    while len(betas) < _LONGEST:
        energies = sampler.run(np.array(betas), n_sweeps)[0][n_sweeps // 4 :, -1]
        if beta is None and (np.mean(energies <= 0) >= _ENOUGH if n_errors == 0 else energies.mean() <= n_errors):
            break
        if beta is not None and betas[-1] >= beta:
            break
        step = _STEP / max(energies.std(), 0.5)
        betas.append(betas[-1] + step if beta is None else min(betas[-1] + step, beta))
        sampler.grow()
    return np.array(betas)


def _chain(hidden, factor, labels, betas, n_sweeps, seed):
    """Energies (n_sweeps, T) and |z|² (n_sweeps,) of one chain, after annealing along the ladder and a burn-in."""
    sampler = _Sampler(hidden, factor, labels, seed)
    for last in range(1, len(betas) + 1):
        sampler.run(betas[:last], max(20, n_sweeps // 100))
        if last < len(betas):
            sampler.grow()
    sampler.run(betas, n_sweeps // 5)
    return sampler.run(betas, n_sweeps)


def _balancing_shift(last, n_errors, beta):
    """Change of β at which the last states (samples,), reweighted, make n_errors errors on average; NaN if none."""
    if last.min() >= n_errors:  # fewer errors are out of reach: one more is forbidden
        return _FORBIDDEN if last.min() == n_errors else math.nan

    def surplus(shift):
        w = np.exp(-shift * (last - last.min()))
        return np.sum(w * last) / w.sum() - n_errors

    # Without a balance in reach of the last states there is no answer: NaN, hence not converged.
    return brentq(surplus, -beta, 5.0) if surplus(-beta) * surplus(5.0) < 0 else math.nan


def _estimate(energies, norms, betas, n_errors, beta):
    """(log Z, β, mean number of errors, mean |z|²) from energies (samples, T) and |z|² (samples,)."""
    log_z = sum(
        math.log(np.mean(np.exp(-step * column))) for step, column in zip(np.diff(betas), energies.T[:-1], strict=True)
    )
    last = energies[:, -1]
    if beta is not None:
        weight, log_last, beta_end = np.ones(len(last)), 0.0, beta
    elif n_errors == 0:
        weight, beta_end = (last == 0).astype(float), math.inf
        log_last = math.log(weight.mean()) if weight.any() else -math.inf
    elif len(betas) == 1 and last.mean() <= n_errors:  # the prior alone makes no more errors
        return 0.0, 0.0, float(last.mean()), float(norms.mean())
    else:
        shift = _balancing_shift(last, n_errors, betas[-1])
        weight, beta_end = np.exp(-shift * last), betas[-1] + shift
        log_last = math.log(weight.mean())
    total = weight.sum()
    return (
        log_z + log_last,
        beta_end,
        float(np.sum(weight * last) / total) if total else math.nan,
        float(np.sum(weight * norms) / total) if total else math.nan,
    )


def sample_log_z(
    hidden: NDArray[np.float64],
    gram: NDArray[np.float64],
    labels: NDArray[np.float64],
    n_inputs: int,
    delta: float,
    *,
    n_errors: int = 0,
    beta: float | None = None,
    n_samples: int = 4000,
    n_chains: int = 4,
    seed: int | np.random.SeedSequence | None = None,
    n_jobs: int = 1,
) -> Point:
    """Estimate log Z at one Δ, with a standard error.

    Parameters
    ----------
    hidden : ndarray, shape (P, K)
        Pre-activations of the reference, ``X wᵀ/√N``.
    gram : ndarray, shape (P, P)
        ``C = X Xᵀ/N``; any real inputs.
    labels : ndarray, shape (P,)
        ±1.
    n_inputs : int
        N.
    delta : float
        Prior variance Δ > 0.
    n_errors : int
        Training errors that the reference makes and solutions may make: β is balanced as in `bpflat.bp.errors`.
    beta : float, optional
        Cost of an error, instead.
    n_samples : int
        Sweeps of each chain over its ladder, after the burn-in.
    n_chains : int
        Independent chains, each with a whole ladder of replicas; at least 2.
    seed : int or SeedSequence, optional
    n_jobs : int
        Processes over chains.

    Returns
    -------
    Point
        ``std_error`` is a jackknife over batches of the chains, each far longer than the autocorrelation where the
        point is ``converged``; ``residual`` is the largest R-hat - 1, over the ladder, of the numbers of errors.  Where
        no state made an error, log Z is 0 and the standard error is one event in all samples.

    References
    ----------
    I. Murray, R. P. Adams and D. J. C. MacKay, Elliptical slice sampling, AISTATS 2010; A. Gelman and D. B. Rubin,
    Statistical Science 7, 457 (1992).
    """
    values, vectors = np.linalg.eigh(gram)
    seen = values > 1e-10 * values[-1]
    factor = vectors[:, seen] * np.sqrt(delta * values[seen])
    seeds = spawn_streams(seed, n_chains + 1)
    betas = _ladder(_Sampler(hidden, factor, labels, seeds[-1]), n_errors, beta, max(100, n_samples // 10))
    # Processes, not threads: a BLAS that itself starts threads for every small product would make them wait.
    with parallel_config("loky", inner_max_num_threads=1):
        chains = Parallel(n_jobs=n_jobs)(
            delayed(_chain)(hidden, factor, labels, betas, n_samples, s) for s in seeds[:-1]
        )
    energies, norms = (np.array(x) for x in zip(*chains, strict=True))  # (chains, samples, T), (chains, samples)
    n_weights = n_inputs * hidden.shape[1]
    rank = np.count_nonzero(seen) * hidden.shape[1]

    def point(energies, norms, **status):
        log_z, beta_end, errors, norm = _estimate(
            energies.reshape(-1, len(betas)), norms.ravel(), betas, n_errors, beta
        )
        excess = (norm - rank) / n_weights
        values = {"log_z": log_z / n_weights, "excess": excess, "beta": beta_end, "errors": errors / n_weights}
        return Point(delta=float(delta), n_iter=energies[..., 0].size, messages=(), **values, **status)

    length = n_samples // _BATCHES
    batches = [(c, slice(i * length, (i + 1) * length)) for c in range(n_chains) for i in range(_BATCHES)]
    used = energies[:, : length * _BATCHES], norms[:, : length * _BATCHES]
    left_out = []
    for chain, rows in batches:
        keep = np.ones(used[1].shape, dtype=bool)
        keep[chain, rows] = False
        left_out.append(point(used[0][keep], used[1][keep], converged=True, residual=0.0).phi)
    error = math.sqrt((len(batches) - 1) * np.var(left_out))
    rhat = _largest_rhat(energies)
    error = max(error, 1.0 / (energies[..., 0].size * n_weights))
    return point(
        energies, norms, converged=bool(rhat < _RHAT and np.isfinite(error)), residual=rhat - 1, std_error=error
    )


def _largest_rhat(energies: NDArray) -> float:
    """Largest split R-hat over the temperatures of energies (chains, samples, T)."""
    half = energies.shape[1] // 2
    halves = np.concatenate([energies[:, :half], energies[:, half : 2 * half]])
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    return float(np.sqrt(1 + np.max(between / np.maximum(within, 1e-12), initial=0)))
