"""What every estimator returns: one converged (or not) point of a local-entropy curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bpflat.estimators import tempering
from bpflat.estimators.posterior import Posterior


@dataclass(frozen=True)
class Point:
    """log Z around one reference at one prior variance Δ, and what follows from it.

    Attributes
    ----------
    delta : float
        Variance Δ of the Gaussian prior around the reference.
    log_z : float
        Log-partition function per weight, ``log Z(w, Δ)/(KN)``, in nats.
    excess : float
        ``ε = 2 d/Δ - 1``, how far the solutions stay from the prior's typical distance; kept because
        d itself would lose ε's digits around flat minima.
    converged : bool
    n_iter : int
        Sweeps over all messages (evaluations of the fixed-point map), or over all chains.
    residual : float
        Largest remaining change of a message, in units of its prior's standard deviation; of chains, R-hat - 1.
    messages : tuple of ndarray
        The state that warm-starts the next Δ; its shapes belong to the form that made it.
    beta : float
        What an error costs; infinite where solutions are counted that make no more errors than the reference (eq. 3).
    errors : float
        Mean number of training errors per weight at a finite cost, which Φ does not charge; else 0.
    std_error : float
        Standard error of `phi`; NaN for methods that do not sample.
    posterior : Posterior, optional
        Overlaps, votes and marginals of the local posterior, where they were asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat.bp import make_nodes, solve_nodes
    >>> from bpflat.committee import predict
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> point = solve_nodes(make_nodes(weights, patterns), predict(weights, patterns), delta=0.1)
    >>> point.converged, bool(0.04 < point.distance < 0.05), bool(point.phi < 0)
    (True, True, True)
    """

    delta: float
    log_z: float
    excess: float
    converged: bool
    n_iter: int
    residual: float
    messages: tuple[NDArray, ...] = field(repr=False)
    beta: float = np.inf
    errors: float = 0.0
    std_error: float = np.nan
    posterior: Posterior | None = field(default=None, repr=False)

    @property
    def distance(self) -> float:
        """Mean squared distance ``d = |w' - w|²/(2KN)`` of the solutions (eq. 2 per weight)."""
        return 0.5 * self.delta * (1.0 + self.excess)

    @property
    def phi(self) -> float:
        """Legendre transform ``(log Z + β errors)/n + d/Δ - 1/2 - log(2d/Δ)/2`` (eq. 3), NaN if not converged."""
        if not self.converged:
            return np.nan
        paid = self.beta * self.errors if self.errors else 0.0
        return self.log_z + paid + self.legendre

    def delta_at(self, distance: float) -> float:
        """Δ at which solutions would be at a distance, were their excess the same."""
        return 2 * distance / (1 + self.excess)

    @property
    def legendre(self) -> float:
        """Terms ``d/Δ - 1/2 - log(2d/Δ)/2 = (ε - log(1 + ε))/2`` of the transform."""
        return 0.5 * (self.excess - np.log1p(self.excess))

    @property
    def legendre_slope(self) -> float:
        """Derivative of `legendre` in ε."""
        return 0.5 * self.excess / (1 + self.excess)


def point_of_samples(
    energies: NDArray[np.float64],
    norms: NDArray[np.float64],
    betas: NDArray[np.float64],
    allowed: float,
    beta: float | None,
    *,
    delta: float,
    n_weights: int,
    n_sampled: int,
    reached: bool,
    rhat: float,
    charged: bool = True,
    kind: type[Point] = Point,
) -> tuple[Point, tempering.Estimate]:
    """The point that replica exchange finds, with its standard error, and the averages behind it.

    Parameters
    ----------
    energies : ndarray, shape (chains, samples, T)
    norms : ndarray, shape (chains, samples)
        |z|² at the last temperature, by the prior `n_sampled` on average.
    betas : ndarray, shape (T,)
    allowed : float
        Energy that the states may have which are counted.
    beta : float or None
        The last of `betas`, where all states weigh ``e^{-βE}`` instead.
    delta : float
        Prior variance Δ.
    n_weights, n_sampled : int
        Weights, and numbers in z; the directions that z leaves out have the prior's variance.
    reached : bool
        Whether the ladder goes as far as it should.
    rhat : float
        Its largest R-hat.
    charged : bool
        Whether Φ is charged with the mean energy at `beta`, a cost of errors, and not the energy itself.
    kind : type
        The point's class, by the prior.
    """
    estimate = tempering.estimate(energies, norms, betas, allowed, beta)
    point = kind(
        delta=delta,
        log_z=estimate.log_z / n_weights,
        excess=(estimate.norm - n_sampled) / n_weights,
        converged=bool(reached and rhat < tempering.RHAT and np.isfinite(estimate.log_z)),
        n_iter=norms.size,
        residual=rhat - 1,
        messages=(),
        beta=beta if charged and beta is not None else np.inf,
        errors=estimate.energy / n_weights if charged else 0.0,
    )
    # Φ = (log Z + β E)/n + Legendre's terms in ε, to first order in what each sample adds to all of them
    influence = estimate.log_z_influence + point.legendre_slope * estimate.norm_influence
    if charged and beta is not None:
        influence = influence + beta * estimate.energy_influence
    error = max(tempering.standard_error(influence), 1.0 / norms.size) / n_weights
    return replace(point, std_error=error), estimate


def columns(curves: Sequence[Sequence[Point]], shape: tuple[int, ...]) -> dict[str, NDArray]:
    """Arrays of a result from points of R curves: what points have, NaN where they did not converge."""
    points = [point for curve in curves for point in curve]
    names = ("distance", "log_z", "phi", "std_error", "beta")
    arrays = {n: np.array([getattr(p, n) if p.converged else np.nan for p in points], dtype=np.float64) for n in names}
    arrays |= {"converged": np.array([p.converged for p in points]), "n_iter": np.array([p.n_iter for p in points])}
    return {name: array.reshape(shape) for name, array in arrays.items()}
