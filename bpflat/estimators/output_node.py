"""Patterns that may be wrong: the output nodes of a reference that makes E₀ training errors itself.

Eq. 3 counts every w' with ``E(w') ≤ E₀``.  Given its cavities, pattern μ is right with the probability Z_μ of its
output node, independently of the others, so that the number of errors is a Poisson-binomial sum.  One factor joins all
patterns, ``Z = P(E ≤ E₀)``.  It is linear in every Z_μ, and with the pivotal probability of a pattern,

    π_μ = P(E₀ others are wrong) Z_μ / Z        g → π g        Γ → π Γ - π (1 - π) g²

its derivatives follow from those of the output node alone.  This is belief propagation with one more factor, so that
log Z and the distance that comes with it belong to the same measure.  At a given cost β of an error the factor of each
pattern is ``e^{-β} + (1 - e^{-β}) 1[right]`` instead, and ``π = (1 - e^{-β}) Z_μ / (Z_μ + e^{-β}(1 - Z_μ))``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from bpflat.estimators.kernels import output_node

_BISECTIONS = 40


class Outputs(NamedTuple):
    """What the output nodes say: derivatives g, Γ (P, K), log Z of all, and the mean number of errors at a cost β."""

    g: NDArray[np.float64]
    curvature: NDArray[np.float64]
    log_z: float
    errors: float


def tolerant_output_node(omega, variance, labels, n_errors: int = 0, beta: float | None = None) -> Outputs:
    """`bpflat.bp.output_node` that allows errors.

    Parameters
    ----------
    omega, variance : ndarray, shape (P, K)
    labels : ndarray, shape (P,)
        As in `bpflat.bp.output_node`.
    n_errors : int
        Errors E₀ that are allowed.
    beta : float, optional
        Cost of an error, where any number of them is allowed instead.
    """
    g, curvature, log_z = output_node(omega, variance, labels)
    if beta is None and n_errors == 0:
        return Outputs(g, curvature, log_z.sum(), 0.0)
    if beta is None:
        totals, pivotal = count_errors(log_z[None], np.array([n_errors]))
        total, errors, pivotal = totals[0], 0.0, pivotal[0]
    else:
        totals, pivotal, errors = price_errors(log_z, beta)
        total, errors = totals.sum(), errors.sum()
    return Outputs(*scaled(g, curvature, pivotal[:, None]), total, errors)


def scaled(g, curvature, pivotal):
    """Derivatives of the logarithm of a factor that is linear in Z_μ, from those of log Z_μ."""
    return pivotal * g, pivotal * curvature - pivotal * (1 - pivotal) * g**2


def price_errors(log_z: NDArray, beta: float) -> tuple[NDArray, NDArray, NDArray]:
    """Log of the softened factors, π and the probability of an error, of the shape of log Z_μ, at a cost β."""
    log_odds = np.log(np.maximum(-np.expm1(log_z), 1e-300)) - log_z - beta  # of an error that is made and paid for
    right = expit(-log_odds)
    return log_z - log_expit(-log_odds), -math.expm1(-beta) * right, expit(log_odds)


@njit(cache=True)
def count_errors(log_z: NDArray, n_errors: NDArray) -> tuple[NDArray, NDArray]:
    """``log P(E ≤ E₀)`` (R,) and π (R, P) from log Z_μ (R, P) and E₀ (R,).

    The number of errors among the first patterns, and among the last ones, gives both in O(P E₀) without cancellation.
    """
    totals, pivotal = np.empty(len(log_z)), np.ones(log_z.shape)
    for r in range(len(log_z)):
        if n_errors[r] == 0:
            totals[r] = log_z[r].sum()
        else:
            totals[r] = _count(log_z[r], n_errors[r], pivotal[r])
    return totals, pivotal


@njit(cache=True)
def _count(log_z, n_errors, pivotal):
    """Fill π (P,) and return ``log P(E ≤ E₀)``."""
    right, wrong = np.exp(log_z), -np.expm1(log_z)
    success, failure = _pivots(right, wrong, n_errors, 1.0, pivotal)
    if failure < success:  # the smaller tail is the one known to full relative precision
        return math.log1p(-failure)
    # Where errors are common everything may underflow.  Tilted, E₀ of them are the typical number:
    # Z + (1 - Z) x at x e^t, divided by its value at x = 1, with t ≤ 0.
    odds = np.log(np.maximum(wrong, 1e-300)) - log_z
    tilt = _tilt(odds, n_errors)
    tilted = odds + tilt
    success, _ = _pivots(1 / (1 + np.exp(tilted)), 1 / (1 + np.exp(-tilted)), n_errors, math.exp(tilt), pivotal)
    log_norm = log_z + np.maximum(tilted, 0.0) + np.log1p(np.exp(-np.abs(tilted)))
    return log_norm.sum() - tilt * n_errors + math.log(success)


@njit(cache=True)
def _tilt(odds, n_errors):
    """A number t ≤ 0 with ``Σ_μ sigmoid(odds_μ + t)`` near E₀, or 0 where there is none."""
    low, high = -odds.max() - math.log(len(odds)) - 1.0, 0.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if (1 / (1 + np.exp(-odds - middle))).sum() > n_errors:
            high = middle
        else:
            low = middle
    return min(low, 0.0)


@njit(cache=True)
def _pivots(right, wrong, n_errors, decay, pivotal):
    """Fill π (P,) and return ``Σ_{j ≤ E₀} P(E = j) decay^(E₀ - j)`` and ``P(E > E₀)``, of probabilities (P,)."""
    n_patterns, n = len(right), n_errors + 1
    before = np.zeros((n_patterns + 1, n))  # P(j of the first patterns are wrong)
    before[0, 0] = 1.0
    failure = 0.0
    for mu in range(n_patterns):
        failure += before[mu, n_errors] * wrong[mu]
        before[mu + 1, 0] = before[mu, 0] * right[mu]
        for j in range(1, n):
            before[mu + 1, j] = before[mu, j] * right[mu] + before[mu, j - 1] * wrong[mu]
    success = 0.0
    for j in range(n):
        success = success * decay + before[n_patterns, j]
    after = np.zeros(n)
    after[0] = 1.0
    for mu in range(n_patterns - 1, -1, -1):
        exactly = 0.0
        for j in range(n):
            exactly += before[mu, j] * after[n_errors - j]
        pivotal[mu] = exactly * right[mu] / success if success > 0 else 1.0
        for j in range(n_errors, 0, -1):
            after[j] = after[j] * right[mu] + after[j - 1] * wrong[mu]
        after[0] *= right[mu]
    return success, failure
