"""The side of the patterns: averages of ``ln H`` over the pre-activations of a replica and of its reference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bpflat.theory.quadrature import gaussian_line, hazard, line, log_density, log_tail

_Floats = NDArray[np.float64]

_SIGNS = 2 / np.pi
_LEAST = 1e-300


@dataclass(frozen=True)
class Reference:
    """What the labels or a first replica have been drawn with.

    Attributes
    ----------
    overlap : float
        q₀, of two of its replicas; 0 for a teacher, which is drawn before the labels.
    field : float
        q̂₀, conjugate to q₀; 0 for a teacher.
    kappa : float
        Margin κ̃ that it keeps.
    """

    overlap: float = 0.0
    field: float = 0.0
    kappa: float = 0.0


@dataclass(frozen=True)
class Overlaps:
    """Order parameters of the replicas w' with one another and with the reference w̃, per weight.

    Attributes
    ----------
    norm : float
        ``|w'|²``.
    variance : float
        V = |w'|² − q, q the overlap of two replicas: what is left to fluctuate in a pre-activation.
    reference : float
        p = w'·w̃.
    others : float
        r, of w' with the other replicas of w̃.
    """

    norm: float
    variance: float
    reference: float = 0.0
    others: float = 0.0


@dataclass(frozen=True)
class PatternAverages:
    """``E = ⟨ln H⟩``, the free entropy of one pattern, and its derivatives.

    Attributes
    ----------
    log_z : float
        E.
    norm, overlap, reference, others : float
        ∂E/∂|w'|², ∂E/∂q, ∂E/∂p, ∂E/∂r.
    curvature : float
        ⟨Γ²⟩, Γ = −∂²ln H/∂ω²: the second derivative with respect to fluctuations of q that differ from pair to pair.
    """

    log_z: float
    norm: float
    overlap: float
    reference: float
    others: float
    curvature: float


def perceptron(overlaps: Overlaps, reference: Reference | None, kappa: float, order: int) -> PatternAverages:
    """Averages over the pre-activations h̃ of the reference and h' of a replica that keep margins κ̃ and κ.

    Conditional on the field t that all replicas of the reference share, ``h̃ = √q₀ t + √(1−q₀) s`` and the mean of h'
    over the replicas is ``ω = (r/√q₀) t + A s + B y``, s and y standard normal,

        A = (p − r)/√(1−q₀)      B² = q − r²/q₀ − A²      C² = A² + B²      θ = (κ̃ − √q₀ t)/√(1−q₀)

        E = ∫Dt ∫Dη H((Cθ − Aη)/B)/H(θ)  ln H((κ − r t/√q₀ − C η)/√V)

    (η the standardised A s + B y).  With g = ∂_ω ln H and g₀ that of the reference, derivatives of Gaussian averages
    with respect to covariances give ∂E/∂q = −½⟨g²⟩, ∂E/∂|w'|² = ½⟨g² − Γ⟩, ∂E/∂r = −⟨g₀⟨g⟩_t⟩ and
    ∂E/∂p = ⟨g₀⟨g⟩_{s=θ}⟩.  A teacher is q₀ = r = 0; random labels have no reference, A = 0.
    """
    q, v = overlaps.norm - overlaps.variance, overlaps.variance
    shared = own = 0.0
    if reference is not None:
        shared = overlaps.others / np.sqrt(reference.overlap) if reference.overlap else 0.0
        own = (overlaps.reference - overlaps.others) / np.sqrt(1 - reference.overlap)
    return _averages(q, v, kappa, reference, shared, own, order)


def _averages(
    q: float, v: float, kappa: float, reference: Reference | None, shared: float, own: float, order: int
) -> PatternAverages:
    """`perceptron` in terms of the covariances of ω with t and s."""
    rest = np.sqrt(max(q - shared**2 - own**2, _LEAST))
    total, root = np.hypot(own, rest), np.sqrt(v)
    t, dt, theta, g0 = _reference_nodes(reference, order)

    turn = (kappa - shared * t) / total
    if reference is None or own == 0:
        eta, weight = line(turn[:, None], np.full((len(t), 1), root / total), order)
        kept = np.zeros_like(eta)
    else:
        # H turns at the edge, and where it is small the integrand has its peak, 1/θ to B/C wide, at Aθ/C
        edge, peak = total * theta / own, own * theta / total
        steep = np.minimum(rest / abs(own), 1 / np.maximum(abs(edge), 1))
        turns = np.stack([turn, edge, peak], axis=-1)
        widths = np.stack([np.full(len(t), root / total), steep, np.full(len(t), rest / total)], axis=-1)
        eta, weight = line(turns, widths, order, beyond=np.where(theta > 0, peak, 0.0))
        kept = log_tail((total * theta[:, None] - own * eta) / rest) - log_tail(theta)[:, None]
    weight = dt[:, None] * weight * np.exp(kept + log_density(eta))  # together: either alone may overflow

    x = (kappa - shared * t[:, None] - total * eta) / root
    g = hazard(x) / root
    curvature = g * (g - x / root)
    square, bend, square_bend, log_z = (np.sum(weight * f) for f in (g**2, curvature, curvature**2, log_tail(x)))
    by_reference = 0.0
    if reference is not None:
        mean = (kappa - shared * t - own * theta)[:, None]
        y, dy = gaussian_line(mean / rest, np.full(mean.shape, root / rest), order)
        by_reference = np.sum((dt * g0)[:, None] * dy * hazard((mean - rest * y) / root)) / root
    return PatternAverages(
        log_z=float(log_z),
        norm=float(square - bend) / 2,
        overlap=-float(square) / 2,
        reference=float(by_reference),
        others=-float(np.sum(g0[:, None] * weight * g)),
        curvature=float(square_bend),
    )


def _reference_nodes(reference: Reference | None, order: int) -> tuple[_Floats, ...]:
    """Nodes t and weights of ∫Dt, and θ and g₀ there."""
    if reference is None:
        return np.zeros(1), np.ones(1), np.zeros(1), np.zeros(1)
    q0, kappa = reference.overlap, reference.kappa
    t, dt = np.zeros(1), np.ones(1)
    if q0:
        t, dt = (x[0] for x in gaussian_line([[kappa / np.sqrt(q0)]], [[np.sqrt((1 - q0) / q0)]], order))
    theta = (kappa - np.sqrt(q0) * t) / np.sqrt(1 - q0)
    return t, dt, theta, hazard(theta) / np.sqrt(1 - q0)


def tree_committee(overlaps: Overlaps, reference: Reference | None, kappa: float, order: int) -> PatternAverages:
    """`perceptron` for the majority of K → ∞ sign units, each with inputs of its own.

    The sum of the signs over √K is a Gaussian field, and two pre-activations of correlation x give signs of correlation
    ``f(x) = (2/π) asin x`` (Barkai, Hansel and Sompolinsky 1992; Baldassi, Malatesta and Zecchina 2019): the
    averages of `perceptron` with |w'|² → 1, q → f(q/|w'|²), p → f(p/|w'|), r → f(r/|w'|), q₀ → f(q₀).
    """
    norm, v = overlaps.norm, overlaps.variance / overlaps.norm
    p, r = overlaps.reference / np.sqrt(norm), overlaps.others / np.sqrt(norm)
    q, lost = 1 - v, v * (2 - v)  # lost = 1 − q²
    voted = Overlaps(1.0, 2 * _SIGNS * np.arcsin(np.sqrt(v / 2)), _SIGNS * np.arcsin(p), _SIGNS * np.arcsin(r))
    if reference is not None:
        reference = replace(reference, overlap=_SIGNS * np.arcsin(reference.overlap))
    at = perceptron(voted, reference, kappa, order)
    slope = _SIGNS / np.sqrt(lost)  # f'(q)
    by_q, by_p, by_r = (
        at.overlap * slope,
        at.reference * _SIGNS / np.sqrt(1 - p**2),
        at.others * _SIGNS / np.sqrt(1 - r**2),
    )
    return PatternAverages(
        log_z=at.log_z,
        norm=-(by_q * q + (by_p * p + by_r * r) / 2) / norm,
        overlap=by_q / norm,
        reference=by_p / np.sqrt(norm),
        others=by_r / np.sqrt(norm),
        curvature=(at.curvature * slope**2 - 2 * at.overlap * slope * q / lost) / norm**2,
    )
