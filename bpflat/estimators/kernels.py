"""The compiled kernels of belief propagation: the output node, one sweep of messages, sums over edges.

They stand in one file because numba's cache does not notice a change in another file.

The output node is a vote of K independent noisy signs.  For one pattern with label σ, let ``y_k = σ ω_k/√V_k``
and ``p_k = Φ(y_k)`` the probability that hidden sign k agrees with the label.  The node's partition function is the
tail of a Poisson-binomial sum, ``Z = P(at least m = (K+1)/2 signs agree)``; numbers of agreements among the first units
and of disagreements among the last ones give it and every ``D_k = P(exactly m-1 of the others agree)`` in O(K²)
without cancellation.  Patterns go through in blocks, over which the innermost loops vectorise.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SQRT_HALF = math.sqrt(0.5)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_BLOCK = 32  # patterns
_NOTHING = 1e-290  # derivatives below this are 0: denormal numbers make the products that follow several times slower
LIKELY = 1e-200  # above this, nothing that matters to Z has underflown
_LOG_LIKELY = math.log(LIKELY)


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
def _count_votes(p, q, agree, disagree):
    """Distributions of the number of agreements among the first k units and of disagreements among the last k.

    ``agree[k, j]`` and ``disagree[k, j]``, shape (K+1, K+1, B): j of k units agree, or do not, for B patterns with
    probabilities p, q (K, B) of agreement and disagreement.
    """
    n, width = p.shape
    agree[0, 0] = 1.0
    disagree[0, 0] = 1.0
    for k in range(n):
        last = n - 1 - k
        for b in range(width):
            agree[k + 1, 0, b] = agree[k, 0, b] * q[k, b]
            agree[k + 1, k + 1, b] = agree[k, k, b] * p[k, b]
            disagree[k + 1, 0, b] = disagree[k, 0, b] * p[last, b]
            disagree[k + 1, k + 1, b] = disagree[k, k, b] * q[last, b]
        for j in range(1, k + 1):
            for b in range(width):
                agree[k + 1, j, b] = agree[k, j, b] * q[k, b] + agree[k, j - 1, b] * p[k, b]
            for b in range(width):
                disagree[k + 1, j, b] = disagree[k, j, b] * p[last, b] + disagree[k, j - 1, b] * q[last, b]


@njit(cache=True)
def _others(agree, disagree, k, ratio):
    """Fill ratio (B,) with P(exactly m-1 of the units other than k agree): as many disagree."""
    n, width = agree.shape[0] - 1, ratio.size
    m = (n + 1) // 2
    ratio[:] = 0.0
    for j in range(max(0, k + 1 - m), min(k, m - 1) + 1):
        for b in range(width):
            ratio[b] += agree[k, j, b] * disagree[n - 1 - k, m - 1 - k + j, b]


@njit(cache=True, error_model="numpy")
def _votes_plain(y, p, q, agree, disagree, ratio, log_z):
    """Fill log Z (B,) and ``ratio_k = D_k φ(y_k)/Z`` (K, B) where nothing underflows."""
    n, width = y.shape
    m = (n + 1) // 2
    _count_votes(p, q, agree, disagree)
    fail, success = np.zeros(width), np.zeros(width)
    for j in range(m):
        for b in range(width):
            fail[b] += agree[n, j, b]
    for j in range(m, n + 1):
        for b in range(width):
            success[b] += agree[n, j, b]
    for k in range(n):
        _others(agree, disagree, k, ratio[k])
        for b in range(width):
            ratio[k, b] *= math.exp(-0.5 * y[k, b] * y[k, b] - _HALF_LOG_2PI) / success[b]
    for b in range(width):
        # the smaller of the two tails is the one known to full relative precision
        log_z[b] = math.log1p(-fail[b]) if fail[b] < success[b] else math.log(success[b])


@njit(cache=True)
def _vote_tilted(y, p, q, agree, disagree, ratio):
    """`_votes_plain` of one pattern, arrays (K, 1), where Z may underflow: exponential tilting of the agreements.

    Each factor ``q + p x`` of the generating function is evaluated at ``x e^t`` and renormalised, with t minus the
    m-th largest log odds: then m tilted units agree, and the others disagree, with probability ≥ 1/2 each.
    """
    n = len(y)
    m = (n + 1) // 2
    odds, log_factor = np.empty(n), np.empty(n)
    for k in range(n):
        odds[k] = _log_ndtr(y[k, 0]) - _log_ndtr(-y[k, 0])
    t = max(0.0, -np.sort(odds)[n - m])
    for k in range(n):
        p[k] = 1.0 / (1.0 + math.exp(-(odds[k] + t)))
        q[k] = 1.0 / (1.0 + math.exp(odds[k] + t))
        # log(q + p e^t) = log q + log(1 + e^{odds + t})
        x = odds[k] + t
        log_factor[k] = _log_ndtr(-y[k, 0]) + max(x, 0.0) + math.log1p(math.exp(-abs(x)))
    _count_votes(p, q, agree, disagree)
    tail = 0.0
    for j in range(m, n + 1):
        tail += agree[n, j, 0] * math.exp(-t * (j - m))
    for k in range(n):
        _others(agree, disagree, k, ratio[k])
        log_density = -0.5 * y[k, 0] * y[k, 0] - _HALF_LOG_2PI
        ratio[k] *= math.exp(t + log_density - log_factor[k]) / tail
    return log_factor.sum() - t * m + math.log(tail)


@njit(cache=True)
def _workspace(n, width):
    """Arrays for blocks of patterns: y, p, q, ratio (K, B), agree, disagree (K+1, K+1, B)."""
    shape = (n, width)
    counts = (n + 1, n + 1, width)
    return np.empty(shape), np.empty(shape), np.empty(shape), np.empty(shape), np.empty(counts), np.empty(counts)


@njit(cache=True, error_model="numpy")
def _output_block(omega, variance, labels, start, g, curvature, log_z, work):
    """Fill g and Γ (K, P) and log Z (P,) of as many patterns, from `start` on, as `work` has room for."""
    y, p, q, ratio, agree, disagree = work
    n, width = y.shape
    for k in range(n):
        for b in range(width):
            y[k, b] = labels[start + b] * omega[k, start + b] / math.sqrt(variance[k, start + b])
            tail = 0.5 * math.erfc(abs(y[k, b]) * _SQRT_HALF)
            p[k, b] = tail if y[k, b] < 0 else 1.0 - tail
            q[k, b] = 1.0 - tail if y[k, b] < 0 else tail
    _votes_plain(y, p, q, agree, disagree, ratio, log_z[start : start + width])
    for b in range(width):
        if not log_z[start + b] > _LOG_LIKELY:
            at = slice(b, b + 1)
            log_z[start + b] = _vote_tilted(
                y[:, at], p[:, at], q[:, at], agree[:, :, at], disagree[:, :, at], ratio[:, at]
            )
    for k in range(n):
        for b in range(width):
            r = ratio[k, b] if ratio[k, b] > _NOTHING else 0.0
            g[k, start + b] = labels[start + b] * r / math.sqrt(variance[k, start + b])
            curvature[k, start + b] = r * (r + y[k, b]) / variance[k, start + b] if r > 0 else 0.0


@njit(cache=True)
def _output_nodes(omega, variance, labels, g, curvature, log_z):
    """Apply `_output_block` to ω, V (R, K, P), a block of patterns at a time."""
    n, n_patterns = omega.shape[1:]
    work, last = _workspace(n, _BLOCK), _workspace(n, n_patterns % _BLOCK)
    for r in range(len(omega)):
        for start in range(0, n_patterns, _BLOCK):
            room = work if start + _BLOCK <= n_patterns else last
            _output_block(omega[r], variance[r], labels, start, g[r], curvature[r], log_z[r], room)


def output_nodes(
    omega: NDArray[np.float64], variance: NDArray[np.float64], labels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """g, Γ (..., K, P) and log Z (..., P) from cavity means ω, variances V (..., K, P) and labels (P,)."""
    shape = omega.shape
    omega, variance, labels = _stack(omega), _stack(variance), np.ascontiguousarray(labels, dtype=np.float64)
    g, curvature, log_z = np.empty_like(omega), np.empty_like(omega), np.empty(omega.shape[::2])
    _output_nodes(omega, variance, labels, g, curvature, log_z)
    return g.reshape(shape), curvature.reshape(shape), log_z.reshape(*shape[:-2], shape[-1])


def _stack(array: NDArray) -> NDArray[np.float64]:
    """An array (..., K, P) as a contiguous one (R, K, P)."""
    return np.ascontiguousarray(array, dtype=np.float64).reshape(math.prod(array.shape[:-2]), *array.shape[-2:])


_SUMS = {"reassoc", "contract", "nsz"}  # lets sums be vectorised; NaN and infinity keep their meaning


@njit(cache=True, fastmath=_SUMS)
def _edge_sweep(x, scale, offset, floor, labels, order, damping, a, b, precision, field, gradient, curvature, log_z):
    """Update all messages in place, pattern after pattern in the given order; see `edge_bp`.

    Unit k sees the inputs ``scale[k] * x``; ``offset, floor`` (K, P) are added to its cavity means and variances.
    ``a, b`` (P, K, N) are the messages A, B to the weights, ``precision, field`` (K, N) their totals with the prior.
    Returns the largest change of g √V and Γ V, with g, Γ (P, K) the output node's last derivatives; NaN where a cavity
    variance is not positive.
    """
    n_hidden, n_inputs = precision.shape
    work = _workspace(n_hidden, 1)
    omega, variance = np.empty((n_hidden, 1)), np.empty((n_hidden, 1))
    g, gamma = np.empty((n_hidden, 1)), np.empty((n_hidden, 1))
    mean = np.empty((n_hidden, n_inputs))
    change = 0.0
    for mu in order:
        for k in range(n_hidden):
            omega_k = 0.0
            variance_k = 0.0
            lowest = 1.0
            for i in range(n_inputs):
                cavity = precision[k, i] - a[mu, k, i]
                lowest = min(lowest, cavity)
                mean[k, i] = (field[k, i] - b[mu, k, i]) / cavity
                seen = scale[k, i] * x[mu, i]
                omega_k += seen * mean[k, i]
                variance_k += seen * seen / cavity
            if not lowest > 0.0:
                return np.nan
            omega[k, 0] = omega_k + offset[k, mu]
            variance[k, 0] = variance_k + floor[k, mu]
        at = slice(mu, mu + 1)
        _output_block(omega, variance, labels[at], 0, g, gamma, log_z[at], work)
        for k in range(n_hidden):
            change = max(change, abs(g[k, 0] - gradient[mu, k]) * math.sqrt(variance[k, 0]))
            change = max(change, abs(gamma[k, 0] - curvature[mu, k]) * variance[k, 0])
            gradient[mu, k] = g[k, 0]
            curvature[mu, k] = gamma[k, 0]
            for i in range(n_inputs):
                seen = scale[k, i] * x[mu, i]
                new_a = seen * seen * gamma[k, 0]
                new_b = seen * g[k, 0] + new_a * mean[k, i]
                step_a = (1.0 - damping) * (new_a - a[mu, k, i])
                step_b = (1.0 - damping) * (new_b - b[mu, k, i])
                a[mu, k, i] += step_a
                b[mu, k, i] += step_b
                precision[k, i] += step_a
                field[k, i] += step_b
    return change


@njit(cache=True, fastmath=_SUMS)
def _cavity_variance(x2, precision, curvature, variance):
    """Fill V (R, K, P) from x̂² (P, N), P (R, K, N), Γ (R, K, P); NaN where a term of the sum is not positive."""
    n_references, n_hidden, n_patterns = variance.shape
    for r in range(n_references):
        for mu in range(n_patterns):
            for k in range(n_hidden):
                total = 0.0
                lowest = 1.0
                for i in range(x2.shape[1]):
                    cavity = precision[r, k, i] - x2[mu, i] * curvature[r, k, mu]
                    lowest = min(lowest, cavity)
                    total += x2[mu, i] / cavity
                variance[r, k, mu] = total if lowest > 0.0 else np.nan


@njit(cache=True)
def _log_cavity_ratio(x2, precision, curvature, total):
    """Add the logarithms of `log_cavity_ratio` to total (R,)."""
    n_references, n_hidden, n_patterns = curvature.shape
    for r in range(n_references):
        for mu in range(n_patterns):
            for k in range(n_hidden):
                for i in range(x2.shape[1]):
                    total[r] += math.log1p(-x2[mu, i] * curvature[r, k, mu] / precision[r, k, i])


def cavity_variance(x2: NDArray, precision: NDArray, curvature: NDArray) -> NDArray[np.float64]:
    """``V_kμ = Σ_i x̂_i²/(P_ki - x̂_i² Γ_kμ)`` (..., K, P) from x̂² (P, N), P (..., K, N), Γ (..., K, P)."""
    variance = np.empty(curvature.shape)
    _cavity_variance(x2, _stack(precision), _stack(curvature), _stack(variance))
    return variance


def log_cavity_ratio(x2: NDArray, precision: NDArray, curvature: NDArray) -> NDArray[np.float64]:
    """``Σ_μki log(1 - x̂_i² Γ_kμ/P_ki)`` (...) from x̂² (P, N), P (..., K, N), Γ (..., K, P)."""
    total = np.zeros(curvature.shape[:-2])
    _log_cavity_ratio(x2, _stack(precision), _stack(curvature), total.reshape(-1))
    return total
