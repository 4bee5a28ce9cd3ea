"""The side of the weights: overlaps and entropy of replicas in the fields that the patterns exert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bpflat.signs import log_cosh, sech
from bpflat.theory.patterns import Overlaps, Reference
from bpflat.theory.quadrature import gaussian_line

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fields:
    """The field ``b z + √a y + c w̃`` on a weight w'_i, z that of the reference, y standard normal as z is.

    Attributes
    ----------
    noise : float
        a = q̂ − r̂²/q̂₀, q̂ conjugate to q.
    own : float
        c = p̂ − r̂, p̂ conjugate to p.
    shared : float
        b = r̂/√q̂₀, r̂ conjugate to r.
    """

    noise: float
    own: float = 0.0
    shared: float = 0.0


class Weights(Protocol):
    """What the saddle-point equations ask of a measure of weights."""

    @property
    def shift(self) -> int:
        """1 for weights that are counted from the reference, ``w' = w̃ + u``, else 0."""
        ...

    def overlaps(self, fields: Fields, reference: Reference, order: int) -> Overlaps:
        """Overlaps of w' in a given field."""
        ...

    def entropy(self, fields: Fields, overlaps: Overlaps, reference: Reference, order: int) -> float:
        """Log fraction of the weights that have these overlaps, per weight."""
        ...

    def square_variance(self, fields: Fields, reference: Reference, order: int) -> float:
        """Mean square of the variance of a weight in its field."""
        ...


@dataclass(frozen=True)
class Sphere:
    """Real weights ``w' = s w̃ + u`` with ``|u|² = D`` per weight, around the reference (s = 1) or the origin (s = 0).

    In its field u has the mean ``V (b z + √a y + c w̃)``; the variance V around it follows from |u|² = D.
    """

    square: float = 1.0
    shift: int = 0

    def overlaps(self, fields: Fields, reference: Reference, order: int = 0) -> Overlaps:
        """Overlaps of w' in a given field."""
        q0, s = reference.overlap, self.shift
        along = fields.shared * np.sqrt(q0)  # ⟨z w̃⟩ = √q₀
        spread = fields.noise + fields.own**2 + 2 * along * fields.own + fields.shared**2
        v = 2 * self.square / (1 + np.sqrt(1 + 4 * spread * self.square))  # D = V + V² spread
        c, c0 = v * (along + fields.own), v * (along + fields.own * q0)
        return Overlaps(s + 2 * s * c + self.square, float(v), s + c, s * q0 + c0)

    def entropy(self, fields: Fields, overlaps: Overlaps, reference: Reference, order: int = 0) -> float:
        """``½ ln(V/D) + (D − V − S)/2V``, S what the overlaps with the references fix of q, relative to the shell."""
        q0, v = reference.overlap, overlaps.variance
        c, c0 = overlaps.reference - self.shift, overlaps.others - self.shift * q0
        own = (c - c0) / (1 - q0)
        fixed = own * (c + c0) - q0 * own**2
        return float(0.5 * np.log(v / self.square) + (self.square - v - fixed) / (2 * v))

    def square_variance(self, fields: Fields, reference: Reference, order: int = 0) -> float:
        """V², the same for all weights."""
        return self.overlaps(fields, reference).variance ** 2


@dataclass(frozen=True)
class Binary:
    """Weights w' = ±1, with the mean ``tanh(b z + √a y + c w̃)`` in their field."""

    shift: int = 0

    def overlaps(self, fields: Fields, reference: Reference, order: int) -> Overlaps:
        """Overlaps of w' in a given field."""
        field, weight, others = _sites(fields, reference, order)
        mean = np.tanh(field)
        r = float(np.sum(weight * mean * others))
        return Overlaps(1.0, float(np.sum(weight * sech(field) ** 2)), float(np.sum(weight * mean)), r)

    def entropy(self, fields: Fields, overlaps: Overlaps, reference: Reference, order: int) -> float:
        """``⟨ln cosh⟩ − p p̂ + r r̂ − ½ q̂ V``, relative to all 2^n weights."""
        field, weight, _ = _sites(fields, reference, order)
        r_hat = fields.shared * np.sqrt(reference.field)
        linear = overlaps.others * r_hat - overlaps.reference * (fields.own + r_hat)
        return float(
            np.sum(weight * log_cosh(field)) + linear - (fields.noise + fields.shared**2) * overlaps.variance / 2
        )

    def square_variance(self, fields: Fields, reference: Reference, order: int) -> float:
        """``⟨(1 − tanh²)²⟩``."""
        field, weight, _ = _sites(fields, reference, order)
        return float(np.sum(weight * sech(field) ** 4))


def _sites(fields: Fields, reference: Reference, order: int) -> tuple[_Floats, _Floats, _Floats]:
    """Fields on w' where w̃ = 1, their weights, and the mean of the other replicas of w̃ there."""
    z, dz, others = np.zeros(1), np.ones(1), np.zeros(1)
    if reference.field:
        root = np.sqrt(reference.field)
        z, dz = (x[0] for x in gaussian_line([[0.0]], [[1 / root]], order))
        others = np.tanh(root * z)
        dz = dz * (1 + others)  # w̃ = −1 at z counts as w̃ = 1 at −z
    mean = (fields.shared * z + fields.own)[:, None]
    root = np.sqrt(fields.noise)
    y, dy = gaussian_line(-mean / root, np.full(mean.shape, 1 / root), order)
    return mean + root * y, dz[:, None] * dy, others[:, None]
