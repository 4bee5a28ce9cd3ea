"""The saddle point of the free entropy: order parameters that weights and patterns agree on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, root

from bpflat.theory.patterns import Overlaps, PatternAverages, Reference
from bpflat.theory.quadrature import ORDERS
from bpflat.theory.weights import Fields, Weights

_Floats = NDArray[np.float64]
Patterns = Callable[[Overlaps, Reference | None, float, int], PatternAverages]

PRECISION = 1e-8
"""Largest error of quadrature, and of the equations, of a point that counts as converged."""

_N_ITERATIONS = (30, 100)  # of the equations, before the solver starts, and starts again
_LOWEST = 1e-300
_FARTHEST = 1e8  # field on a weight, far above any that a distance of 1e-12 takes


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
        """Fields from the unknowns (ln a, c, b), as many as there are; c follows from p where that is given."""
        noise = np.exp(x[0])
        if self.overlap is None:
            return Fields(noise, *x[1:])
        shared = x[1] if len(x) > 1 else 0.0
        return Fields(noise, self._own(self.overlap, noise, shared), shared)

    def _own(self, overlap: float, noise: float, shared: float) -> float:
        """The c that gives w' the overlap p with its reference."""

        def excess(c: float) -> float:
            return self.weights.overlaps(Fields(noise, c, shared), self.base, ORDERS[0]).reference - overlap

        far = 20 + abs(np.arctanh(overlap)) + 12 * (np.sqrt(noise) + abs(shared))
        if not far < _FARTHEST:
            return np.nan
        return float(brentq(excess, -far, far, xtol=1e-12, rtol=1e-14))

    def equations(self, x: _Floats) -> _Floats:
        """Fields that the patterns exert on weights in the fields `x`, minus `x`.

        ``q̂ = −2α ∂E/∂q``, ``r̂ = −α ∂E/∂r``, ``p̂ = α dE/dp`` with ``|w'|²`` and q moving along where w' = w̃ + u.
        """
        overlaps = self.weights.overlaps(self.fields(x), self.base, ORDERS[0])
        at = self.patterns(overlaps, self.reference, self.kappa, ORDERS[0])
        p_hat = self.alpha * (at.reference + 2 * self.weights.shift * (at.norm + at.overlap))
        r_hat = shared = np.float64(0)
        if self.base.overlap:
            r_hat = np.float64(-self.alpha * at.others)
            shared = r_hat / np.sqrt(self.base.field)
        new = [np.log(max(-2 * self.alpha * at.overlap - shared**2, _LOWEST))]
        if self.reference is not None and self.overlap is None:
            new.append(p_hat - r_hat)
        if self.base.overlap:
            new.append(shared)
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
    """Fields of the order of those of few patterns."""
    n_others = (problem.reference is not None and problem.overlap is None) + (problem.base.overlap > 0)
    return np.array([np.log(0.1 * problem.alpha)] + [0.0] * n_others)
