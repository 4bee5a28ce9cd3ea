"""The output nodes: the factor of each pattern, a vote of K noisy signs for one, and errors that may be made.

Eq. 3 counts every w' with ``E(w') ≤ E₀``.  Given its cavities, pattern μ is right with the probability Z_μ of its
node, independently of the others, so that the number of errors is a Poisson-binomial sum.  One factor joins all
patterns, ``Z = P(E ≤ E₀)``.  It is linear in every Z_μ, and with the pivotal probability of a pattern,

    π_μ = P(E₀ others are wrong) Z_μ / Z        g → π g        Γ → π Γ - π (1 - π) g²

its derivatives follow from those of the node alone.  This is belief propagation with one more factor, so that
log Z and the distance that comes with it belong to the same measure.  At a given cost β of an error the factor of each
pattern is ``e^{-β} + (1 - e^{-β}) 1[right]`` instead, and ``π = (1 - e^{-β}) Z_μ / (Z_μ + e^{-β}(1 - Z_μ))``.

Arrays are those of numpy or of torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from bpflat.estimators import kernels
from bpflat.estimators.arrays import Array, like, namespace, on_cpu, to_numpy

if TYPE_CHECKING:
    from bpflat.estimators.tables import OutputNode

_BISECTIONS = 40


class Outputs(NamedTuple):
    """Derivatives g, Γ (..., K, P), log Z of all patterns (...), and the mean number of errors at a cost β (...)."""

    g: Array
    curvature: Array
    log_z: Array
    errors: Array


def output_nodes(
    node: OutputNode,
    omega: Array,
    variance: Array,
    labels: Array,
    n_errors: NDArray[np.int64] | int = 0,
    beta: float | None = None,
) -> Outputs:
    """Output nodes that allow errors, if patterns are right or wrong.

    Parameters
    ----------
    node : OutputNode
        What is asked of each pattern.
    omega, variance : array, shape (..., K, P)
        Cavity means ω and variances V > 0.
    labels : array, shape (P,)
        ±1.
    n_errors : ndarray of int, shape (...)
        Errors E₀ that are allowed.
    beta : float, optional
        Cost of an error, where any number of them is allowed instead.
    """
    xp = namespace(omega)
    g, curvature, log_z = node.output(omega, variance, labels)
    if beta is None and not (node.is_hard and np.any(n_errors)):
        total = xp.sum(log_z, axis=-1)
        return Outputs(g, curvature, total, xp.zeros_like(total))
    if beta is None:
        totals, pivotal = count_errors(to_numpy(log_z).reshape(-1, log_z.shape[-1]), np.reshape(n_errors, -1))
        totals, pivotal = totals.reshape(log_z.shape[:-1]), pivotal.reshape(log_z.shape)
        errors = np.zeros(totals.shape)
    else:
        totals, pivotal, errors = price_errors(to_numpy(log_z), beta)
        totals, errors = totals.sum(axis=-1), errors.sum(axis=-1)
    pi = like(pivotal[..., None, :], omega)
    return Outputs(pi * g, pi * curvature - pi * (1 - pi) * g**2, like(totals, omega), like(errors, omega))


def votes(omega: Array, variance: Array, labels: Array, f: kernels.Factors) -> tuple[Array, Array, Array]:
    """g, Γ (..., K, P) and log Z (..., P) of the factors of numbers of agreeing units.

    Compiled on a CPU, through tensors on a GPU.
    """
    if not on_cpu(omega):
        return _votes_by_tensors(omega, variance, labels, f)
    arrays = map(to_numpy, (omega, variance, labels))
    g, curvature, log_z = (like(a, omega) for a in kernels.output_nodes(*arrays, f))
    return g, curvature, log_z


def _votes_by_tensors(omega: Array, variance: Array, labels: Array, f: kernels.Factors) -> tuple[Array, Array, Array]:
    """`votes` by the sums of the compiled kernel, which gets the patterns whose Z might underflow."""
    import torch

    n_hidden = omega.shape[-2]
    root = variance.sqrt()
    y = labels * omega / root
    p, q = (0.5 * torch.special.erfc(s * math.sqrt(0.5) * y) for s in (-1, 1))
    agree = _count_votes(p, q)
    success, fail = (torch.tensordot(like(values, y), agree[-1], 1) for values in (f.right, f.wrong))
    density = torch.exp(-0.5 * y * y - 0.5 * math.log(2 * math.pi))
    ratio = torch.empty_like(y)
    # what one more agreement is worth with j of the units up to k: the mean over those beyond
    rest = like(f.gain, y).reshape(-1, *[1] * (y.ndim - 1)).expand(-1, *success.shape)
    for k in range(n_hidden - 1, -1, -1):
        low, high = max(0, f.first - (n_hidden - 1 - k)), min(k, f.last) + 1
        ratio[..., k, :] = (agree[k][low:high] * rest[low:high]).sum(0)
        rest = rest[:-1] * q[..., k, :] + rest[1:] * p[..., k, :]
    ratio *= density / success[..., None, :]
    # the smaller of the two tails is the one known to full relative precision
    log_z = torch.where(fail < success, torch.log1p(-fail), success.log())
    hard = ~(success > kernels.LIKELY)
    if hard.any():
        hard_y = to_numpy(y.movedim(-2, -1)[hard]).T
        ratios, _, logs = kernels.output_nodes(hard_y, np.ones(hard_y.shape), np.ones(hard_y.shape[1]), f)
        ratio.movedim(-2, -1)[hard] = like(ratios.T, y)
        log_z[hard] = like(logs, y)
    return labels * ratio / root, ratio * (ratio + y) / variance, log_z


def _count_votes(p: Array, q: Array) -> list[Array]:
    """Distributions (k + 1, ..., P) of how many of the first k units agree, for k = 0, 1, ..., K; p + q = 1."""
    import torch

    counts = [torch.ones_like(p[..., 0, :])[None]]
    for unit in range(p.shape[-2]):
        before = counts[-1]
        after = torch.empty(len(before) + 1, *before.shape[1:], dtype=p.dtype, device=p.device)
        torch.mul(before, q[..., unit, :], out=after[:-1])
        torch.mul(before[-1], p[..., unit, :], out=after[-1])
        after[1:-1].addcmul_(before[:-1], p[..., unit, :])
        counts.append(after)
    return counts


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
