"""The compiled kernels of belief propagation: the output node, one sweep of messages, sums over edges.

They stand in one file because numba's cache does not notice a change in another file.

The output node is a vote of K independent noisy signs.  For one pattern with label σ, let ``y_k = σ ω_k/√V_k``
and ``p_k = Φ(y_k)`` the probability that hidden sign k agrees with the label.  The node's partition function is the
tail of a Poisson-binomial sum, ``Z = P(at least m = (K+1)/2 signs agree)``; prefix and suffix convolutions give it and
every ``D_k = P(exactly m-1 of the others agree)`` in O(K²) without cancellation.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SQRT_HALF = math.sqrt(0.5)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_SAFE = 1e-12  # a median agreement above this cannot underflow m ≤ 25 factors


@njit(cache=True)
def _log_ndtr(y):
    """Logarithm of the normal distribution function at any argument, without underflow."""
    if y > -30.0:
        tail = 0.5 * math.erfc(abs(y) * _SQRT_HALF)
        return math.log(tail) if y < 0 else math.log1p(-tail)
    t = 1.0 / (y * y)  # Mills' ratio: the truncated asymptotic series is exact to 1e-15 beyond 30
    series = 1.0 - t * (1.0 - 3.0 * t * (1.0 - 5.0 * t * (1.0 - 7.0 * t * (1.0 - 9.0 * t))))
    return -0.5 * y * y - _HALF_LOG_2PI - math.log(-y) + math.log(series)


@njit(cache=True)
def _count_distributions(p, q, prefix, suffix):
    """Distributions of the number of agreements among the first k (prefix) and the last K-k (suffix) units.

    ``prefix[k, j]`` and ``suffix[k, j]``, shape (K+1, K+1): k units on the left of the cut, j agreements.
    """
    n = p.size
    prefix[0, 0] = 1.0
    suffix[n, 0] = 1.0
    for k in range(n):
        prefix[k + 1, 0] = prefix[k, 0] * q[k]
        prefix[k + 1, k + 1] = prefix[k, k] * p[k]
        for j in range(1, k + 1):
            prefix[k + 1, j] = prefix[k, j] * q[k] + prefix[k, j - 1] * p[k]
    for k in range(n - 1, -1, -1):
        length = n - 1 - k
        suffix[k, 0] = suffix[k + 1, 0] * q[k]
        suffix[k, length + 1] = suffix[k + 1, length] * p[k]
        for j in range(1, length + 1):
            suffix[k, j] = suffix[k + 1, j] * q[k] + suffix[k + 1, j - 1] * p[k]


@njit(cache=True)
def _others(prefix, suffix, k, count):
    """P(exactly `count` of the units other than k agree)."""
    n = prefix.shape[0] - 1
    total = 0.0
    for j in range(max(0, count - (n - 1 - k)), min(k, count) + 1):
        total += prefix[k, j] * suffix[k + 1, count - j]
    return total


@njit(cache=True)
def _vote_plain(y, p, q, prefix, suffix, ratio):
    """Log Z of one pattern and ``ratio_k = D_k φ(y_k)/Z`` where nothing underflows."""
    n = y.size
    m = (n + 1) // 2
    _count_distributions(p, q, prefix, suffix)
    fail = 0.0
    for j in range(m):
        fail += prefix[n, j]
    success = 0.0
    for j in range(m, n + 1):
        success += prefix[n, j]
    for k in range(n):
        density = math.exp(-0.5 * y[k] * y[k] - _HALF_LOG_2PI)
        ratio[k] = _others(prefix, suffix, k, m - 1) * density / success
    # the smaller of the two tails is the one known to full relative precision
    return math.log1p(-fail) if fail < success else math.log(success)


@njit(cache=True)
def _vote_tilted(y, p, q, prefix, suffix, ratio):
    """`_vote_plain` where Z may underflow: exponential tilting of the agreements.

    Each factor ``q + p x`` of the generating function is evaluated at ``x e^t`` and renormalised, with t minus the
    m-th largest log odds: then m tilted units agree, and the others disagree, with probability ≥ 1/2 each.
    """
    n = y.size
    m = (n + 1) // 2
    odds = np.empty(n)
    for k in range(n):
        odds[k] = _log_ndtr(y[k]) - _log_ndtr(-y[k])
    t = max(0.0, -np.sort(odds)[n - m])
    log_norm = 0.0
    for k in range(n):
        p[k] = 1.0 / (1.0 + math.exp(-(odds[k] + t)))
        q[k] = 1.0 / (1.0 + math.exp(odds[k] + t))
        # log(q + p e^t) = log q + log(1 + e^{odds + t})
        x = odds[k] + t
        log_norm += _log_ndtr(-y[k]) + max(x, 0.0) + math.log1p(math.exp(-abs(x)))
    _count_distributions(p, q, prefix, suffix)
    tail = 0.0
    for j in range(m, n + 1):
        tail += prefix[n, j] * math.exp(-t * (j - m))
    for k in range(n):
        x = odds[k] + t
        log_factor = _log_ndtr(-y[k]) + max(x, 0.0) + math.log1p(math.exp(-abs(x)))
        log_density = -0.5 * y[k] * y[k] - _HALF_LOG_2PI
        ratio[k] = _others(prefix, suffix, k, m - 1) / tail * math.exp(t + log_density - log_factor)
    return log_norm - t * m + math.log(tail)


@njit(cache=True)
def _output_pattern(omega, variance, label, g, curvature, work):
    """Fill g and Γ (K,) of one pattern and return its log Z; `work` has shape (2K+6, K+1)."""
    n = omega.size
    m = (n + 1) // 2
    y, p, q, ratio = work[0, :n], work[1, :n], work[2, :n], work[3, :n]
    prefix, suffix = work[4 : n + 5], work[n + 5 : 2 * n + 6]
    certain = 0
    for k in range(n):
        y[k] = label * omega[k] / math.sqrt(variance[k])
        certain += y[k] > 39.0
    if certain >= m:  # Z differs from 1, and its derivatives from 0, by less than the smallest float
        g[:] = 0.0
        curvature[:] = 0.0
        return 0.0
    likely = 0
    for k in range(n):
        tail = 0.5 * math.erfc(abs(y[k]) * _SQRT_HALF)
        p[k] = tail if y[k] < 0 else 1.0 - tail
        q[k] = 1.0 - tail if y[k] < 0 else tail
        likely += p[k] > _SAFE
    if likely >= m and n < 50:
        log_z = _vote_plain(y, p, q, prefix, suffix, ratio)
    else:
        log_z = _vote_tilted(y, p, q, prefix, suffix, ratio)
    for k in range(n):
        g[k] = label * ratio[k] / math.sqrt(variance[k])
        curvature[k] = ratio[k] * (ratio[k] + y[k]) / variance[k]
    return log_z


@njit(cache=True)
def _output_node(omega, variance, labels, g, curvature, log_z):
    """Apply `_output_pattern` to every row of ω, V (P, K)."""
    work = np.empty((2 * omega.shape[1] + 6, omega.shape[1] + 1))
    for mu in range(len(labels)):
        log_z[mu] = _output_pattern(omega[mu], variance[mu], labels[mu], g[mu], curvature[mu], work)


def output_node(
    omega: NDArray[np.float64], variance: NDArray[np.float64], labels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Log-partition function of the committee's vote and its derivatives in the cavity means.

    Parameters
    ----------
    omega, variance : ndarray, shape (P, K)
        Cavity means ω and variances V > 0 of the hidden pre-activations.  K odd.
    labels : ndarray, shape (P,)
        ±1.

    Returns
    -------
    g : ndarray, shape (P, K)
        ``∂ log Z_μ/∂ω_kμ``.
    curvature : ndarray, shape (P, K)
        ``Γ_kμ = -∂² log Z_μ/∂ω_kμ²``; at most 1/V, and it can be negative.
    log_z : ndarray, shape (P,)
        ``log P(majority of K independent signs = label)``, exact in both tails.

    Notes
    -----
    With ``y = σω/√V``, φ the normal density and ``r = D φ(y)/Z``: ``g = σ r/√V`` and ``Γ = r (r + y)/V``.
    """
    omega = np.ascontiguousarray(omega, dtype=np.float64)
    variance = np.ascontiguousarray(np.broadcast_to(variance, omega.shape), dtype=np.float64)
    labels = np.ascontiguousarray(labels, dtype=np.float64)
    g, curvature, log_z = np.empty_like(omega), np.empty_like(omega), np.empty(len(omega))
    _output_node(omega, variance, labels, g, curvature, log_z)
    return g, curvature, log_z


_SUMS = {"reassoc", "contract", "nsz"}  # lets sums be vectorised; NaN and infinity keep their meaning


@njit(cache=True, fastmath=_SUMS)
def _edge_sweep(x, labels, order, damping, a, b, precision, field, gradient, curvature, log_z):
    """Update all messages in place, pattern after pattern in the given order; see `bpflat.bp.edges`.

    ``a, b`` (P, K, N) are the messages A, B to the weights, ``precision, field`` (K, N) their totals with the prior.
    Returns the largest change of g √V and Γ V, with g, Γ (P, K) the output node's last derivatives; NaN where a cavity
    variance is not positive.
    """
    n_hidden, n_inputs = precision.shape
    work = np.empty((2 * n_hidden + 6, n_hidden + 1))
    omega, variance = np.empty(n_hidden), np.empty(n_hidden)
    g, gamma = np.empty(n_hidden), np.empty(n_hidden)
    mean = np.empty((n_hidden, n_inputs))
    change = 0.0
    for mu in order:
        for k in range(n_hidden):
            omega_k = 0.0
            variance_k = 0.0
            lowest = 1.0
            for i in range(n_inputs):
                rest = precision[k, i] - a[mu, k, i]
                lowest = min(lowest, rest)
                mean[k, i] = (field[k, i] - b[mu, k, i]) / rest
                omega_k += x[mu, i] * mean[k, i]
                variance_k += x[mu, i] * x[mu, i] / rest
            if not lowest > 0.0:
                return np.nan
            omega[k] = omega_k
            variance[k] = variance_k
        log_z[mu] = _output_pattern(omega, variance, labels[mu], g, gamma, work)
        for k in range(n_hidden):
            change = max(change, abs(g[k] - gradient[mu, k]) * math.sqrt(variance[k]))
            change = max(change, abs(gamma[k] - curvature[mu, k]) * variance[k])
            gradient[mu, k] = g[k]
            curvature[mu, k] = gamma[k]
            for i in range(n_inputs):
                new_a = x[mu, i] * x[mu, i] * gamma[k]
                new_b = x[mu, i] * g[k] + new_a * mean[k, i]
                step_a = (1.0 - damping) * (new_a - a[mu, k, i])
                step_b = (1.0 - damping) * (new_b - b[mu, k, i])
                a[mu, k, i] += step_a
                b[mu, k, i] += step_b
                precision[k, i] += step_a
                field[k, i] += step_b
    return change


@njit(cache=True, fastmath=_SUMS)
def _cavity_variance(x2, precision, curvature, variance):
    """``V_kμ = Σ_i x̂_i²/(P_ki - x̂_i² Γ_kμ)`` from x̂² (P, N), P (K, N), Γ (P, K); NaN where a term is not positive."""
    for mu in range(variance.shape[0]):
        for k in range(variance.shape[1]):
            total = 0.0
            lowest = 1.0
            for i in range(x2.shape[1]):
                rest = precision[k, i] - x2[mu, i] * curvature[mu, k]
                lowest = min(lowest, rest)
                total += x2[mu, i] / rest
            variance[mu, k] = total if lowest > 0.0 else np.nan


@njit(cache=True)
def _log_cavity_ratio(x2, precision, curvature):
    """``Σ_μki log(1 - x̂_i² Γ_kμ/P_ki)`` from x̂² (P, N), P (K, N), Γ (P, K)."""
    total = 0.0
    for mu in range(x2.shape[0]):
        for k in range(precision.shape[0]):
            for i in range(x2.shape[1]):
                total += math.log1p(-x2[mu, i] * curvature[mu, k] / precision[k, i])
    return total
