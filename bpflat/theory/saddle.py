"""The saddle point of the free entropy: order parameters that weights and patterns agree on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import root

from bpflat.theory.patterns import Overlaps, PatternAverages, Reference
from bpflat.theory.quadrature import ORDERS
from bpflat.theory.weights import Fields, Weights

_Floats = NDArray[np.float64]
Patterns = Callable[[Overlaps, Reference | None, float, int], PatternAverages]

PRECISION = 1e-8
"""Largest error of quadrature, and of the equations, of a point that counts as converged."""

_N_ITERATIONS = (30, 100)  # of the equations, before the solver starts, and starts again
_LOWEST = 1e-300


@dataclass(frozen=True)
class Problem:
    """One replica-symmetric free entropy.

    Attributes
    ----------
    alpha : float
        Patterns per weight.
    weights : Weights
    patterns : callable
        `bpflat.theory.patterns.perceptron` or `tree_committee`.
    reference : Reference or None
        None for labels that nobody gives.
    kappa : float
        Margin of the replicas.
    overlap : float or None
        p, where it is given; else it is one of the order parameters.
    """

    alpha: float
    weights: Weights
    patterns: Patterns
    reference: Reference | None = None
    kappa: float = 0.0
    overlap: float | None = None

    @property
    def base(self) -> Reference:
        """The reference, or one that nothing depends on."""
        return self.reference or Reference()

    def fields(self, x: _Floats) -> Fields:
        """Fields from the unknowns (ln a, c, b), as many as there are."""
        return Fields(np.exp(x[0]), *x[1:])

    def equations(self, x: _Floats) -> _Floats:
        """Fields that the patterns exert on weights in the fields `x`, minus `x`.

        ``q̂ = −2α ∂E/∂q``, ``r̂ = −α ∂E/∂r``, ``p̂ = α dE/dp`` with ``|w'|²`` and q moving along where w' = w̃ + u; where p
        is given, a Newton step of c, for atanh p, instead (dp/dc = V).
        """
        overlaps = self.weights.overlaps(self.fields(x), self.base, ORDERS[0])
        at = self.patterns(overlaps, self.reference, self.kappa, ORDERS[0])
        r_hat = np.float64(-self.alpha * at.others)
        shared = r_hat / np.sqrt(self.base.field) if len(x) > 2 else np.float64(0)
        new = [np.log(max(-2 * self.alpha * at.overlap - shared**2, _LOWEST)), 0.0, shared][: len(x)]
        if len(x) > 1 and self.overlap is None:
            p_hat = self.alpha * (at.reference + 2 * self.weights.shift * (at.norm + at.overlap))
            new[1] = p_hat - (r_hat if len(x) > 2 else 0.0)
        elif len(x) > 1:
            p = np.float64(overlaps.reference)
            new[1] = x[1] + (np.arctanh(self.overlap) - np.arctanh(p)) * (1 - p**2) / overlaps.variance
        return np.array(new) - x

    def free_entropy(self, fields: Fields, overlaps: Overlaps, order: int) -> float:
        """Entropy of the weights plus α times the free entropy of a pattern."""
        log_z = self.patterns(overlaps, self.reference, self.kappa, order).log_z
        return self.weights.entropy(fields, overlaps, self.base, order) + self.alpha * log_z


@dataclass(frozen=True)
class Saddle:
    """A solution.

    Attributes
    ----------
    free_entropy : float
        Nats per weight.
    error : float
        Difference of two orders of quadrature.
    fields : Fields
    overlaps : Overlaps
    averages : PatternAverages
    replicon : float
        ``1 − α ⟨Γ²⟩⟨V²⟩``; where it is negative replica symmetry is broken (de Almeida and Thouless 1978).
    """

    free_entropy: float
    error: float
    fields: Fields
    overlaps: Overlaps
    averages: PatternAverages
    replicon: float


def solve(problem: Problem) -> Saddle | None:
    """The saddle point that grows out of weights without patterns, or None where there is none.

    The equations are iterated a few times and then solved by Powell's hybrid method (MINPACK).
    """
    with np.errstate(all="ignore"):  # trial points may be anywhere; what is not finite does not converge
        x = _solution(problem)
        if x is None:
            return None
        fields = problem.fields(x)
        overlaps = problem.weights.overlaps(fields, problem.base, ORDERS[0])
        coarse, fine = (problem.free_entropy(fields, overlaps, order) for order in ORDERS)
        error = abs(fine - coarse)
        if not error <= PRECISION * max(1, abs(fine)):
            return None
        averages = problem.patterns(overlaps, problem.reference, problem.kappa, ORDERS[0])
        square = problem.weights.square_variance(fields, problem.base, ORDERS[0])
        replicon = 1 - problem.alpha * averages.curvature * square
    return Saddle(fine, error, fields, overlaps, averages, float(replicon))


def _solution(problem: Problem) -> _Floats | None:
    """The unknowns that solve the equations to `PRECISION`, or None."""
    x = _start(problem)
    for n_iterations in _N_ITERATIONS:
        for _ in range(n_iterations):
            longest = np.maximum(1, np.abs(x) / 4)
            x = x + np.clip(problem.equations(x), -longest, longest)
        if not np.isfinite(x).all():
            return None
        solution = root(problem.equations, x, method="hybr", options={"xtol": 1e-11})
        if (np.abs(solution.fun) <= PRECISION * np.maximum(1, np.abs(solution.x))).all():
            return np.array(solution.x)
    return None


def _start(problem: Problem) -> _Floats:
    """Next to no fields, but for the one that holds a given overlap."""
    x = [np.log(1e-6 * problem.alpha)]
    if problem.reference is not None:
        x.append(0.0 if problem.overlap is None else np.arctanh(problem.overlap))
        if problem.reference.overlap:
            x.append(0.0)
    return np.array(x)
