"""What the theory returns: volumes, and curves of the local entropy to draw under measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bpflat.display import Tabulated
from bpflat.results import Curves
from bpflat.signs import log_cosh, shell_entropy
from bpflat.storage import StoredResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Volume(Tabulated, StoredResult):
    """Replica-symmetric volume of the solutions, one entry for each α.

    Attributes
    ----------
    alpha : ndarray, shape (A,)
        Patterns per weight.
    phi : ndarray, shape (A,)
        Log fraction of all weights that solve the patterns, nats per weight; NaN where not converged.
    overlap : ndarray, shape (A,)
        q, of two solutions, per weight.
    teacher_overlap : ndarray, shape (A,)
        R, of a solution with the teacher; NaN for random labels.
    error : ndarray, shape (A,)
        Difference of `phi` between two orders of the quadrature, far above the error of the better one, which is given.
    replicon : ndarray, shape (A,)
        Where it is negative, replica symmetry is broken, and `phi` an approximation (an upper bound, as a rule).
    converged : ndarray of bool, shape (A,)
        False beyond capacity, and where the equations were not solved to 1e-8.
    weights, labels, machine : str
    kappa : float

    Examples
    --------
    >>> from bpflat import theory
    >>> found = theory.volume([0.5, 2.5])
    >>> found.converged.tolist(), found.weights  # beyond capacity there is no solution
    ([True, False], 'spherical')
    """

    kind = "theory-volume"
    layout: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("alpha", "phi", "overlap", "teacher_overlap", "error", "replicon"), "f A"),
        "converged": "b A",
        **dict.fromkeys(("weights", "labels", "machine"), "U"),
        "kappa": "n",
    }
    _brief = ("machine", "weights", "labels", "kappa", "alpha", "phi", "converged")
    _always = ("alpha", "phi", "overlap", "replicon")
    _if_finite = ("teacher_overlap", "entropy")

    alpha: _Floats
    phi: _Floats
    overlap: _Floats
    teacher_overlap: _Floats
    error: _Floats
    replicon: _Floats
    converged: NDArray[np.bool_]
    weights: str
    labels: str
    machine: str
    kappa: float

    @property
    def entropy(self) -> _Floats:
        """Log number of binary solutions, nats per weight: ln 2 + φ; NaN for real weights, which are not counted."""
        return self.phi + np.log(2) if self.weights == "binary" else np.full_like(self.phi, np.nan)

    def _title(self) -> str:
        return f"volume in the replica-symmetric theory: {self.machine}, {self.weights} weights, {self.labels} labels"


@dataclass(frozen=True, eq=False, repr=False)
class TheoryCurve(Curves):
    """Replica-symmetric local entropy, one entry for each distance.

    Attributes
    ----------
    distance : ndarray, shape (D,)
        Real weights: ``d = |w' − w̃|²/(2n)``, as in `bpflat.LocalEntropyCurve`.  Binary ones: the fraction of weights
        that differ.
    phi : ndarray, shape (D,)
        Log fraction of the shell at distance d that solves the patterns, nats per weight; NaN where not converged.
    coupling : ndarray, shape (D,)
        Strength of the prior around the reference whose typical solution lies at d: 1/Δ of N(w̃, Δ), or γ of
        ``Π e^{γ w̃_i w'_i}/(2 cosh γ)``.
    overlap : ndarray, shape (D,)
        q, of two such w', per weight.
    error : ndarray, shape (D,)
        Difference of `phi` between two orders of the quadrature, far above the error of the better one, which is given.
    replicon : ndarray, shape (D,)
        Where it is negative, replica symmetry is broken, and `phi` an approximation.
    converged : ndarray of bool, shape (D,)
        False where the equations were not solved to 1e-8, and everywhere if α is beyond capacity.
    alpha : float
        Patterns per weight.
    weights, reference, machine : str
    kappa, reference_kappa : float

    Examples
    --------
    >>> from bpflat import theory
    >>> curve = theory.local_entropy(1.0, [0.05, 0.25])
    >>> curve.phi.shape, bool((curve.phi < 0).all())
    ((2,), True)
    """

    kind = "theory-curve"
    layout: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("distance", "phi", "coupling", "overlap", "error", "replicon"), "f D"),
        "converged": "b D",
        **dict.fromkeys(("weights", "reference", "machine"), "U"),
        **dict.fromkeys(("alpha", "kappa", "reference_kappa"), "n"),
    }
    _columns = ("distance", "phi", "error")
    _brief = ("machine", "weights", "reference", "alpha", "kappa", "distance", "phi", "converged")
    _always = ("distance", "phi", "overlap", "replicon")
    _if_finite = ("entropy",)
    labels = (r"squared distance $d$", r"local entropy $\Phi_{\mathrm{LE}}$ (nats per weight)")

    distance: _Floats
    phi: _Floats
    coupling: _Floats
    overlap: _Floats
    error: _Floats
    replicon: _Floats
    converged: NDArray[np.bool_]
    alpha: float
    weights: str
    reference: str
    machine: str
    kappa: float
    reference_kappa: float

    @property
    def entropy(self) -> _Floats:
        """Log number of binary solutions at distance d, nats per weight: Φ + H(d); NaN for real weights.

        Where it is negative a typical reference has no solution at that distance.
        """
        if self.weights != "binary":
            return np.full_like(self.phi, np.nan)
        return self.phi + shell_entropy(self.distance)

    def _title(self) -> str:
        machine = f"{self.machine}, {self.weights} weights, {self.reference} reference, α = {self.alpha:g}"
        return f"local entropy in the replica-symmetric theory: {machine}"

    @property
    def log_z(self) -> _Floats:
        """``log Z/n`` under the prior of strength `coupling`, nats per weight, as `bpflat.LocalEntropyCurve` has it.

        ``Φ − d/Δ + ½ + ½ ln(2d/Δ)`` for real weights, ``Φ − log 2cosh γ + γ(1 − 2d) + H(d)`` for binary ones.
        """
        strength = self.coupling
        if self.weights == "binary":
            log_prior = log_cosh(strength) + np.log(2)
            return self.phi - log_prior + strength * (1 - 2 * self.distance) + shell_entropy(self.distance)
        return self.phi - self.distance * strength + 0.5 + 0.5 * np.log(2 * self.distance * strength)

    def plot(self, ax: Axes | None = None, **style: Any) -> Axes:
        """Draw the curve, by default dashed, black and under what `bpflat.LocalEntropyCurve.plot` draws.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to draw on; new ones, of a new figure, by default.
        **style
            Options of ``ax.plot`` (color, label, …).

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ValueError
            When `ax` are no axes.

        Examples
        --------
        >>> import numpy as np
        >>> from bpflat import local_entropy, theory
        >>> rng = np.random.default_rng(0)
        >>> patterns, teacher = rng.choice([-1.0, 1.0], (201, 201)), rng.normal(size=(1, 201))
        >>> labels = np.sign(patterns @ teacher[0])
        >>> axes = local_entropy(teacher, patterns, labels).plot(label="measured")
        >>> axes = theory.local_entropy(1.0, np.geomspace(1e-3, 2, 20)).plot(axes, label="theory")
        """
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.lines import Line2D

        axes = super().plot(ax, **{"color": "black", "linestyle": "--", "zorder": 1} | normalize_kwargs(style, Line2D))
        if self.weights == "binary":
            axes.set_xlabel(r"Hamming distance $d$ per weight")
        return axes

    def _draw(self, ax: Axes, x: _Floats, mean: _Floats, error: _Floats, style: dict[str, Any]) -> None:
        ax.plot(x, mean, **style)
