"""What the measurements of weights ±1 return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bpflat.layout import check_finite
from bpflat.results import Bands, Curves, check_references
from bpflat.signs import shell_entropy

_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class BinaryEntropyCurve(Curves):
    """Local entropy around one reference of weights ±1, or R of them, one entry per point.

    Arrays have shape (D,) for one reference of shape (K, N) and (R, D) for references (R, K, N).

    Attributes
    ----------
    gamma : ndarray
        Coupling γ of the prior ``Π e^{γ w̃ w}/(2 cosh γ)``, whose weights differ from the reference w̃ with probability
        ``1/(1 + e^{2γ})``.
    distance : ndarray
        Hamming distance d of the typical solution at that γ, the fraction of weights that differ from the reference's;
        NaN where not converged.
    log_z : ndarray
        ``log Z(w̃, γ)/(KN)``, nats per weight; NaN where not converged.
    phi : ndarray
        ``Φ ≤ 0``, the log fraction of the weights at distance d that are allowed, nats per weight; NaN where not
        converged.
    std_error : ndarray
        Standard error of `phi`; NaN for methods that do not sample.
    converged : ndarray of bool
        False also where belief propagation counts less than one solution.
    n_iter : ndarray of int
        Sweeps over all messages, or over all chains, that the point took.
    train_error : float or ndarray of shape (R,)
        Fraction of training errors of the reference itself.
    method : str
    beta : ndarray
        Cost β of an error, where one was given; else infinite: more errors than the reference's are forbidden.
    n_weights : int
        n = KN.
    reference : str or ndarray of str, shape (R,)
        `bpflat.committee.fingerprint` of the weights.
    provenance : Provenance
        Versions and revision that it was measured with; it does not count in comparisons.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary, committee
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(20, 101)), rng.choice([-1.0, 1.0], size=(3, 101))
    >>> curve = binary.local_entropy(weights, patterns, committee.predict(weights, patterns), distances=[0.1, 0.2])
    >>> curve.method, curve.train_error, bool((curve.entropy > 0).all())
    ('bp', 0.0, True)
    """

    kind = "binary-entropy"
    layout: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("gamma", "distance", "log_z", "phi", "std_error", "beta"), "f R? D"),
        "converged": "b R? D",
        "n_iter": "i R? D",
        "train_error": "n R?",
        "method": "U",
        "n_weights": "i",
        "reference": "U Q?",
    }
    _columns = ("distance", "phi", "std_error")
    _brief = ("method", "distance", "phi", "std_error", "converged", "train_error")
    _always = ("gamma", "distance", "log_z", "phi", "entropy")
    _if_finite = ("std_error", "beta")
    labels = ("Hamming distance $d$", r"local entropy $\Phi$ (nats/weight)")

    gamma: _Floats
    distance: _Floats
    log_z: _Floats
    phi: _Floats
    std_error: _Floats
    converged: NDArray[np.bool_]
    n_iter: NDArray[np.int64]
    train_error: float | _Floats
    method: str
    beta: _Floats
    n_weights: int
    reference: str | NDArray[np.str_] = ""

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        super().check()
        check_references(vars(self))

    @property
    def entropy(self) -> _Floats:
        """Log number of the allowed weights at distance d, ``Φ + H(d)``, nats per weight."""
        return self.phi + shell_entropy(self.distance)

    def _title(self) -> str:
        return f"local entropy of weights ±1 by {self.method}"


@dataclass(frozen=True, eq=False, repr=False)
class FlipEnergyProfile(Bands):
    """The local energy of weights ±1 against the probability that one flips.

    Attributes
    ----------
    flip_probability : ndarray, shape (S,)
        Probability p of a flip, rising: the Hamming distance, on average.
    delta_error : ndarray, shape (S,) or (R, S)
        ``δE(w, p) = E_flips E_train − E_train(w)``, a fraction of patterns in [−1, 1].
    std_error : ndarray, shape (S,) or (R, S)
        Standard error of `delta_error` over the draws of the flips, 0 where the average was done exactly.
    train_error : float or ndarray of shape (R,)
        ``E_train(w)``.
    n_samples : int
        Draws for each reference, 0 where the average was done exactly.
    reference : str or ndarray of str, shape (R,)
        `bpflat.committee.fingerprint` of the weights.
    provenance : Provenance
        Versions and revision that it was measured with; it does not count in comparisons.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary, committee
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(20, 101)), rng.choice([-1.0, 1.0], size=(3, 101))
    >>> profile = binary.local_energy(weights, patterns, committee.predict(weights, patterns), [0.0, 0.1, 0.5])
    >>> profile.delta_error.shape, float(profile.delta_error[0])
    ((3,), 0.0)
    >>> profile.plot().figure.savefig("profile.png")  # doctest: +SKIP
    """

    kind = "flip-energy"
    layout: ClassVar[Mapping[str, str]] = {
        "flip_probability": "f S",
        **dict.fromkeys(("delta_error", "std_error"), "f R? S"),
        "train_error": "n R?",
        "n_samples": "i",
        "reference": "U Q?",
    }
    _columns = ("flip_probability", "delta_error", "std_error")
    _always = _columns
    _brief = (*_columns, "train_error", "n_samples")
    labels = ("probability $p$ of a flip", r"local energy $\delta E_\mathrm{train}(w, p)$")

    flip_probability: _Floats
    delta_error: _Floats
    std_error: _Floats
    train_error: float | _Floats
    n_samples: int
    reference: str | NDArray[np.str_] = ""

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        super().check()
        check_references(vars(self))
        check_finite(vars(self), "flip_probability")

    def _title(self) -> str:
        return "local energy of flips"
