"""Compiled products of weights with patterns that end in zeros, machine by machine: none sees another's numbers.

Arrays, all in one precision: weights (..., K, N'), patterns x (P, N') with zeros from ``ends`` (P,) on, which grow
along P and are multiples of 8, minibatches (..., B) in rising order.  Four patterns and three units at a time: twelve
sums are what the registers hold.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Lets sums be vectorised, always alike; NaN and infinity keep their meaning.
_SUMS = {"reassoc", "contract", "nsz"}
_FUSED = {"contract"}  # where the order of operations matters

# Weights decay in directions that no pattern feeds, and slopes in the tails; denormal numbers are many times slower.
_SMALLEST = 1e-30
_LARGEST_EXPONENT = 80.0  # see `training.committee.loss`
_LOG_2_HIGH, _LOG_2_LOW = 0.693359375, -2.121944400546905827679e-4  # log 2 = the sum of both; the first has ten bits


@njit(cache=True, nogil=True, fastmath=_SUMS)
def descend(u, x, ends, orders, factors, pull, anchors, noise, means, alpha, layout):
    """Go through the minibatches ``orders`` (S, R, y, B), in place, with every machine of u (R, y, K, N').

    One step is ``u ← norm((1 − pull) u + pull anchor + amplitude noise + gain Σ_b slopes[:, b] x[b])``; then
    ``μ ← αμ + (1 − α) u``.  A row whose norm overflows, or is 0, becomes NaN.

    Parameters
    ----------
    factors : (2β, 2ω/√K, gain, amplitude)
        Factors in the precision of u; `gain` multiplies the slopes of `training.committee.loss.descent_slopes_`.
    anchors : shape (R, 1, K, N') or (0, ...)
        What attracts the machines of each restart; by default their mean.
    noise : shape (R, S, K, N') or (0, ...)
    means : shape (R, 1, K, N') or (0, ...)
        μ.
    layout
        See `_exponentiate`.
    """
    n_restarts, n_replicas, n_units, n_inputs = u.shape
    two_beta, rate, gain, amplitude = factors
    one = u.dtype.type(1)
    s = np.empty((n_units, orders.shape[-1]), u.dtype)
    centre, change = np.zeros((n_units, n_inputs), u.dtype), np.empty((n_units, n_inputs), u.dtype)
    for r in range(n_restarts):
        for step in range(len(orders)):
            if pull > 0:
                if len(anchors) > 0:
                    centre[:] = anchors[r, 0]
                else:
                    _average(u[r], centre)
            for a in range(n_replicas):
                w, batch = u[r, a], orders[step, r, a]
                _project(w, x, ends, batch, s)
                _turn_into_slopes(s, two_beta, rate, gain, layout)
                change[:] = 0  # summed up apart, or the few large coordinates of w would round it away bit by bit
                _add_patterns(change, x, ends, batch, s)
                if len(noise) > 0:
                    _add_scaled(change, one, noise[r, step], amplitude)
                _move(w, pull, centre, change)
            if len(means) > 0:
                _add_scaled(means[r, 0], alpha, u[r, 0], one - alpha)


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _average(replicas, centre):
    """Fill the mean (K, N') of replicas (y, K, N')."""
    share = replicas.dtype.type(1 / len(replicas))
    centre[:] = 0
    for a in range(len(replicas)):
        for k in range(len(centre)):
            for i in range(centre.shape[1]):
                centre[k, i] += share * replicas[a, k, i]


@njit(cache=True, nogil=True, fastmath=_FUSED)
def _turn_into_slopes(h, two_beta, rate, gain, layout):
    """`training.committee.loss.descent_slopes_` of one machine, times `gain`; h (K, B) are σh."""
    n_units, n_patterns = h.shape
    largest, one, two = h.dtype.type(_LARGEST_EXPONENT), h.dtype.type(1), h.dtype.type(2)
    smallest, zero = h.dtype.type(_SMALLEST), h.dtype.type(0)
    for k in range(n_units):
        for b in range(n_patterns):
            h[k, b] = min(max(two_beta * h[k, b], -largest), largest)
    _exponentiate(h.reshape(-1), layout)
    votes = np.full(n_patterns, h.dtype.type(n_units))  # 1/(1 + e^(2ωs)) in the end
    for k in range(n_units):
        for b in range(n_patterns):
            r = one / (one + h[k, b])
            h[k, b] = h[k, b] * r * r
            votes[b] -= two * r
    for b in range(n_patterns):
        votes[b] = max(min(rate * votes[b], largest), -largest)
    _exponentiate(votes, layout)
    for b in range(n_patterns):
        votes[b] = one / (one + votes[b])
    for k in range(n_units):
        for b in range(n_patterns):
            slope = h[k, b] * votes[b]
            step = gain * slope if slope > smallest else zero
            h[k, b] = step if step > smallest else zero


@njit(cache=True, nogil=True, fastmath=_FUSED)
def _exponentiate(z, layout):
    """``z ← e^z`` to the last bit or two, |z| ≤ 80, in loops that vectorise, which those of math.exp do not.

    ``e^z = 2^m e^r`` with integer m and |r| ≤ log(2)/2: a Taylor series, and m put where floats have their exponent;
    `layout` holds how many bits that is from their end, and the exponent of 1, as integers as wide as they are.
    """
    number = z.dtype.type
    per_bit, half = number(1 / math.log(2)), number(0.5)
    high, low = number(_LOG_2_HIGH), number(_LOG_2_LOW)
    one, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = (
        number(1),
        number(1 / 2),
        number(1 / 6),
        number(1 / 24),
        number(1 / 120),
        number(1 / 720),
        number(1 / 5040),
        number(1 / 40320),
        number(1 / 362880),
        number(1 / 3628800),
        number(1 / 39916800),
        number(1 / 479001600),
        number(1 / 6227020800),
    )
    exponents = np.empty(len(z), layout.dtype)
    for i in range(len(z)):
        m = np.floor(z[i] * per_bit + half)
        exponents[i] = m
        r = z[i] - m * high - m * low
        tail = c7 + r * (c8 + r * (c9 + r * (c10 + r * (c11 + r * (c12 + r * c13)))))
        z[i] = one + r * (one + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * tail))))))
    shift, bias = layout
    for i in range(len(z)):
        exponents[i] = (exponents[i] + bias) << shift
    powers = exponents.view(z.dtype)
    for i in range(len(z)):
        z[i] *= powers[i]


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _add_scaled(u, keep, other, factor):
    """``u ← keep u + factor other``, shapes (K, N')."""
    for k in range(len(u)):
        for i in range(u.shape[1]):
            u[k, i] = keep * u[k, i] + factor * other[k, i]


@njit(cache=True, nogil=True, fastmath=_SUMS)
def project(u, x, ends, h):
    """Fill ``h[m, k, p] = Σ_i u[m, k, i] x[p, i]`` for all patterns; shapes (M, K, N'), (P, N'), (P,), (M, K, P)."""
    everything = np.arange(len(x))
    for m in range(len(u)):
        _project(u[m], x, ends, everything, h[m])


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _project(u, x, ends, batch, h):
    """Fill ``h[k, b] = Σ_i u[k, i] x[batch[b], i]`` for one machine."""
    n_units, n_patterns = h.shape
    in_fours, in_threes = n_patterns - n_patterns % 4, n_units - n_units % 3
    for b in range(0, in_fours, 4):
        x0, x1, x2, x3 = x[batch[b]], x[batch[b + 1]], x[batch[b + 2]], x[batch[b + 3]]
        end = ends[batch[b + 3]]
        for k in range(0, in_threes, 3):
            u0, u1, u2 = u[k], u[k + 1], u[k + 2]
            h00 = h01 = h02 = h03 = h10 = h11 = h12 = h13 = h20 = h21 = h22 = h23 = u.dtype.type(0)
            for i in range(end):  # in another order, the registers do not suffice
                a0, a1, a2, a3 = x0[i], x1[i], x2[i], x3[i]
                w0, w1, w2 = u0[i], u1[i], u2[i]
                h00 += w0 * a0
                h10 += w1 * a0
                h20 += w2 * a0
                h01 += w0 * a1
                h11 += w1 * a1
                h21 += w2 * a1
                h02 += w0 * a2
                h12 += w1 * a2
                h22 += w2 * a2
                h03 += w0 * a3
                h13 += w1 * a3
                h23 += w2 * a3
            h[k, b], h[k, b + 1], h[k, b + 2], h[k, b + 3] = h00, h01, h02, h03
            h[k + 1, b], h[k + 1, b + 1], h[k + 1, b + 2], h[k + 1, b + 3] = h10, h11, h12, h13
            h[k + 2, b], h[k + 2, b + 1], h[k + 2, b + 2], h[k + 2, b + 3] = h20, h21, h22, h23
        for k in range(in_threes, n_units):
            for j in range(b, b + 4):
                h[k, j] = _dot(u[k], x[batch[j]], end)
    for b in range(in_fours, n_patterns):
        for k in range(n_units):
            h[k, b] = _dot(u[k], x[batch[b]], ends[batch[b]])


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _dot(u, x, end):
    total = u.dtype.type(0)
    for i in range(end):
        total += u[i] * x[i]
    return total


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _add_patterns(u, x, ends, batch, s):
    """``u ← u + Σ_b s[:, b] x[batch[b]]`` for one machine."""
    n_units, n_patterns = s.shape
    in_fours, in_threes = n_patterns - n_patterns % 4, n_units - n_units % 3
    for b in range(0, in_fours, 4):
        x0, x1, x2, x3 = x[batch[b]], x[batch[b + 1]], x[batch[b + 2]], x[batch[b + 3]]
        end = ends[batch[b + 3]]
        for k in range(0, in_threes, 3):
            u0, u1, u2 = u[k], u[k + 1], u[k + 2]
            s00, s01, s02, s03 = s[k, b], s[k, b + 1], s[k, b + 2], s[k, b + 3]
            s10, s11, s12, s13 = s[k + 1, b], s[k + 1, b + 1], s[k + 1, b + 2], s[k + 1, b + 3]
            s20, s21, s22, s23 = s[k + 2, b], s[k + 2, b + 1], s[k + 2, b + 2], s[k + 2, b + 3]
            for i in range(end):
                a0, a1, a2, a3 = x0[i], x1[i], x2[i], x3[i]
                u0[i] += s00 * a0 + s01 * a1 + s02 * a2 + s03 * a3
                u1[i] += s10 * a0 + s11 * a1 + s12 * a2 + s13 * a3
                u2[i] += s20 * a0 + s21 * a1 + s22 * a2 + s23 * a3
        for k in range(in_threes, n_units):
            w, s0, s1, s2, s3 = u[k], s[k, b], s[k, b + 1], s[k, b + 2], s[k, b + 3]
            for i in range(end):
                w[i] += s0 * x0[i] + s1 * x1[i] + s2 * x2[i] + s3 * x3[i]
    for b in range(in_fours, n_patterns):
        for k in range(n_units):
            w, x0, s0 = u[k], x[batch[b]], s[k, b]
            for i in range(ends[batch[b]]):
                w[i] += s0 * x0[i]


@njit(cache=True, nogil=True, fastmath=_SUMS, error_model="numpy")
def _move(u, pull, centre, change):
    """``u ← norm((1 − pull) u + pull centre + change)``, shapes (K, N')."""
    keep, smallest, zero = u.dtype.type(1) - pull, u.dtype.type(_SMALLEST), u.dtype.type(0)
    for k in range(len(u)):
        squares = zero
        for i in range(u.shape[1]):
            moved = keep * u[k, i] + (pull * centre[k, i] + change[k, i])
            u[k, i] = moved
            squares += moved * moved
        scale = u.dtype.type(1 / math.sqrt(squares) if squares < np.inf else np.nan)  # 0 times ∞ is NaN, too
        for i in range(u.shape[1]):
            value = scale * u[k, i]
            u[k, i] = zero if abs(value) < smallest else value
