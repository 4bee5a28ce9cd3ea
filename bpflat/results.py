"""What the measurements return: the curve of the local entropy and the profile of the local energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bpflat.arguments import check_axes
from bpflat.display import Brief, Tabulated
from bpflat.layout import check_finite
from bpflat.posterior import HeldPosterior
from bpflat.storage import StoredResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Floats = NDArray[np.float64]
_WEIGHED = {"count": "no more errors than the reference's", "cost": "errors at the cost beta"}  # what Φ is of


def check_references(fields: Mapping[str, Any]) -> None:
    """Raise a ValueError where the errors of the references are not finite, or their names are not one for each."""
    check_finite(fields, "train_error")
    if np.ndim(fields["reference"]) and np.shape(fields["reference"]) != np.shape(fields["train_error"]):
        raise ValueError("reference must be one text, or one for each reference")


def _check_together(fields: Mapping[str, Any], *names: str) -> None:
    """Raise a ValueError where some of these fields are there and others not."""
    if len({fields[name] is None for name in names}) > 1:
        raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} must all be there, or none")


class Curves(Tabulated, StoredResult):
    """Base of results that are curves with standard errors, one per reference."""

    labels: ClassVar[tuple[str, str]]
    """Names of the two axes of a plot."""
    _columns: ClassVar[tuple[str, str, str]]  # fields that are abscissae, values and standard errors

    def _curves(self) -> Iterator[tuple[_Floats, _Floats, _Floats]]:
        """Abscissae, values and standard errors, (D,) each, reference by reference."""
        x, values, errors = (np.atleast_2d(getattr(self, name)) for name in self._columns)
        yield from zip(np.broadcast_to(x, values.shape), values, errors, strict=True)

    def plot(self, ax: Axes | None = None, **style: Any) -> Axes:
        """Draw one curve per reference, with standard errors where there are some.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on; new ones, of a new figure, by default.
        **style
            Options of ``ax.plot`` (color, label, …); a label marks the first curve only.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ValueError
            When `ax` are no axes.
        """
        axes = _new_axes() if ax is None else check_axes(ax)
        for x, mean, error in self._curves():
            self._draw(axes, x, mean, error, style)
            style.pop("label", None)
        axes.set(xlabel=self.labels[0], ylabel=self.labels[1])
        return axes

    def _draw(self, ax: Axes, x: _Floats, mean: _Floats, error: _Floats, style: dict[str, Any]) -> None:
        """Draw one of the curves."""
        if np.isnan(error).all():
            ax.plot(x, mean, **style)
        else:
            ax.errorbar(x, mean, error, **style)


class Bands(Curves):
    """Base of those whose standard errors are drawn as bands."""

    def _draw(self, ax: Axes, x: _Floats, mean: _Floats, error: _Floats, style: dict[str, Any]) -> None:
        (line,) = ax.plot(x, mean, **style)
        ax.fill_between(x, mean - error, mean + error, color=line.get_color(), alpha=0.25, lw=0)


def _new_axes() -> Axes:
    import matplotlib.pyplot as plt  # most of a second, which callers without pictures need not wait for

    return plt.figure().add_subplot()


@dataclass(frozen=True, eq=False, repr=False)
class Cumulants(Brief):
    """The cumulant generating function ``log ⟨e^{-β E(w')}⟩`` of the number of training errors under the prior.

    It leads from the local energy to the local entropy: its slope at β = 0 is -⟨E⟩, that is ``-P (δE + E_train)``, and
    as β → ∞ it tends to ``log P(E = 0)``, for a reference without errors the log Z of eq. 3.  All of it counts errors
    and nats in total, not per pattern or weight.

    Attributes
    ----------
    beta : ndarray, shape (B,)
        Costs β ≥ 0 of an error, rising.
    log_mean_exp : ndarray, shape (S, B) or (R, S, B)
        ``log ⟨e^{-βE}⟩`` in nats, a row for each width of the prior; NaN where not converged.
    std_error : ndarray, shape (S, B) or (R, S, B)
        Standard error of `log_mean_exp`; NaN for methods that do not sample.
    mean_errors : ndarray, shape (S, B) or (R, S, B)
        ``⟨E⟩_β``, the mean number of errors of weights w' that weigh ``e^{-βE}``: minus the slope of `log_mean_exp`, by
        "bp" to O(1/N).
    mean_std_error : ndarray, shape (S, B), optional
        Standard error of `mean_errors`, where a torch model was sampled.  Where a smooth loss was measured, E is
        ``n (L − L₀)``, and ``β mean_errors`` the learning coefficient λ̂(β).

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import committee, local_entropy
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> labels = committee.predict(weights, patterns)
    >>> found = local_entropy(weights, patterns, labels, [0.1], betas=[0.0, 1.0, 10.0]).cumulants()
    >>> found.log_mean_exp.shape, bool((np.diff(found.log_mean_exp) < 0).all())
    ((1, 3), True)
    """

    beta: NDArray[np.float64]
    log_mean_exp: NDArray[np.float64]
    std_error: NDArray[np.float64]
    mean_errors: NDArray[np.float64]
    mean_std_error: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class LocalEntropyCurve(Curves, HeldPosterior):
    """Local entropy around one reference or R of them, one entry per point.

    Arrays have shape (D,) for one reference of shape (K, N) and (R, D) for references (R, K, N).

    Attributes
    ----------
    delta : ndarray
        Variance Δ of the Gaussian prior around the reference.
    distance : ndarray
        ``d = |w' - w|²/(2KN)`` of the typical solution at that Δ; NaN where not converged.
    log_z : ndarray
        ``log Z(w, Δ)/(KN)``, nats per weight; NaN where not converged.
    phi : ndarray
        ``Φ_LE(w, d) ≤ 0``, nats per weight; NaN where not converged.
    std_error : ndarray
        Standard error of `phi`; NaN for methods that do not sample.
    converged : ndarray of bool
    n_iter : ndarray of int
        Sweeps over all messages, or over all chains, that the point took.
    train_error : float or ndarray of shape (R,)
        Fraction of training errors of the reference itself; 0 without one.
    method : str
    beta : ndarray
        Cost β of an error, where one was given; else infinite: more errors than the reference's are forbidden.
    reference : str or ndarray of str, shape (R,)
        `bpflat.committee.fingerprint` of the weights as given; empty without a reference.
    scale : str
        Scales s of the prior: "isotropic", "multiplicative" (``s = |w|``), "filter", or "given" as an array.
    n_weights : int or ndarray of int, shape (R,), optional
        Perturbed weights n, those with s > 0; None in files of version 0.1.
    betas : ndarray, shape (B,), optional
        Costs of an error at which the curve holds the cumulant generating function: what `cumulants` returns, as are
        the next four.
    log_mean_exp, log_mean_exp_error, mean_errors : ndarray, shape (D, B) or (R, D, B), optional
    mean_errors_error : ndarray, shape (D, B), optional
    sigma : ndarray, shape (D,), optional
        Noise amplitudes σ = √Δ.  This and what follows are of `bpflat.flatness.local_entropy` alone, where n
        takes the place of KN and the distance is ``d = Σ_i (w'_i − w_i)²/s_i² / (2n)``.
    rhat : ndarray, shape (D,), optional
        Largest split R-hat over the ladder of inverse temperatures.
    ess : ndarray, shape (D,), optional
        Effective sample size of the estimate of log Z.
    n_temperatures : ndarray of int, shape (D,), optional
        Inverse temperatures of the ladder; with 1, samples of the prior were counted.
    swap_rate : ndarray, shape (D,), optional
        Smallest fraction of accepted exchanges between neighbours on the ladder; NaN with a single one.
    passes : ndarray, shape (D,), optional
        Passes over all patterns that the point took; one that was left early counts as far as it went.
    message : ndarray of str, shape (D,), optional
        What kept a point from converging; empty where it did.
    learning_coefficient : ndarray, shape (D,), optional
        ``λ̂(β) = nβ (⟨L⟩_β − L₀)``, n being the number of patterns, where a loss was measured.
    learning_coefficient_error : ndarray, shape (D,), optional
        Its standard error.
    node : str
        Name of the output node of a committee machine: "majority", or the `name` or class of another that was given;
        empty for a torch model.
    overlap, overlap_error : ndarray, optional
        ``Σ_ki ⟨w'_ki⟩²/(KN)``, the overlap of two independent w' among those that Φ counts, in units where rows of w
        have norm √N; and its standard error.  This and what follows are there where `predict_at` or `marginals` of
        `bpflat.local_entropy` asked for it; standard errors are NaN, or absent, for methods that do not sample.
    reference_overlap, reference_overlap_error : ndarray, optional
        The same of w' and w, ``Σ_ki ⟨w'_ki⟩ w_ki/(KN)``.
    vote_probability : ndarray, shape (D, Q) or (R, D, Q), optional
        Probability that the output of such a w' is +1, at each of Q patterns.
    vote_jackknife : ndarray, shape (D, C, Q) or (R, D, C, Q), optional
        The same without each of C chains, one after the other: the spread is the standard error.
    weight_mean, weight_variance : ndarray, shape (D, K, N) or (R, D, K, N), optional
        Means and variances of the weights w', in the units of the overlaps.
    weight_mean_error, weight_variance_error : ndarray, shape (D, K, N) or (R, D, K, N), optional
        Their standard errors.
    provenance : Provenance
        Versions and revision that it was measured with; it does not count in comparisons.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import committee, local_entropy
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> labels = committee.predict(weights, patterns)
    >>> curve = local_entropy(weights, patterns, labels, distances=[0.05, 0.1])
    >>> curve  # doctest: +ELLIPSIS
    LocalEntropyCurve(method='bp', distance=(2,) in [0.05, 0.1], phi=(2,) in [...], converged=2 of 2, train_error=0)
    >>> curve.save("curve.npz")  # doctest: +SKIP
    >>> LocalEntropyCurve.load("curve.npz") == curve  # doctest: +SKIP
    True
    """

    kind = "local-entropy"
    layout: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("delta", "distance", "log_z", "phi", "std_error", "beta"), "f R? D"),
        "converged": "b R? D",
        "n_iter": "i R? D",
        "train_error": "n R?",
        **dict.fromkeys(("method", "scale", "node"), "U"),
        "reference": "U Q?",
        "n_weights": "i R?",
        "betas": "f B",
        **dict.fromkeys(("log_mean_exp", "log_mean_exp_error", "mean_errors"), "f R? D B"),
        "mean_errors_error": "f D B",
        **dict.fromkeys(("sigma", "rhat", "ess", "swap_rate", "passes"), "f D"),
        **dict.fromkeys(("learning_coefficient", "learning_coefficient_error"), "f D"),
        "n_temperatures": "i D",
        "message": "U D",
        **HeldPosterior.posterior_layout,
    }
    _columns = ("distance", "phi", "std_error")
    _brief = ("method", "distance", "phi", "std_error", "converged", "train_error")
    _if_finite = ("std_error", "beta", "rhat", "ess", "passes", "learning_coefficient", "learning_coefficient_error")
    labels = (r"squared distance $d$", r"local entropy $\Phi_{\mathrm{LE}}$ (nats per weight)")

    delta: NDArray[np.float64]
    distance: NDArray[np.float64]
    log_z: NDArray[np.float64]
    phi: NDArray[np.float64]
    std_error: NDArray[np.float64]
    converged: NDArray[np.bool_]
    n_iter: NDArray[np.int64]
    train_error: float | NDArray[np.float64]
    method: str
    beta: NDArray[np.float64]
    reference: str | NDArray[np.str_] = ""
    scale: str = "isotropic"
    n_weights: int | NDArray[np.int64] | None = None
    betas: NDArray[np.float64] | None = None
    log_mean_exp: NDArray[np.float64] | None = None
    log_mean_exp_error: NDArray[np.float64] | None = None
    mean_errors: NDArray[np.float64] | None = None
    mean_errors_error: NDArray[np.float64] | None = None
    sigma: _Floats | None = None
    rhat: _Floats | None = None
    ess: _Floats | None = None
    n_temperatures: NDArray[np.int64] | None = None
    swap_rate: _Floats | None = None
    passes: _Floats | None = None
    message: NDArray[np.str_] | None = None
    learning_coefficient: _Floats | None = None
    learning_coefficient_error: _Floats | None = None
    node: str = "majority"

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        super().check()
        check_references(vars(self))
        _check_together(vars(self), "betas", "log_mean_exp", "log_mean_exp_error", "mean_errors")

    def cumulants(self) -> Cumulants:
        """Return the cumulant generating function ``log ⟨e^{-βE}⟩``, where it was measured too.

        Raises
        ------
        ValueError
            When the curve does not hold it.
        """
        held = self.betas, self.log_mean_exp, self.log_mean_exp_error, self.mean_errors
        if any(array is None for array in held):
            raise ValueError("the curve holds no cumulants; measure it with betas, the costs at which they are wanted")
        return Cumulants(*held, self.mean_errors_error)  # type: ignore[arg-type]

    @property
    def measure(self) -> str:
        """Whose log fraction Φ is.

        "count": of all w' that make no more errors than w (eq. 3).  "cost": the canonical quantity, in which w' weighs
        ``e^{-β (E(w') - ⟨E⟩)}``, for a β that was given, or in files of version 0.1 balanced so that ⟨E⟩ is E(w).
        """
        return "cost" if np.isfinite(self.beta).any() else "count"

    @property
    def _always(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("delta" if self.sigma is None else "sigma", "distance", "log_z", "phi")

    def _title(self) -> str:
        return f"local entropy by {self.method} ({_WEIGHED[self.measure]})"

    def _notes(self) -> Iterator[str]:
        yield from super()._notes()
        if self.sigma is not None and self.message is not None:
            yield from (f"σ = {s:g}: {why}" for s, why in zip(self.sigma, self.message, strict=True) if why)


@dataclass(frozen=True, eq=False, repr=False)
class LocalEnergyProfile(Bands):
    """The local energy δE against the noise amplitude σ (eq. 4).

    Attributes
    ----------
    sigma : ndarray, shape (S,)
        Noise amplitudes σ, rising.
    delta_error : ndarray, shape (S,) or (R, S)
        ``δE(w, σ) = E_z E_train(w + σ z⊙w) − E_train(w)``, a fraction of patterns in [−1, 1].
    std_error : ndarray, shape (S,) or (R, S)
        Standard error of `delta_error` over the draws of the noise: sample deviation / √n_samples.  It is 0
        also where no draw changed any output: that says no more than that δE is not far above
        1/(n_samples · P).
    train_error : float or ndarray of shape (R,)
        ``E_train(w)``, without noise.
    n_samples : int or ndarray of int, shape (S,)
        Draws of z for each reference, at every σ or at each; 0 where the average was done exactly.
    reference : str or ndarray of str, shape (R,)
        `bpflat.committee.fingerprint` of the weights as given, or that of `bpflat.flatness`.
    train_loss : float, optional
        Mean loss of w, without noise.  This and the next two are of `bpflat.flatness.local_energy` alone.
    delta_loss : ndarray, shape (S,), optional
        The same as `delta_error`, of the mean loss.
    loss_std_error : ndarray, shape (S,), optional
        Standard error of `delta_loss`.
    provenance : Provenance
        Versions and revision that it was measured with; it does not count in comparisons.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import committee, local_energy
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> labels = committee.predict(weights, patterns)
    >>> profile = local_energy(weights, patterns, labels, sigmas=[0.0, 0.5], method="exact")
    >>> profile.delta_error.shape, float(profile.delta_error[0])
    ((2,), 0.0)
    >>> profile.plot().figure.savefig("profile.png")  # doctest: +SKIP
    """

    kind = "local-energy"
    layout: ClassVar[Mapping[str, str]] = {
        "sigma": "f S",
        **dict.fromkeys(("delta_error", "std_error", "delta_loss", "loss_std_error"), "f R? S"),
        **dict.fromkeys(("train_error", "train_loss"), "n R?"),
        "n_samples": "i S?",
        "reference": "U Q?",
    }
    _columns = ("sigma", "delta_error", "std_error")
    _always = _columns
    _if_finite = ("delta_loss", "loss_std_error")
    _brief = (*_columns, *_if_finite, "train_error", "train_loss", "n_samples")
    labels = (r"noise amplitude $\sigma$", r"local energy $\delta E_\mathrm{train}(w, \sigma)$")

    sigma: NDArray[np.float64]
    delta_error: NDArray[np.float64]
    std_error: NDArray[np.float64]
    train_error: float | NDArray[np.float64]
    n_samples: int | NDArray[np.int64]
    reference: str | NDArray[np.str_] = ""
    train_loss: float | None = None
    delta_loss: NDArray[np.float64] | None = None
    loss_std_error: NDArray[np.float64] | None = None

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        super().check()
        check_references(vars(self))
        check_finite(vars(self), "sigma")
        _check_together(vars(self), "train_loss", "delta_loss", "loss_std_error")

    def _title(self) -> str:
        return "local energy"
