"""Belief propagation with one message per edge: the plain form, for any real inputs.

Weight (k, i) and pattern μ exchange Gaussian messages: A, B (inverse variance, and mean times it) from the pattern,
the cavity mean m and variance ρ from the weight.  Where the prior has scales s, these are messages about (w' - w)/s,
which see the inputs s x̂ and are 0 in the reference.  It costs O(PKN) memory and time per sweep, converges slowly on
correlated inputs, and is what `node_bp` is checked against.
"""

from __future__ import annotations

import numpy as np

from bpflat.estimators.kernels import _edge_sweep
from bpflat.estimators.point import Point
from bpflat.estimators.posterior import IndependentWeights
from bpflat.estimators.problem import Problem


def solve(
    problem: Problem,
    delta: float,
    start: Point | None = None,
    *,
    damping: float = 0.0,
    tolerance: float = 1e-10,
    max_sweeps: int = 2000,
) -> Point:
    """Find the fixed point of one reference as `bpflat.bp.solve_edges` does, with messages A and B (P, K, N)."""
    x, center = np.ascontiguousarray(problem.inputs.x), _center(problem)
    offset = np.zeros_like(problem.hidden) if problem.is_isotropic else problem.hidden
    offset, scale = offset - problem.node.margin * problem.labels, center * 0 + problem.scale
    floor = offset * 0 + problem.floor
    shape = (len(x), *center.shape)
    a, b = (np.zeros(shape), np.zeros(shape)) if start is None else (m.copy() for m in start.messages)
    precision, field = 1 / delta + a.sum(axis=0), center / delta + b.sum(axis=0)
    gradient, curvature, log_z = np.zeros(shape[:2]), np.zeros(shape[:2]), np.zeros(len(x))
    order = np.arange(len(x))
    residual, sweeps = np.inf, 0
    messages = (a, b, precision, field, gradient, curvature, log_z)
    labels, factors = problem.labels, problem.node.factors
    while sweeps < max_sweeps and residual > tolerance * (1 - damping):
        sweeps += 1
        residual = _edge_sweep(x, scale, offset, floor, labels, factors, order, damping, *messages)
    converged = bool(residual <= tolerance * (1 - damping))
    log_z, excess = _bethe(center, delta, a, b, precision, field / precision, log_z)
    n_weights = int(problem.n_weights)
    excess *= center.size / n_weights
    return Point(float(delta), log_z / n_weights, excess, converged, sweeps, float(residual), (a, b))


def posterior(problem: Problem, point: Point) -> IndependentWeights:
    """The weights of one reference at a point that `solve` found."""
    center, scale, (a, b) = _center(problem), problem.scale, point.messages
    precision = 1 / point.delta + a.sum(axis=0)
    field = center / point.delta + b.sum(axis=0)
    return IndependentWeights(scale * (field / precision - center), scale**2 / precision)


def _center(problem):
    """What the messages are about in the reference: its weights, or 0 (K, N) where the prior has scales."""
    return problem.weights if problem.is_isotropic else np.zeros_like(problem.weights)


def _bethe(center, delta, a, b, precision, mean, log_z):
    """Bethe free energy from messages A, B (P, K, N) and marginals (K, N): log Z, and the mean of ε = 2d/Δ - 1."""
    prior = -0.5 * np.log(delta * precision) + 0.5 * (precision * mean**2 - center**2 / delta)
    total = prior.sum() + log_z.sum()
    for a_mu, b_mu in zip(a, b, strict=True):  # a pattern at a time: (P, K, N) temporaries would be large
        cavity_precision = precision - a_mu
        cavity = (precision * mean - b_mu) / cavity_precision
        total -= 0.5 * (np.log(cavity_precision / precision) + precision * mean**2 - cavity_precision * cavity**2).sum()
    excess = np.mean(((mean - center) ** 2 + 1 / precision) / delta) - 1
    return float(total), float(excess)
