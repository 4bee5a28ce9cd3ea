"""Expectation propagation with full covariances around R references at once; equations: `bpflat.estimators.ep`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bpflat.batch.family import Family, Status
from bpflat.batch.newton import directional_differences
from bpflat.estimators.ep import _WEAK
from bpflat.estimators.point import Point


class Posterior(NamedTuple):
    """Sites ν, τ and the means of the pre-activations given them (R, K, P), their covariances S (R, K, P, P)."""

    nu: Tensor
    tau: Tensor
    mean: Tensor
    covariance: Tensor


class FullEP(Family):
    """Messages are the sites ν and τ."""

    product_sweeps = 0

    def _sites(self, x: Tensor) -> Tensor:
        """Site parameters ν, τ (R, 2, K, P) at the cavities x."""
        omega, variance = self._cavities(x)
        outputs = self._outputs(x)
        shrink = 1 - variance * outputs.curvature
        return torch.stack([outputs.g + omega * outputs.curvature, outputs.curvature], dim=1) / shrink[:, None]

    def _is_strong(self, tau: Tensor) -> Tensor:
        return tau.abs() * self.delta * self.gram.diagonal() > _WEAK

    def _precision(self, tau: Tensor) -> Tensor:
        """``I + ΔC diag τ_k`` (R, K, P, P) of the strong sites: denormal ones would be slow."""
        strong = torch.where(self._is_strong(tau), tau, 0.0)
        precision = (self.delta * self.gram)[:, None] * strong[:, :, None, :]
        precision.diagonal(dim1=2, dim2=3).add_(1)
        return precision

    def _posterior(self, nu: Tensor, tau: Tensor) -> Posterior:
        kernel = (self.delta * self.gram)[:, None].expand(*tau.shape, tau.shape[-1])
        covariance = torch.linalg.solve(self._precision(tau), kernel)
        return Posterior(nu, tau, self.hidden + _apply(covariance, nu - tau * self.hidden), covariance)

    def _cavities_of(self, nu: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        return _without_sites(self._posterior(nu, tau))

    def _sweep(self, x: Tensor) -> tuple[Tensor, Posterior]:
        posterior = self._posterior(*self._sites(x).unbind(1))
        return self._flat(*_without_sites(posterior)), posterior

    def linearize(self, x: Tensor, residual: Tensor, extra: tuple[Tensor, ...]) -> tuple[Callable, Callable]:
        """The exact response of the posterior, ``∂S/∂τ = -S diag(·) S``, to differences of the sites."""
        nu, tau, mean, covariance = extra
        response = covariance.float()  # single precision is enough for a direction
        squared = response**2
        here = torch.stack([nu, tau], dim=1)
        variance = covariance.diagonal(dim1=2, dim2=3)
        rest = 1 - tau * variance
        omega, cavity_variance = _without_sites(Posterior(*extra))

        def product(directions):
            d_nu, d_tau = directional_differences(self._sites, x, here, directions).unbind(1)
            d_variance = -_apply(squared, d_tau)
            d_mean = _apply(response, d_nu - d_tau * mean)
            d_rest = -d_tau * variance - tau * d_variance
            d_omega = (d_mean - d_variance * nu - variance * d_nu - omega * d_rest) / rest
            return directions - self._flat(d_omega, (d_variance - cavity_variance * d_rest) / rest)

        return product, lambda vectors: vectors

    def points(self, x: Tensor, status: Status) -> list[Point]:
        """Free energy, distance and messages (ν, τ) at the fixed points x (R, n).

        Not converged where a covariance is not positive definite.
        """
        outputs = self._outputs(x)
        nu, tau, mean, covariance = self._posterior(*self._sites(x).unbind(1))
        omega, variance = self._cavities(x)
        signs, log_dets = torch.linalg.slogdet(self._precision(tau))
        # weak sites to first order
        log_dets = log_dets + torch.where(self._is_strong(tau), 0.0, tau * covariance.diagonal(dim1=2, dim2=3)).sum(
            dim=2
        )
        shift, pull = mean - self.hidden, nu - tau * mean
        sites = torch.log1p(variance * tau)
        sites = sites - (variance * nu**2 + 2 * omega * nu - omega**2 * tau) / (1 + variance * tau)
        gaussian = (nu - tau * self.hidden) * shift + 2 * nu * self.hidden - tau * self.hidden**2
        log_z = outputs.log_z - 0.5 * log_dets.sum(dim=1) + 0.5 * (gaussian + sites).sum(dim=(1, 2))
        traces = (covariance.diagonal(dim1=2, dim2=3) * tau).sum(dim=(1, 2))
        excess = (self.delta * pull * (pull @ self.gram)).sum(dim=(1, 2)) - traces
        positive = (signs > 0).all(dim=1).cpu().numpy()
        status = status._replace(converged=status.converged & positive)
        return self._points(log_z, excess, (nu, tau), outputs, status)


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Products of matrices (R, K, P, P) with vectors (R, K, P), in the precision of the matrices."""
    return (matrices @ vectors.to(matrices.dtype)[..., None])[..., 0].to(vectors.dtype)


def _without_sites(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Means and variances (R, K, P) of the pre-activations without their own site."""
    nu, tau, mean, covariance = posterior
    variance = covariance.diagonal(dim1=2, dim2=3)
    rest = 1 - tau * variance
    return (mean - variance * nu) / rest, variance / rest
