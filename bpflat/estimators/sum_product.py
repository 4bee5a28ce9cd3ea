"""The sum-product algorithm for weights ±1: one message per edge, and no central limit.

Pattern μ tells weight (k, i) the field ``B = ½ log Z_μ(w_ki = +1)/Z_μ(w_ki = -1)``, the chances of a right vote of all
the other weights, which are independent with the means ``m_{ki→μ} = tanh(T_ki - B_{μ→ki})``, ``T = γ w̃ + Σ_ν B_ν``.
Where the inputs of a pattern are 0 or ±c, a hidden sign and the vote are both majorities, whose distributions are
Poisson-binomial sums: exact, ties included (a pre-activation of 0 counts as +1), at O(N²) for each pattern and unit.
On trees, one pattern or several that share no input, log Z and d are exact.  `binary` is faster and takes all inputs,
and this shows how far its central limit is off.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from bpflat.estimators.binary import BinaryPoint, anchor, anchored_point
from bpflat.estimators.point import Point
from bpflat.estimators.problem import Problem
from bpflat.signs import log_cosh


@njit(cache=True)
def _majority(p, threshold, above, below):
    """P(at least t of n independent events happen), from their probabilities p (n,).

    Fills above and below (n,) with the same where event i is known to happen, or not to.
    """
    n = len(p)
    after = np.zeros((n + 1, n + 2))  # P(at least j of the events from i on)
    after[:, 0] = 1.0
    for i in range(n - 1, -1, -1):
        for j in range(1, n - i + 1):
            after[i, j] = p[i] * after[i + 1, j - 1] + (1 - p[i]) * after[i + 1, j]
    before = np.zeros(n + 1)  # P(j of the events before i)
    before[0] = 1.0
    for i in range(n):
        above[i] = below[i] = 0.0
        for j in range(i + 1):
            above[i] += before[j] * after[i + 1, max(threshold - 1 - j, 0)]
            below[i] += before[j] * after[i + 1, max(threshold - j, 0)]
        for j in range(i + 1, 0, -1):
            before[j] = before[j] * (1 - p[i]) + before[j - 1] * p[i]
        before[0] *= 1 - p[i]
    return after[0, threshold]


@njit(cache=True)
def _sweep(signs, labels, soft, damping, total, messages, log_z):
    """Update all messages (P, K, N) and total fields (K, N) in place, pattern after pattern.

    signs (P, N) are those of the inputs; ``soft = e^{-β}`` is the factor of a wrong pattern.  Fills log Z (P,) of the
    patterns; returns the largest change of a message.
    """
    n_hidden = len(total)
    agree, up, down = np.empty(n_hidden), np.empty(n_hidden), np.empty(n_hidden)
    change = 0.0
    for mu in range(len(labels)):
        seen = np.flatnonzero(signs[mu])
        n = len(seen)
        # a tie of hidden inputs is a +1
        threshold = (n + 1) // 2 if labels[mu] > 0 else n // 2 + 1
        above, below = np.empty((n_hidden, n)), np.empty((n_hidden, n))
        p = np.empty(n)
        for k in range(n_hidden):
            for j in range(n):
                i = seen[j]
                field = total[k, i] - messages[mu, k, i]
                p[j] = 1 / (1 + np.exp(-2 * labels[mu] * signs[mu, i] * field))
            agree[k] = _majority(p, threshold, above[k], below[k])
        right = _majority(agree, (n_hidden + 1) // 2, up, down)
        log_z[mu] = np.log(soft + (1 - soft) * right)
        for k in range(n_hidden):
            for j in range(n):
                i = seen[j]
                more = soft + (1 - soft) * (down[k] + (up[k] - down[k]) * above[k, j])
                less = soft + (1 - soft) * (down[k] + (up[k] - down[k]) * below[k, j])
                if not less > 1e-300:
                    less = 1e-300
                new = 0.5 * labels[mu] * signs[mu, i] * np.log(more / less)
                step = (1 - damping) * (new - messages[mu, k, i])
                messages[mu, k, i] += step
                total[k, i] += step
                change = max(change, abs(step))
    return change


def solve(
    problem: Problem,
    delta: float,
    start: Point | None = None,
    *,
    damping: float = 0.0,
    tolerance: float = 1e-12,
    max_sweeps: int = 2000,
) -> BinaryPoint:
    """Find the fixed point of one reference at odds Δ of a flip, with the messages B (P, K, N)."""
    signs, shape = np.sign(problem.inputs.patterns), (*problem.hidden.shape[::-1], problem.inputs.n_inputs)
    prior = anchor(problem, delta)
    messages = start.messages[0].copy() if start else np.zeros(shape)
    total, log_z = prior + messages.sum(axis=0), np.zeros(len(signs))
    soft = 0.0 if problem.beta is None else float(np.exp(-problem.beta))
    residual, sweeps = np.inf, 0
    while sweeps < max_sweeps and residual > tolerance * (1 - damping):
        sweeps += 1
        residual = _sweep(signs, problem.labels, soft, damping, total, messages, log_z)
    # log Z of patterns is that of the newest cavities, so of the fixed point to the tolerance
    bethe = np.sum(log_cosh(total) - log_cosh(prior)) + log_z.sum()
    bethe -= np.sum(log_cosh(total) - log_cosh(total - messages))
    errors = float(np.sum(np.exp(-log_z) - 1) * soft / (1 - soft)) if soft else 0.0  # e^{-β} (1 - Z)/Z' for each
    return anchored_point(
        problem,
        delta,
        total - prior,
        float(bethe),
        errors,
        bool(residual <= tolerance * (1 - damping)),
        n_iter=sweeps,
        residual=float(residual),
        messages=(messages,),
    )
