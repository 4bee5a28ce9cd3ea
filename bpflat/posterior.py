"""The local posterior that a curve of the local entropy may hold: overlaps, moments of the weights, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bpflat.arguments import check_choice, check_flag, check_labels
from bpflat.estimators.tempering import jackknife_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bpflat.estimators.point import Point

_Floats = NDArray[np.float64]
_RULES = ("gibbs", "bayes")


@dataclass(frozen=True, eq=False, kw_only=True)
class HeldPosterior:
    """Fields and methods of `bpflat.LocalEntropyCurve` about the weights w' whose log fraction Φ is."""

    posterior_layout: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("overlap", "overlap_error"), "f R? D"),
        **dict.fromkeys(("reference_overlap", "reference_overlap_error"), "f R? D"),
        "vote_probability": "f R? D Q",
        "vote_jackknife": "f R? D C Q",
        **dict.fromkeys(("weight_mean", "weight_mean_error"), "f R? D K N"),
        **dict.fromkeys(("weight_variance", "weight_variance_error"), "f R? D K N"),
    }

    overlap: _Floats | None = None
    overlap_error: _Floats | None = None
    reference_overlap: _Floats | None = None
    reference_overlap_error: _Floats | None = None
    vote_probability: _Floats | None = None
    vote_jackknife: _Floats | None = None
    weight_mean: _Floats | None = None
    weight_mean_error: _Floats | None = None
    weight_variance: _Floats | None = None
    weight_variance_error: _Floats | None = None

    def predict(self) -> NDArray[np.int8]:
        """Bayes prediction at the patterns of ``local_entropy(..., predict_at=patterns)``: the posterior's majority.

        Returns
        -------
        ndarray of int8, shape (D, Q) or (R, D, Q)
            ±1, +1 where votes are even; 0 at points that did not converge.

        Raises
        ------
        ValueError
            When the curve holds no predictions.

        Examples
        --------
        >>> import numpy as np
        >>> from bpflat import committee, local_entropy
        >>> rng = np.random.default_rng(0)
        >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
        >>> new, labels = rng.choice([-1.0, 1.0], size=(5, 101)), committee.predict(weights, patterns)
        >>> curve = local_entropy(weights, patterns, labels, [1e-6, 0.5], predict_at=new)
        >>> bool((curve.predict()[0] == committee.predict(weights, new)).all())  # near the reference
        True
        """
        votes = self._votes()
        return np.where(np.isnan(votes), 0, np.where(votes >= 0.5, 1, -1)).astype(np.int8)

    def test_error(
        self, labels: ArrayLike, *, rule: str = "gibbs", balanced: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Test error of the local posterior at the patterns of ``local_entropy(..., predict_at=patterns)``.

        Parameters
        ----------
        labels : array_like, shape (Q,)
            ±1, of those patterns.
        rule : {"gibbs", "bayes"}
            "gibbs" is the mean error of a w' drawn from the posterior, "bayes" the error of the majority of all of
            them, pattern by pattern.
        balanced : bool
            Average the error of the two classes instead of the patterns.

        Returns
        -------
        error : ndarray, shape (D,) or (R, D)
            A fraction in [0, 1]; NaN where not converged.
        std_error : ndarray, shape (D,) or (R, D)
            Its standard error by "mcmc", a jackknife over chains; rough for "bayes", whose error has jumps.  NaN for
            methods that do not sample.

        Raises
        ------
        ValueError
            When the curve holds no predictions, for labels other than ±1 or not one for each pattern, an unknown rule,
            or `balanced` with a class missing.

        Examples
        --------
        >>> import numpy as np
        >>> from bpflat import committee, local_entropy
        >>> rng = np.random.default_rng(0)
        >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
        >>> new, labels = rng.choice([-1.0, 1.0], size=(40, 101)), committee.predict(weights, patterns)
        >>> curve = local_entropy(weights, patterns, labels, distances=[0.01, 0.5], predict_at=new)
        >>> gibbs, _ = curve.test_error(committee.predict(weights, new))
        >>> bool(0 < gibbs[0] < gibbs[1] < 0.5)
        True
        """
        votes = self._votes()
        labels = check_labels(labels, votes.shape[-1])
        rule, balanced = check_choice("rule", rule, _RULES), check_flag("balanced", balanced)
        share = np.full(labels.shape, 1 / labels.size)
        if balanced:
            if np.all(labels == labels[0]):
                raise ValueError("labels hold one class only; the balanced error needs both")
            share = np.where(labels > 0, 0.5 / np.count_nonzero(labels > 0), 0.5 / np.count_nonzero(labels < 0))

        def error_of(probability: _Floats) -> _Floats:
            if rule == "bayes":
                probability = np.where(np.isnan(probability), np.nan, probability >= 0.5)
            return np.where(labels > 0, 1 - probability, probability) @ share

        error = error_of(votes)
        if self.vote_jackknife is None:
            return error, np.full(error.shape, np.nan)
        return error, jackknife_error(error_of(self.vote_jackknife), axis=-1)

    def _votes(self) -> _Floats:
        if self.vote_probability is None:
            raise ValueError("the curve holds no predictions; measure it with predict_at, the patterns to predict at")
        return self.vote_probability


def fields_of(points: Sequence[Sequence[Point]], shape: tuple[int, ...]) -> dict[str, Any]:
    """Fields of `HeldPosterior` from the points of each reference: arrays whose first axes are those of a curve."""
    told = [point.posterior for curve in points for point in curve]
    if told[0] is None:
        return {}
    columns = {name: [getattr(posterior, name) for posterior in told] for name in HeldPosterior.posterior_layout}
    arrays = {name: np.array(values) for name, values in columns.items() if values[0] is not None}
    return {name: array.reshape(*shape, *array.shape[1:]) for name, array in arrays.items()}
