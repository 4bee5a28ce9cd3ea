"""Volumes of the solutions and critical capacities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

from bpflat.arguments import check_choice, check_grid, check_scalar
from bpflat.theory.patterns import Reference, perceptron, tree_committee
from bpflat.theory.quadrature import ORDERS, gaussian_line, log_tail
from bpflat.theory.results import Volume
from bpflat.theory.saddle import PRECISION, Patterns, Problem, Saddle, solve
from bpflat.theory.weights import Binary, Sphere, Weights

WEIGHTS = ("spherical", "binary")
LABELS = ("random", "teacher")
MACHINES: dict[str, Patterns] = {"perceptron": perceptron, "tree-committee": tree_committee}
_WIDEST = 10.0  # margin, in standard deviations of a pre-activation


def volume(
    alphas: ArrayLike,
    *,
    weights: str = "spherical",
    labels: str = "random",
    kappa: float = 0.0,
    machine: str = "perceptron",
) -> Volume:
    """Replica-symmetric volume of the weights that classify P = αn Gaussian or ±1 patterns with margin κ.

    ``φ(α) = lim (1/n) ⟨ln fraction of all w with σ^μ w·x^μ/√n > κ for every μ⟩``, at the saddle point of

        spherical   ½ ln(1 − q) + (q − R²)/(2(1 − q)) + α E(q, R)
        binary      ⟨ln cosh(√a y + R̂)⟩ − R R̂ − ½ a (1 − q) + α E(q, R)

        E = 2 ∫Dt H(−R t/√(q − R²)) ln H((κ − √q t)/√(1 − q))

    in q and in the overlap R with the teacher, 0 for random labels (Gardner 1988; Krauth and Mézard 1989; Györgyi
    1990).

    Parameters
    ----------
    alphas : array_like, shape (A,)
        Patterns per weight, increasing, 1e-12 to 1e12.
    weights : {"spherical", "binary"}
        The prior: uniform on ``|w|² = n`` (or N(0, 1), which gives the same at κ = 0), or on {−1, +1}^n.
    labels : {"random", "teacher"}
        ±1 by chance, or from a teacher that is drawn from the prior.
    kappa : float
        Margin κ, −10 to 10, of the solutions, not below 0 with a teacher; the teacher's own labels have none.
    machine : {"perceptron", "tree-committee"}
        A perceptron, or the majority of K → ∞ sign units with n/K inputs each (n ≫ K), whose margin is one on the sum
        of its signs over √K; its overlaps enter E as ``(2/π) asin q`` (Barkai, Hansel and Sompolinsky 1992; Engel et
        al. 1992; Baldassi, Malatesta and Zecchina 2019).

    Returns
    -------
    Volume
        `phi` by composite Gauss–Legendre quadrature good to 1e-8, with the estimated error.  Beyond capacity it is NaN
        and `converged` False.  A binary teacher that is the only solution left (κ = 0; from α = 1.245 on for the
        perceptron) is φ = −ln 2 with q = R = 1.

    Raises
    ------
    ValueError
        α that do not rise or lie out of bounds, unknown choices, κ out of bounds.

    Notes
    -----
    Replica symmetry is exact for teachers at κ = 0 and for the spherical perceptron with κ ≥ 0, and believed to be so
    for the binary perceptron below capacity.  Elsewhere `Volume.replicon` says whether it is stable.

    References
    ----------
    E. Gardner, J. Phys. A 21, 257 (1988).
    W. Krauth and M. Mézard, J. Phys. France 50, 3057 (1989).
    G. Györgyi, Phys. Rev. A 41, 7097 (1990).
    E. Barkai, D. Hansel and H. Sompolinsky, Phys. Rev. A 45, 4146 (1992).
    A. Engel, H. M. Köhler, F. Tschepke, H. Vollmayr and A. Zippelius, Phys. Rev. A 45, 7590 (1992).
    C. Baldassi, E. M. Malatesta and R. Zecchina, Phys. Rev. Lett. 123, 170602 (2019).

    Examples
    --------
    >>> from bpflat import theory
    >>> theory.volume([0.5, 1.0, 2.5]).phi.round(6).tolist()
    [-0.37767, -0.855821, nan]
    """
    alphas = check_grid("alphas", alphas)
    weights, labels, machine, kappa = check_model(weights, labels, machine, kappa)
    points = [_volume(alpha, weights, labels, kappa, machine) for alpha in alphas]
    phi, overlap, teacher_overlap, error, replicon = np.array(points).T
    return Volume(
        alphas, phi, overlap, teacher_overlap, error, replicon, np.isfinite(phi), weights, labels, machine, kappa
    )


def check_model(weights: str, labels: str, machine: str, kappa: float) -> tuple[str, str, str, float]:
    """Return the four if they are what `volume` knows."""
    kappa = check_scalar("kappa", kappa, at_least=-_WIDEST, at_most=_WIDEST)
    if labels == "teacher":
        kappa = check_scalar("kappa", kappa, why="with a teacher")
    return (
        check_choice("weights", weights, WEIGHTS),
        check_choice("labels", labels, LABELS),
        check_choice("machine", machine, tuple(MACHINES)),
        kappa,
    )


def _volume(alpha: float, weights: str, labels: str, kappa: float, machine: str) -> tuple[float, ...]:
    """φ, q, R, the error and the replicon at one α; all NaN beyond capacity."""
    saddle = volume_saddle(alpha, weights, labels, kappa, machine)
    teacher = labels == "teacher"
    if saddle is not None:
        q, r = saddle.overlaps.norm - saddle.overlaps.variance, saddle.overlaps.reference
        return saddle.free_entropy, q, r if teacher else np.nan, saddle.error, saddle.replicon
    alone = weights == "binary" and teacher and kappa == 0
    return (-np.log(2), 1.0, 1.0, 0.0, 1.0) if alone else (np.nan,) * 5


def volume_saddle(alpha: float, weights: str, labels: str, kappa: float, machine: str) -> Saddle | None:
    """The saddle point of `volume`, or None beyond capacity, for a binary teacher: where nothing is left but itself."""
    if weights == "spherical" and alpha >= _spherical_capacity(labels, kappa, machine):
        return None
    measure: Weights = Sphere() if weights == "spherical" else Binary()
    saddle = solve(Problem(alpha, measure, MACHINES[machine], Reference() if labels == "teacher" else None, kappa))
    if saddle is not None and weights == "binary" and saddle.free_entropy < -np.log(2) + PRECISION:
        return None
    return saddle


def capacity(
    *, weights: str = "spherical", labels: str = "random", kappa: float = 0.0, machine: str = "perceptron"
) -> float:
    """Replica-symmetric critical capacity α_c: the most patterns per weight that can be classified with margin κ.

    Spherical perceptron (q → 1): ``1/α_c = ∫Dt (κ − t)₊² = (1 + κ²) H(−κ) + κ e^{−κ²/2}/√(2π)`` (Gardner
    1988), and with a teacher
    ``α_c = max_R (1 − R²)/(2 ∫Dt H(−R t/√(1 − R²)) (κ − t)₊²)``.  Binary weights: the zero of the entropy
    ``ln 2 + φ(α)`` (Krauth and Mézard 1989).

    Parameters
    ----------
    weights, labels, kappa, machine
        As in `volume`.

    Returns
    -------
    float
        α_c to 1e-8, relatively; infinite with a teacher at κ = 0, which always is a solution, and for spherical weights
        of the tree committee, whose replica-symmetric solution exists at every α (breaking of the symmetry makes it
        ``(16/π) √ln K``: Monasson and Zecchina 1995).

    Raises
    ------
    ValueError
        Unknown choices, κ out of bounds.

    References
    ----------
    Those of `volume`, and R. Monasson and R. Zecchina, Mod. Phys. Lett. B 9, 1887 (1995).

    Examples
    --------
    >>> from bpflat import theory
    >>> round(theory.capacity(), 6), round(theory.capacity(weights="binary"), 3)
    (2.0, 0.833)
    """
    weights, labels, machine, kappa = check_model(weights, labels, machine, kappa)
    if weights == "spherical":
        return _spherical_capacity(labels, kappa, machine)
    if labels == "teacher" and kappa == 0:
        return np.inf
    reference = Reference() if labels == "teacher" else None

    def entropy(alpha: float) -> float:
        saddle = solve(Problem(alpha, Binary(), MACHINES[machine], reference, kappa))
        return -1.0 if saddle is None else np.log(2) + saddle.free_entropy

    # without fluctuations among patterns, an upper bound for random labels
    high = -np.log(2) / float(log_tail(np.array(kappa)))
    while entropy(high) > 0:
        high *= 2
    return float(brentq(entropy, 1e-9 * high, high, xtol=1e-300, rtol=1e-9))


def _spherical_capacity(labels: str, kappa: float, machine: str) -> float:
    """α_c of spherical weights, from the limit q → 1."""
    if machine != "perceptron" or (labels == "teacher" and kappa == 0):
        return np.inf
    alone = float(1 / ((1 + kappa**2) * norm.cdf(kappa) + kappa * norm.pdf(kappa)))
    if labels == "random":
        return alone

    def ratio(r: float) -> float:
        t, dt = (x[0] for x in gaussian_line([[kappa, 0.0]], [[1.0, np.sqrt(1 - r**2)]], ORDERS[1]))
        right = np.exp(log_tail(-r * t / np.sqrt(1 - r**2)))  # by the teacher
        return (1 - r**2) / float(2 * np.sum(dt * right * np.maximum(kappa - t, 0) ** 2))

    best = minimize_scalar(lambda r: -ratio(r), bounds=(0, 1 - 1e-12), method="bounded", options={"xatol": 1e-9})
    return max(-float(best.fun), alone)
