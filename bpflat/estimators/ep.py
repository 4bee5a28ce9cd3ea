"""Expectation propagation with full covariances: log Z(w, Δ) without independence between the inputs.

Under the prior N(w, Δ) the pre-activations of hidden unit k are jointly Gaussian over the patterns, with means
``s⁰_k = X w_k/√N`` and covariance ``ΔC``, ``C = X Xᵀ/N``.  EP puts one Gaussian site ``exp(ν h - τ h²/2)`` on each
pre-activation h_kμ; the output node couples the K units of a pattern.  With ``S_k = (I + ΔC diag τ_k)⁻¹ ΔC``,

    mean_k = s⁰_k + S_k (ν_k - τ_k s⁰_k)      V = D/(1 - τ D)      ω = (mean - D ν)/(1 - τ D)      D = diag S
    τ = Γ/(1 - VΓ)                            ν = (g + ωΓ)/(1 - VΓ)                     g, Γ from the output node

The unknowns are the cavities (ω, V), as in the node form of belief propagation, and the solver is the same
Newton-Krylov method; here the Jacobian is known: ``∂S_k/∂τ = -S_k diag(·) S_k``, so that the variances respond through
the element-wise square of S_k.  Sites may be negative; cavities may not.

References
----------
T. Minka, Expectation propagation for approximate Bayesian inference, UAI 2001; C. E. Rasmussen and C. K. I. Williams,
Gaussian Processes for Machine Learning, MIT Press 2006, Section 3.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bpflat.estimators import cavities
from bpflat.estimators.arrays import Array, like, namespace, on_cpu, to_numpy
from bpflat.estimators.cavities import CavityEquations, Solution
from bpflat.estimators.newton import Operator, directional_difference
from bpflat.estimators.point import Point
from bpflat.estimators.problem import Problem

_WEAK = 1e-18  # sites with |τ| ΔC below this change no digit of a covariance; around flat minima most are weaker still


def solve(
    problem: Problem, delta: float, start: Point | None = None, *, tolerance: float = 1e-9, max_steps: int = 40
) -> Point:
    """Find the fixed point of expectation propagation at one Δ.

    Parameters
    ----------
    problem : Problem
        One reference.
    delta : float
        Prior variance Δ > 0.
    start : Point, optional
        An earlier result for the same reference at a nearby Δ; else begin without sites.
    tolerance : float
        Largest |change of ω|/√Δ and |change of V|/Δ that one more iteration may make.
    max_steps : int
        Newton steps before giving up.

    Returns
    -------
    Point
        With ``messages = (ν, τ)``, each of shape (K, P).  ``converged`` is False when the solver gave up or a
        covariance is not positive definite there.
    """
    return cavities.solve(SiteEquations(problem, delta), start, tolerance=tolerance, max_steps=max_steps)


class Posterior(NamedTuple):
    """Sites ν, τ and the means of the pre-activations given them (..., K, P), their covariances S (..., K, P, P)."""

    nu: Array
    tau: Array
    mean: Array
    covariance: Array


class SiteEquations(CavityEquations):
    """Messages are the sites ν and τ."""

    product_cost = 0

    @cached_property
    def kernel(self) -> Array:
        """``ΔC`` of each unit, shape (..., K, P, P); one for all of them, (..., 1, P, P), if the prior is isotropic."""
        return (self.delta[..., None] if np.ndim(self.delta) else self.delta) * self.problem.grams

    def cavities_from(self, nu: Array, tau: Array) -> tuple[Array, Array]:
        """ω and V from the sites."""
        return _without_sites(self._posterior(nu, tau))

    def sweep(self, x: Array) -> tuple[Array, Posterior]:
        """The posterior with the sites that match the output nodes, and its cavities."""
        sites = self._sites(x)
        posterior = self._posterior(sites[..., 0, :, :], sites[..., 1, :, :])
        return self.flat(*_without_sites(posterior)), posterior

    def _sites(self, x: Array) -> Array:
        """Site parameters ν, τ (..., 2, K, P) at the cavities x."""
        omega, variance = self.cavities(x)
        g, curvature, *_ = self.outputs(x)
        sites = namespace(x).stack([g + omega * curvature, curvature], axis=-3)
        return sites / (1 - variance * curvature)[..., None, :, :]

    def _posterior(self, nu: Array, tau: Array) -> Posterior:
        covariance = covariances(self.kernel, tau)
        mean = self.problem.hidden + _apply(covariance, nu - tau * self.problem.hidden)
        return Posterior(nu, tau, mean, covariance)

    def linearize(self, x: Array, residual: Array, extra: Sequence[Array]) -> tuple[Operator, None]:
        """The exact response of the posterior, ``∂S/∂τ = -S diag(·) S``, to differences of the sites."""
        nu, tau, mean, covariance = extra
        xp = namespace(x)
        response = xp.astype(covariance, xp.float32)  # single precision is enough for a direction
        squared = response**2
        sites = xp.stack([nu, tau], axis=-3)
        variance = xp.linalg.diagonal(covariance)
        shrink = 1 - tau * variance
        omega, cavity_variance = _without_sites(Posterior(*extra))

        def product(directions):
            d_sites = directional_difference(self._sites, x, sites, directions)
            d_nu, d_tau = d_sites[..., 0, :, :], d_sites[..., 1, :, :]
            d_variance = -_apply(squared, d_tau)
            d_mean = _apply(response, d_nu - d_tau * mean)
            d_shrink = -d_tau * variance - tau * d_variance
            d_omega = (d_mean - d_variance * nu - variance * d_nu - omega * d_shrink) / shrink
            return directions - self.flat(d_omega, (d_variance - cavity_variance * d_shrink) / shrink)

        return product, None

    def solution(self, x: Array, extra: Sequence[Array]) -> Solution:
        """EP's free energy; not valid where a covariance is not positive definite."""
        nu, tau, mean, covariance = extra
        xp, hidden, outputs = namespace(x), self.problem.hidden, self.outputs(x)
        omega, variance = self.cavities(x)
        diagonal = xp.linalg.diagonal(covariance)
        signs, log_dets = log_determinants(self.kernel, tau, diagonal)
        force = nu - tau * mean
        prior = (nu - tau * hidden) * (mean - hidden) + 2 * nu * hidden - tau * hidden**2
        sites = xp.log1p(variance * tau)
        sites = sites - (variance * nu**2 + 2 * omega * nu - omega**2 * tau) / (1 + variance * tau)
        log_z = outputs.log_z - 0.5 * xp.sum(log_dets, axis=-1) + 0.5 * xp.sum(prior + sites, axis=(-2, -1))
        grams = self.problem.grams
        spread = force @ grams[0] if self.problem.is_isotropic else _apply(grams, force)
        excess = xp.sum(self.delta * force * spread - diagonal * tau, axis=(-2, -1))
        return Solution(log_z, excess, outputs.errors, xp.all(signs > 0, axis=-1), (nu, tau))


@dataclass(frozen=True)
class CorrelatedWeights:
    """The weights of one reference: their prior N(w, Δs²), times the Gaussian sites of their pre-activations.

    Attributes
    ----------
    mean : ndarray, shape (K, N)
        Of the displacements ``w' - w``: ``Δ s² Σ_μ x̂_μ (ν - τ⟨h⟩)``.
    prior : ndarray, shape (K, N)
        Their variances ``Δs²`` without sites.
    x : ndarray, shape (P, N)
        x̂.
    kernel : ndarray, shape (K or 1, P, P)
        ``ΔC``.
    tau : ndarray, shape (K, P)
    """

    mean: NDArray[np.float64]
    prior: NDArray[np.float64]
    x: NDArray[np.float64]
    kernel: NDArray[np.float64]
    tau: NDArray[np.float64]

    @property
    def variance(self) -> NDArray[np.float64]:
        """The same as in `posterior.GaussianWeights`."""
        return self.prior - self._explained(self.x * prior for prior in self.prior)

    def variance_along(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same as in `posterior.GaussianWeights`."""
        whole = self.prior @ np.square(directions).T
        return whole - self._explained((self.x * prior) @ directions.T for prior in self.prior)

    def _explained(self, covariances: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
        """What sites take off prior variances: ``cᵀ diag τ (I + ΔC diag τ)⁻¹ c`` (K, M).

        The prior's covariances c (P, M) of each unit are those with the pre-activations of the training patterns.
        """
        kernels, rows = np.broadcast_to(self.kernel, (*self.tau.shape, self.tau.shape[-1])), []
        for kernel, tau, strong, covariance in zip(
            kernels, self.tau, _strong(kernels, self.tau), covariances, strict=True
        ):
            seen = covariance[strong]
            answer = np.linalg.solve(_precision(kernel, tau, strong), seen)
            rows.append(np.sum(tau[strong, None] * seen * answer, axis=0))
        return np.array(rows)


def posterior(problem: Problem, point: Point) -> CorrelatedWeights:
    """The weights of one reference at a point that `solve`, or `solve_together`, found."""
    nu, tau = map(to_numpy, point.messages)
    equations = SiteEquations(problem, point.delta)
    force = nu - tau * equations._posterior(nu, tau).mean
    prior = point.delta * np.broadcast_to(np.square(problem.scale), problem.weights.shape)
    return CorrelatedWeights(prior * (force @ problem.inputs.x), prior, problem.inputs.x, equations.kernel, tau)


solve_together = partial(cavities.solve_together, SiteEquations)  # `solve` for R references on a device


def _without_sites(posterior: Posterior) -> tuple[Array, Array]:
    """Means and variances (..., K, P) of the pre-activations without their own site."""
    nu, tau, mean, covariance = posterior
    variance = namespace(mean).linalg.diagonal(covariance)
    shrink = 1 - tau * variance
    return (mean - variance * nu) / shrink, variance / shrink


def _apply(matrices: Array, vectors: Array) -> Array:
    """Products of matrices (..., K, P, P) with vectors (..., K, P), in the precision of the matrices."""
    xp = namespace(vectors)
    return (matrices @ xp.astype(vectors, matrices.dtype)[..., None])[..., 0]


def _strong(kernel: Array, tau: Array) -> Array:
    """Which sites τ matter to a covariance; denormal ones would make LAPACK many times slower."""
    xp = namespace(tau)
    return xp.abs(tau) * xp.linalg.diagonal(kernel) > _WEAK


def covariances(kernel: Array, tau: Array) -> Array:
    """``S = (I + ΔC diag τ)⁻¹ ΔC`` (..., K, P, P) of all units, from ΔC (..., 1 or K, P, P) and τ (..., K, P)."""
    strong = _strong(kernel, tau)
    if not on_cpu(tau):
        import torch

        return torch.linalg.solve(_precisions(kernel, tau, strong), kernel)
    kernels, sites, chosen = map(to_numpy, (kernel, tau, strong))
    result = np.empty((*sites.shape, sites.shape[-1]))
    kernels = np.broadcast_to(kernels, result.shape)
    for unit in np.ndindex(sites.shape[:-1]):
        result[unit] = _covariance(kernels[unit], sites[unit], chosen[unit])
    return like(result, tau)


def log_determinants(kernel: Array, tau: Array, variance: Array) -> tuple[Array, Array]:
    """Signs and logarithms (..., K) of ``det(I + ΔC diag τ)``, with posterior variances (..., K, P) for weak sites."""
    strong = _strong(kernel, tau)
    weak = namespace(tau).sum(tau * variance * ~strong, axis=-1)  # to first order
    if not on_cpu(tau):
        import torch

        signs, logs = torch.linalg.slogdet(_precisions(kernel, tau, strong))
        return signs, logs + weak
    kernels, sites, chosen = map(to_numpy, (kernel, tau, strong))
    signs, logs = np.empty((2, *sites.shape[:-1]))
    kernels = np.broadcast_to(kernels, (*sites.shape, sites.shape[-1]))
    for unit in np.ndindex(signs.shape):
        signs[unit], logs[unit] = np.linalg.slogdet(_precision(kernels[unit], sites[unit], chosen[unit]))
    return like(signs, tau), like(logs, tau) + weak


def _covariance(kernel: NDArray, tau: NDArray, strong: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``S = (I + ΔC diag τ)⁻¹ ΔC`` (P, P) of one unit.

    Where most sites are weak, by the strong ones A alone: ``S = K - K_:A τ_A (I + K_AA τ_A)⁻¹ K_A:`` with K = ΔC.
    """
    if 2 * np.count_nonzero(strong) > len(tau):
        return np.linalg.solve(np.eye(len(tau)) + kernel * np.where(strong, tau, 0.0), kernel)
    rows = kernel[strong]
    return kernel - (rows.T * tau[strong]) @ np.linalg.solve(_precision(kernel, tau, strong), rows)


def _precision(kernel: NDArray, tau: NDArray, strong: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``I + ΔC diag τ`` of one unit on its strong sites."""
    return np.eye(np.count_nonzero(strong)) + kernel[np.ix_(strong, strong)] * tau[strong]


def _precisions(kernel: Array, tau: Array, strong: Array) -> Array:
    """``I + ΔC diag τ_k`` (..., K, P, P) of all units with their strong sites, as tensors."""
    precision = kernel * tau.where(strong, 0.0)[..., None, :]
    precision.diagonal(dim1=-2, dim2=-1).add_(1)
    return precision
