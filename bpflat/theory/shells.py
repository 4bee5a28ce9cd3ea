"""Local entropy around a teacher or a typical solution."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bpflat.arguments import check_choice, check_grid, check_scalar
from bpflat.signs import shell_entropy
from bpflat.theory.patterns import Reference
from bpflat.theory.results import TheoryCurve
from bpflat.theory.saddle import Problem, solve
from bpflat.theory.volumes import MACHINES, check_model, volume_saddle
from bpflat.theory.weights import Binary, Sphere

REFERENCES = ("teacher", "typical")


def local_entropy(
    alpha: float,
    distances: ArrayLike,
    *,
    weights: str = "spherical",
    reference: str = "teacher",
    kappa: float = 0.0,
    reference_kappa: float = 0.0,
    machine: str = "perceptron",
) -> TheoryCurve:
    """Replica-symmetric local entropy Φ(d) around a teacher, or around a typical solution of random labels.

    The log fraction of the shell at distance d from the reference w̃ that solves the patterns which w̃ solves: the
    potential of Franz and Parisi, as Huang and Kabashima (2014) have it for binary weights.  References w̃ have the
    overlap q₀ with one another and q̂₀ conjugate to it (both 0 for a teacher); w' has p with its own reference, r with
    the others, q with other w', and ``V = |w'|² − q``.  With the ⟨ln H⟩ of `bpflat.theory.patterns.perceptron` for E::

        real, w' = w̃ + u, |u|² = D = 2d
            Φ = ½ ln(V/D) + (D − V − S)/2V + α E
            S = ((c − c₀)² + 2 c₀ (c − c₀))/(1 − q₀) − q₀ (c − c₀)²/(1 − q₀)²,   c = p − 1,   c₀ = r − q₀
        binary, p = 1 − 2d
            Φ = ∫Dz (1 + tanh √q̂₀z) ∫Dy ln 2cosh(b z + √a y + c) − p p̂ + r r̂ − ½ q̂ V − H(d) + α E
            b = r̂/√q̂₀,   a = q̂ − b²,   c = p̂ − r̂

    at the saddle point; d fixes one of its parameters, and all others are extremal.

    Parameters
    ----------
    alpha : float
        Patterns per weight, 1e-12 to 1e12.
    distances : array_like, shape (D,)
        Increasing.  Real weights: ``d = |w' − w̃|²/(2n)``, with w' free to change its norm, as in
        `bpflat.local_entropy`.
        Binary weights: the Hamming distance per weight, between 0 and 1.
    weights : {"spherical", "binary"}
        Prior of the reference: ``|w̃|² = n`` or ±1.
    reference : {"teacher", "typical"}
        A teacher that gives the labels, which is also what typical solutions of its labels look like; or a typical
        solution of random labels.
    kappa : float
        Margin κ of w', −10 to 10.
    reference_kappa : float
        Margin κ̃ of the reference, −10 to 10: patterns are those that a teacher classifies with it.
    machine : {"perceptron", "tree-committee"}
        As in `bpflat.theory.volume`.

    Returns
    -------
    TheoryCurve
        `phi` by quadrature good to 1e-8, with the estimated error.  Where α is beyond the capacity of the reference, or
        the equations have no solution with ``q < |w'|²``, as in shells of binary weights beyond their own capacity
        (very small d among them), it is NaN and `converged` False.

    Raises
    ------
    ValueError
        α or κ out of bounds, distances that do not rise or lie out of bounds, unknown choices.

    Notes
    -----
    At small d the patterns cost ``Φ ≈ α ⟨g₀⟩ |w' − w̃|/√n ∫₀^∞ ln H(−x) dx`` (g₀ that of the reference), more than the
    ``H(d)`` of a binary shell: solutions of binary perceptrons are isolated at every α > 0 (`TheoryCurve.entropy` < 0).

    References
    ----------
    S. Franz and G. Parisi, J. Phys. I France 5, 1401 (1995).
    H. Huang and Y. Kabashima, Phys. Rev. E 90, 052813 (2014).
    C. Baldassi, F. Pittorino and R. Zecchina, Proc. Natl. Acad. Sci. USA 117, 161 (2020).

    Examples
    --------
    >>> from bpflat import theory
    >>> theory.local_entropy(1.0, [0.05, 0.25]).phi.round(5).tolist()
    [-0.11807, -0.23528]
    >>> curve = theory.local_entropy(0.5, [1e-4, 0.1], weights="binary", reference="typical")
    >>> (curve.entropy > 0).tolist()  # typical solutions are isolated
    [False, True]
    """
    alpha = check_scalar("alpha", alpha, at_least=1e-12, at_most=1e12)
    reference = check_choice("reference", reference, REFERENCES)
    weights, _, machine, kappa = check_model(weights, "random", machine, kappa)
    reference_kappa = check_scalar("reference_kappa", reference_kappa, at_least=-10, at_most=10)
    distances = check_grid("distances", distances, between=None if weights == "spherical" else (1e-12, 1 - 1e-12))
    base = (
        Reference(kappa=reference_kappa)
        if reference == "teacher"
        else _typical(alpha, weights, reference_kappa, machine)
    )
    points = [_point(alpha, d, weights, base, kappa, machine) for d in distances]
    phi, coupling, overlap, error, replicon = np.array(points).T
    model = (alpha, weights, reference, machine, kappa, reference_kappa)
    return TheoryCurve(distances, phi, coupling, overlap, error, replicon, np.isfinite(phi), *model)


def _typical(alpha: float, weights: str, kappa: float, machine: str) -> Reference | None:
    """A typical solution of random labels, or None beyond capacity."""
    saddle = volume_saddle(alpha, weights, "random", kappa, machine)
    return None if saddle is None else Reference(1 - saddle.overlaps.variance, saddle.fields.noise, kappa)


def _point(
    alpha: float, distance: float, weights: str, reference: Reference | None, kappa: float, machine: str
) -> tuple[float, ...]:
    """Φ, the coupling, q, the error and the replicon at one distance; all NaN where there is no saddle point."""
    if reference is None:
        return (np.nan,) * 5
    if weights == "spherical":
        problem = Problem(alpha, Sphere(2 * distance, shift=1), MACHINES[machine], reference, kappa)
    else:
        problem = Problem(alpha, Binary(), MACHINES[machine], reference, kappa, overlap=1 - 2 * distance)
    saddle = solve(problem)
    if saddle is None:
        return (np.nan,) * 5
    at, v = saddle.averages, saddle.overlaps.variance
    if weights == "spherical":
        phi, coupling = saddle.free_entropy, 1 / v + 2 * alpha * (at.norm + at.overlap)
    else:
        phi = saddle.free_entropy + np.log(2) - float(shell_entropy(distance))
        p_hat = saddle.fields.own + saddle.fields.shared * np.sqrt(reference.field)
        coupling = p_hat - alpha * at.reference
    return phi, coupling, saddle.overlaps.norm - v, saddle.error, saddle.replicon
