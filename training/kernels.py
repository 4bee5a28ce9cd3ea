"""Compiled products of weights with patterns that end in zeros, machine by machine: none sees another's numbers.

Arrays, all in one precision: weights u (M, K, N'), patterns x (P, N') with zeros from ``ends`` (P,) on, which grow
along P and are multiples of 16, minibatches ``index`` (M, B) in rising order.  Four patterns and three units at a
time: twelve sums are what the registers hold.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Lets sums be vectorised, always alike; NaN and infinity keep their meaning.
_SUMS = {"reassoc", "contract", "nsz"}

# Weights decay in directions that no pattern feeds, and slopes in the tails; denormal numbers are many times slower.
_SMALLEST = 1e-30


@njit(cache=True, nogil=True, fastmath=_SUMS)
def project(u, x, ends, index, h):
    """Fill ``h[m, k, b] = Σ_i u[m, k, i] x[index[m, b], i]``; `index` has a row for each machine, or one for all."""
    n_units, n_patterns = h.shape[1:]
    in_fours, in_threes = n_patterns - n_patterns % 4, n_units - n_units % 3
    for m in range(len(u)):
        w, batch, out = u[m], index[m % len(index)], h[m]
        for b in range(0, in_fours, 4):
            x0, x1, x2, x3 = x[batch[b]], x[batch[b + 1]], x[batch[b + 2]], x[batch[b + 3]]
            end = ends[batch[b + 3]]
            for k in range(0, in_threes, 3):
                u0, u1, u2 = w[k], w[k + 1], w[k + 2]
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
                out[k, b], out[k, b + 1], out[k, b + 2], out[k, b + 3] = h00, h01, h02, h03
                out[k + 1, b], out[k + 1, b + 1], out[k + 1, b + 2], out[k + 1, b + 3] = h10, h11, h12, h13
                out[k + 2, b], out[k + 2, b + 1], out[k + 2, b + 2], out[k + 2, b + 3] = h20, h21, h22, h23
            for k in range(in_threes, n_units):
                for j in range(b, b + 4):
                    out[k, j] = _dot(w[k], x[batch[j]], end)
        for b in range(in_fours, n_patterns):
            for k in range(n_units):
                out[k, b] = _dot(w[k], x[batch[b]], ends[batch[b]])


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _dot(u, x, end):
    total = u.dtype.type(0)
    for i in range(end):
        total += u[i] * x[i]
    return total


@njit(cache=True, nogil=True, fastmath=_SUMS)
def advance(u, x, ends, index, slopes, gain, pull, anchors, amplitude, noise, step):
    """``u ← norm((1 − pull) u + pull anchor + amplitude noise + gain Σ_b slopes[:, b] x[index[b]])`` of every machine.

    slopes (M, K, B), anchors (A, K, N'), each of M/A machines in a row, or none; noise (M, L, K, N'), of which `step`
    is taken, or none.  A row whose norm overflows, or is 0, becomes NaN.
    """
    for m in range(len(u)):
        if len(anchors) > 0:
            _add_scaled(u[m], 1 - pull, anchors[m * len(anchors) // len(u)], pull)
        if len(noise) > 0:
            _add_scaled(u[m], u.dtype.type(1), noise[m, step], amplitude)
        _add_patterns(u[m], x, ends, index[m], _without_denormals(gain * slopes[m]))
        _normalize(u[m])


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _add_scaled(u, keep, other, factor):
    """``u ← keep u + factor other``, shapes (K, N')."""
    for k in range(len(u)):
        for i in range(u.shape[1]):
            u[k, i] = keep * u[k, i] + factor * other[k, i]


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _without_denormals(s):
    smallest, zero = s.dtype.type(_SMALLEST), s.dtype.type(0)
    for k in range(len(s)):
        for b in range(s.shape[1]):
            s[k, b] = zero if abs(s[k, b]) < smallest else s[k, b]
    return s


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
def _normalize(u):
    """Divide the rows of u (K, N') by their norms."""
    smallest, zero = u.dtype.type(_SMALLEST), u.dtype.type(0)
    for k in range(len(u)):
        squares = zero
        for i in range(u.shape[1]):
            squares += u[k, i] * u[k, i]
        scale = u.dtype.type(1 / math.sqrt(squares) if squares < np.inf else np.nan)  # 0 times ∞ is NaN, too
        for i in range(u.shape[1]):
            value = scale * u[k, i]
            u[k, i] = zero if abs(value) < smallest else value
