"""The compiled kernels of belief propagation: the output node, one sweep of messages, sums over edges.

They stand in one file because numba's cache does not notice a change in another file.

The output node weighs the number of noisy signs, of K, that agree with the label σ of a pattern.  Let
``y_k = σ ω_k/√V_k`` and ``p_k = Φ(y_k)`` the probability that hidden sign k agrees.  The node's partition function is
an average over a Poisson-binomial sum, ``Z = Σ_n P(n agree) f(n)``, for a majority vote its tail, with
``f(n) = 1[n ≥ m]``, m = (K+1)/2.  Numbers of agreements among the first units and what one more is worth to the last
ones, ``f(n+1) - f(n)`` averaged over these, give Z and every ``D_k = ∂Z/∂p_k`` in O(K²); without cancellation where f
is monotone.  Patterns go through in blocks, over which the innermost loops vectorise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SQRT_HALF = math.sqrt(0.5)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_BLOCK = 32  # patterns
NOTHING = 1e-290  # derivatives below this are 0: denormal numbers make the products that follow several times slower
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


class Factors(NamedTuple):
    """The factor f(n) = e^{-u(n)} of a pattern with n agreeing units, n = 0 … K, in the forms that the kernels need.

    f and 1 - f (K+1,); ``f(n+1) - f(n)`` (K,), and the first and last n where it is not 0; log f, and the logarithms of
    the differences that are positive, and of minus the others; m, where f is 1[n ≥ m], else 0.
    """

    right: NDArray[np.float64]
    wrong: NDArray[np.float64]
    gain: NDArray[np.float64]
    first: int
    last: int
    log_right: NDArray[np.float64]
    log_gain: NDArray[np.float64]
    log_loss: NDArray[np.float64]
    threshold: int


def factors(energies: NDArray[np.float64]) -> Factors:
    """The factors of energies u(n) ≥ 0, (K+1,), infinite where a pattern is wrong."""
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = energies[:-1] - energies[1:]  # positive where one more agreement helps
        steps = np.where(energies[:-1] == energies[1:], 0.0, steps)
        log_change = -np.minimum(energies[:-1], energies[1:]) + np.log(-np.expm1(-np.abs(steps)))
    gain = np.sign(steps) * np.exp(log_change)
    changes = np.flatnonzero(steps)
    first, last = (int(changes[0]), int(changes[-1])) if changes.size else (0, -1)
    is_step = first == last and energies[0] == np.inf and energies[-1] == 0
    return Factors(
        np.exp(-energies),
        -np.expm1(-energies),
        gain,
        first,
        last,
        -energies,
        np.where(steps > 0, log_change, -np.inf),
        np.where(steps < 0, log_change, -np.inf),
        first + 1 if is_step else 0,
    )


@njit(cache=True)
def _count_votes(p, q, gain, agree, rest):
    """Numbers of agreements among the first units, and what one more is worth when the others have voted.

    ``agree[k, j]``, shape (K+1, K+1, B): the probability that j of the first k units agree, for B patterns with
    probabilities p, q (K, B) of agreement and disagreement; ``rest[k, j]`` the mean of ``gain[j + i]`` over the number
    i of units from k on that agree, for k ≥ 1 and j < k.
    """
    n, width = p.shape
    agree[0, 0] = 1.0
    for k in range(n):
        for b in range(width):
            agree[k + 1, 0, b] = agree[k, 0, b] * q[k, b]
            agree[k + 1, k + 1, b] = agree[k, k, b] * p[k, b]
        for j in range(1, k + 1):
            for b in range(width):
                agree[k + 1, j, b] = agree[k, j, b] * q[k, b] + agree[k, j - 1, b] * p[k, b]
    for j in range(n):
        rest[n, j] = gain[j]
    for k in range(n - 1, 0, -1):
        for j in range(k):
            for b in range(width):
                rest[k, j, b] = rest[k + 1, j, b] * q[k, b] + rest[k + 1, j + 1, b] * p[k, b]


@njit(cache=True)
def _others(agree, rest, k, first, last, ratio):
    """Fill ratio (B,) with ``D_k = ∂Z/∂p_k``, the mean gain over the number of units other than k that agree."""
    n, width = agree.shape[0] - 1, ratio.size
    ratio[:] = 0.0
    for j in range(max(0, first - (n - 1 - k)), min(k, last) + 1):
        for b in range(width):
            ratio[b] += agree[k, j, b] * rest[k + 1, j, b]


@njit(cache=True, error_model="numpy")
def _votes_plain(y, p, q, f, agree, rest, ratio, log_z):
    """Fill log Z (B,) and ``ratio_k = D_k φ(y_k)/Z`` (K, B) where nothing underflows."""
    n, width = y.shape
    _count_votes(p, q, f.gain, agree, rest)
    fail, success = np.zeros(width), np.zeros(width)
    for j in range(n + 1):
        if f.wrong[j] > 0:
            for b in range(width):
                fail[b] += agree[n, j, b] * f.wrong[j]
        if f.right[j] > 0:
            for b in range(width):
                success[b] += agree[n, j, b] * f.right[j]
    for k in range(n):
        _others(agree, rest, k, f.first, f.last, ratio[k])
        for b in range(width):
            ratio[k, b] *= math.exp(-0.5 * y[k, b] * y[k, b] - _HALF_LOG_2PI) / success[b]
    for b in range(width):
        # the smaller of the two tails is the one known to full relative precision
        log_z[b] = math.log1p(-fail[b]) if fail[b] < success[b] else math.log(success[b])


@njit(cache=True)
def _vote_tilted(y, p, q, f, agree, rest, ratio):
    """`_votes_plain` of one pattern, arrays (K, 1), where P(n ≥ m) may underflow: exponential tilting of agreements.

    Each factor ``q + p x`` of the generating function is evaluated at ``x e^t`` and renormalised, with t minus the
    m-th largest log odds: then m tilted units agree, and the others disagree, with probability ≥ 1/2 each.
    """
    n, m = len(y), f.threshold
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
    _count_votes(p, q, f.gain, agree, rest)
    tail = 0.0
    for j in range(m, n + 1):
        tail += agree[n, j, 0] * math.exp(-t * (j - m))
    for k in range(n):
        _others(agree, rest, k, f.first, f.last, ratio[k])
        log_density = -0.5 * y[k, 0] * y[k, 0] - _HALF_LOG_2PI
        ratio[k] *= math.exp(t + log_density - log_factor[k]) / tail
    return log_factor.sum() - t * m + math.log(tail)


@njit(cache=True)
def _log_add(a, b):
    """``log(e^a + e^b)``."""
    top = max(a, b)
    return top if top == -math.inf else top + math.log1p(math.exp(-abs(a - b)))


@njit(cache=True)
def _vote_in_logs(y, f, ratio):
    """`_votes_plain` of one pattern, arrays (K, 1), for any factors that may underflow: all in logarithms.

    Probabilities of each unit are in units of the larger one, so that only unlikely signs leave large numbers.
    """
    n = len(y)
    p, q, top = np.empty(n), np.empty(n), np.empty(n)
    for k in range(n):
        agrees, disagrees = _log_ndtr(y[k, 0]), _log_ndtr(-y[k, 0])
        top[k] = max(agrees, disagrees)
        p[k], q[k] = agrees - top[k], disagrees - top[k]
    agree = np.full((n + 1, n + 1), -np.inf)
    agree[0, 0] = 0.0
    for k in range(n):
        agree[k + 1, 0] = agree[k, 0] + q[k]
        for j in range(1, k + 2):
            agree[k + 1, j] = _log_add(agree[k, j] + q[k], agree[k, j - 1] + p[k])
    log_z = -np.inf
    for j in range(n + 1):
        log_z = _log_add(log_z, agree[n, j] + f.log_right[j])
    gain, loss = f.log_gain.copy(), f.log_loss.copy()
    for k in range(n - 1, -1, -1):
        up, down = -np.inf, -np.inf
        for j in range(k + 1):
            up = _log_add(up, agree[k, j] + gain[j])
            down = _log_add(down, agree[k, j] + loss[j])
        scale = -0.5 * y[k, 0] * y[k, 0] - _HALF_LOG_2PI - top[k] - log_z
        ratio[k, 0] = math.exp(up + scale) - math.exp(down + scale)
        for j in range(k):
            gain[j] = _log_add(gain[j] + q[k], gain[j + 1] + p[k])
            loss[j] = _log_add(loss[j] + q[k], loss[j + 1] + p[k])
    return log_z + top.sum()


@njit(cache=True)
def _workspace(n, width):
    """Arrays for blocks of patterns: y, p, q, ratio (K, B), agree, rest (K+1, K+1, B)."""
    shape = (n, width)
    counts = (n + 1, n + 1, width)
    return np.empty(shape), np.empty(shape), np.empty(shape), np.empty(shape), np.empty(counts), np.empty(counts)


@njit(cache=True, error_model="numpy")
def _output_block(omega, variance, labels, f, start, g, curvature, log_z, work):
    """Fill g and Γ (K, P) and log Z (P,) of as many patterns, from `start` on, as `work` has room for."""
    y, p, q, ratio, agree, rest = work
    n, width = y.shape
    for k in range(n):
        for b in range(width):
            y[k, b] = labels[start + b] * omega[k, start + b] / math.sqrt(variance[k, start + b])
            tail = 0.5 * math.erfc(abs(y[k, b]) * _SQRT_HALF)
            p[k, b] = tail if y[k, b] < 0 else 1.0 - tail
            q[k, b] = 1.0 - tail if y[k, b] < 0 else tail
    _votes_plain(y, p, q, f, agree, rest, ratio, log_z[start : start + width])
    for b in range(width):
        if not log_z[start + b] > _LOG_LIKELY:
            at = slice(b, b + 1)
            if f.threshold > 0:
                log_z[start + b] = _vote_tilted(
                    y[:, at], p[:, at], q[:, at], f, agree[:, :, at], rest[:, :, at], ratio[:, at]
                )
            else:
                log_z[start + b] = _vote_in_logs(y[:, at], f, ratio[:, at])
    for k in range(n):
        for b in range(width):
            r = ratio[k, b] if abs(ratio[k, b]) > NOTHING else 0.0
            g[k, start + b] = labels[start + b] * r / math.sqrt(variance[k, start + b])
            curvature[k, start + b] = r * (r + y[k, b]) / variance[k, start + b] if r != 0 else 0.0


@njit(cache=True)
def _output_nodes(omega, variance, labels, f, g, curvature, log_z):
    """Apply `_output_block` to ω, V (R, K, P), a block of patterns at a time."""
    n, n_patterns = omega.shape[1:]
    work, last = _workspace(n, _BLOCK), _workspace(n, n_patterns % _BLOCK)
    for r in range(len(omega)):
        for start in range(0, n_patterns, _BLOCK):
            room = work if start + _BLOCK <= n_patterns else last
            _output_block(omega[r], variance[r], labels, f, start, g[r], curvature[r], log_z[r], room)


def output_nodes(
    omega: NDArray[np.float64], variance: NDArray[np.float64], labels: NDArray[np.float64], f: Factors
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """g, Γ (..., K, P) and log Z (..., P) from cavity means ω, variances V (..., K, P), labels (P,) and factors."""
    shape = omega.shape
    omega, variance, labels = _stack(omega), _stack(variance), np.ascontiguousarray(labels, dtype=np.float64)
    g, curvature, log_z = np.empty_like(omega), np.empty_like(omega), np.empty(omega.shape[::2])
    _output_nodes(omega, variance, labels, f, g, curvature, log_z)
    return g.reshape(shape), curvature.reshape(shape), log_z.reshape(*shape[:-2], shape[-1])


def _stack(array: NDArray) -> NDArray[np.float64]:
    """An array (..., K, P) as a contiguous one (R, K, P)."""
    return np.ascontiguousarray(array, dtype=np.float64).reshape(math.prod(array.shape[:-2]), *array.shape[-2:])


_SUMS = {"reassoc", "contract", "nsz"}  # lets sums be vectorised; NaN and infinity keep their meaning


@njit(cache=True, fastmath=_SUMS)
def _edge_sweep(
    x, scale, offset, floor, labels, fs, order, damping, a, b, precision, field, gradient, curvature, log_z
):
    """Update all messages in place, pattern after pattern in the given order; see `edge_bp`.

    Unit k sees the inputs ``scale[k] * x``; ``offset, floor`` (K, P) are added to its cavity means and variances;
    ``fs`` are the factors of patterns with labels +1 and -1.
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
        f = fs[0] if labels[mu] > 0 else fs[1]
        _output_block(omega, variance, labels[at], f, 0, g, gamma, log_z[at], work)
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
