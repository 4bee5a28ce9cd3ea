"""The local posterior: the measure whose normalisation is Z(w, Δ), its marginals, overlaps and votes on new patterns.

Belief and expectation propagation make the weights Gaussian, unit by unit, so that pre-activations of a new pattern
are Gaussian too and the K signs of its vote are independent; Monte Carlo averages such votes over its states.  All of
it is about the displacements ``w' - w``: near a reference the weights differ from it by little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bpflat.estimators import tempering
from bpflat.estimators.problem import Problem
from bpflat.estimators.tables import majority_vote

if TYPE_CHECKING:
    from bpflat.estimators.point import Point

_Floats = NDArray[np.float64]
_ROUNDING = 1e-10  # of a variance: what is left of it below this is 0


@dataclass(frozen=True)
class Question:
    """What is asked about a local posterior besides its overlaps: votes on patterns (Q, N), marginals of weights."""

    patterns: _Floats | None
    marginals: bool


@dataclass(frozen=True)
class Posterior:
    """What is known about the local posterior of one reference at one Δ.

    Overlaps are those of `bpflat.posterior.HeldPosterior`, and so are votes (Q,), one row a left-out chain (C, Q), and
    moments of the weights (K, N); None where they were not asked for, or have no statistical error.
    """

    overlap: float
    reference_overlap: float
    overlap_error: float = np.nan
    reference_overlap_error: float = np.nan
    vote_probability: _Floats | None = None
    vote_jackknife: _Floats | None = None
    weight_mean: _Floats | None = None
    weight_variance: _Floats | None = None
    weight_mean_error: _Floats | None = None
    weight_variance_error: _Floats | None = None


class GaussianWeights(Protocol):
    """Gaussian displacements ``w' - w`` of the weights, independent between hidden units."""

    @property
    def mean(self) -> _Floats:
        """Means (K, N)."""

    @property
    def variance(self) -> _Floats:
        """Variances (K, N)."""

    def variance_along(self, directions: _Floats) -> _Floats:
        """Variances (K, Q) of ``Σ_i a_i (w'_ki - w_ki)`` for directions a (Q, N)."""


@dataclass(frozen=True)
class IndependentWeights:
    """Weights of belief propagation: those of a unit are independent."""

    mean: _Floats
    variance: _Floats

    def variance_along(self, directions: _Floats) -> _Floats:
        """The same as in `GaussianWeights`."""
        return self.variance @ np.square(directions).T


def of_gaussian(problem: Problem, weights: GaussianWeights, question: Question) -> Posterior:
    """What there is to know about Gaussian weights around one reference."""
    reference, mean = problem.weights, weights.mean
    votes = None
    if question.patterns is not None:
        inputs = question.patterns / problem.inputs.n_inputs**0.5
        votes = vote_probability((reference + mean) @ inputs.T, weights.variance_along(inputs))
    pull = np.sum(reference * mean)
    return Posterior(
        overlap=_norm(reference) + (2 * pull + np.sum(mean**2)) / mean.size,
        reference_overlap=_norm(reference) + pull / mean.size,
        vote_probability=votes,
        weight_mean=reference + mean if question.marginals else None,
        weight_variance=weights.variance if question.marginals else None,
    )


def _norm(reference: _Floats) -> float:
    """``|w|²/(KN)``: 1 but for hidden units without weights."""
    return float(np.mean(reference**2))


def vote_probability(omega: _Floats, variance: _Floats) -> _Floats:
    """Probabilities (Q,) that votes of K signs say +1, from means and variances (K, Q); 0 makes a sign certain."""
    certain = np.where(omega >= 0, 1e6, -1e6)
    is_still = ~(variance > 0)
    omega, variance = np.where(is_still, certain, omega), np.where(is_still, 1.0, variance)
    return np.exp(majority_vote(len(omega)).output(omega, variance, np.ones(omega.shape[-1]))[2])


# --- from samples -------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """The weights, and votes on new patterns, as states z (K, r) of a chain show them: ``w' - w = z·basis + noise``.

    Attributes
    ----------
    reference : ndarray, shape (K, N)
    basis : ndarray, shape (K or 1, r, N)
        How far z moves the weights; one for all hidden units, if they are alike.
    noise : ndarray, shape (K or 1, N)
        Variances of the weights along directions that no training pattern sees and z leaves out.
    votes : tuple of ndarray, optional
        New patterns' pre-activations in the reference (K, Q), how far z moves them (K or 1, r, Q), and their variances
        along the directions that z leaves out (K or 1, Q).
    allowed : int
        Training errors that states may make.
    beta : float, optional
        The last of the chain, where states count as they come instead.
    """

    reference: _Floats
    basis: _Floats
    noise: _Floats
    votes: tuple[_Floats, _Floats, _Floats] | None
    allowed: int
    beta: float | None

    @classmethod
    def of(
        cls,
        problem: Problem,
        delta: float,
        factor: _Floats,
        sizes: _Floats,
        beta: float | None,
        question: Question,
    ) -> View:
        """Make one from ``√Δ Lᵀ`` (K or 1, r, P), with ``C = L Lᵀ`` of patterns over their sizes (K or 1, P).

        From ``C = U λ Uᵀ = x̂ s² x̂ᵀ`` and ``L = U λ^½``, coordinates z are along the orthonormal rows ``λ^-½ Uᵀ x̂ s``.
        """
        reference, n_inputs = problem.weights, problem.inputs.n_inputs
        prior = delta * np.broadcast_to(np.square(problem.scale), (len(factor), n_inputs))
        power = np.sum(factor**2, axis=-1, keepdims=True)  # Δλ; 0 in rows that are padding
        along = np.divide(factor, power, out=np.zeros_like(factor), where=power > 0) / sizes[:, None, :]
        basis = (along @ problem.inputs.x) * prior[:, None, :]
        noise = np.maximum(prior - np.sum(basis**2, axis=1), 0.0)
        counted = int(problem.n_errors), beta
        if question.patterns is None:
            return cls(reference, basis, noise, None, *counted)
        inputs = question.patterns / n_inputs**0.5
        moved, spread = basis @ inputs.T, prior @ np.square(inputs).T
        rest = spread - np.sum(moved**2, axis=1)
        rest = np.where(rest > _ROUNDING * spread, rest, 0.0)
        return cls(reference, basis, noise, (reference @ inputs.T, moved, rest), *counted)

    def at(self, z: _Floats, errors: float, last: float) -> Sums:
        """A state of the last temperature, its errors given, as the sums over one state."""
        weight = tempering.weights_at_last(np.array(errors), last, self.allowed, self.beta)
        displacement, votes = _moved(z, self.basis), np.empty(0)
        if self.votes is not None:
            hidden, moved, rest = self.votes
            omega = hidden + _moved(z, moved)
            votes = vote_probability(omega, np.broadcast_to(rest, omega.shape))
        return Sums(weight, weight * displacement, weight * displacement**2, weight * votes)


def _moved(z: _Floats, basis: _Floats) -> _Floats:
    """``z_k·basis_k``, (K, M) from z (K, r) and a basis (K or 1, r, M)."""
    return z @ basis[0] if len(basis) == 1 else (z[:, None, :] @ basis)[:, 0]


class Sums(NamedTuple):
    """Sums over states, how much each counts times what a `View` shows: 1, displacements, squares, probabilities.

    Of one chain, (), (K, N), (K, N) and (Q,), or of each of C chains, with an axis before.
    """

    weight: _Floats
    displacement: _Floats
    square: _Floats
    votes: _Floats


def of_samples(view: View, sums: Sums, question: Question) -> Posterior:
    """What chains tell, with jackknife errors: a chain is left out, one after the other.

    The product of the means of different chains stands for the square of the mean, which would be too large.
    """
    if not sums.weight.all():  # no allowed state among those of a chain
        return unknown(view.reference, question, len(sums.weight))
    total, reference = sums.weight.sum(), view.reference
    left = (total - sums.weight)[:, None]
    mean, square = sums.displacement.sum(axis=0) / total, sums.square.sum(axis=0) / total
    product = sums.displacement.sum(axis=0) ** 2 - np.sum(sums.displacement**2, axis=0)
    product /= total**2 - np.sum(sums.weight**2)
    means = (sums.displacement.sum(axis=0) - sums.displacement) / left[..., None]
    variances = (sums.square.sum(axis=0) - sums.square) / left[..., None] - means**2
    pull, pulls = np.sum(reference * mean), np.sum(reference * means, axis=(-2, -1))
    told = Posterior(
        overlap=_norm(reference) + (2 * pull + product.sum()) / mean.size,
        reference_overlap=_norm(reference) + pull / mean.size,
        overlap_error=float(tempering.jackknife_error(2 * pulls + np.sum(means**2, axis=(-2, -1)))) / mean.size,
        reference_overlap_error=float(tempering.jackknife_error(pulls)) / mean.size,
    )
    if question.patterns is not None:
        without = (sums.votes.sum(axis=0) - sums.votes) / left
        told = replace(told, vote_probability=sums.votes.sum(axis=0) / total, vote_jackknife=without)
    if not question.marginals:
        return told
    return replace(
        told,
        weight_mean=reference + mean,
        weight_variance=square - product + view.noise,
        weight_mean_error=tempering.jackknife_error(means),
        weight_variance_error=tempering.jackknife_error(variances),
    )


# --- points ----------------------------------------------------------------------------------------


def unknown(reference: _Floats, question: Question, n_chains: int | None = None) -> Posterior:
    """NaN for everything asked about a point that did not converge; by so many chains, if by any."""
    told = Posterior(np.nan, np.nan)
    if question.patterns is not None:
        n_votes = len(question.patterns)
        without = None if n_chains is None else np.full((n_chains, n_votes), np.nan)
        told = replace(told, vote_probability=np.full(n_votes, np.nan), vote_jackknife=without)
    if question.marginals:
        moments = ["weight_mean", "weight_variance"]
        moments += [] if n_chains is None else ["weight_mean_error", "weight_variance_error"]
        told = replace(told, **{name: np.full(reference.shape, np.nan) for name in moments})
    return told


def finished(
    problem: Problem, question: Question | None, posterior: Callable[[Problem, Point], GaussianWeights], point: Point
) -> Point:
    """A point of one reference, without its messages, that tells what it is asked of its local posterior, if it is."""
    told = None
    if question is not None and point.converged:
        told = of_gaussian(problem, posterior(problem, point), question)
    elif question is not None:
        told = unknown(problem.weights, question)
    return replace(point, messages=(), posterior=told)
