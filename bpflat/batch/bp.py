"""Belief propagation in its node form around R references at once; `bpflat.estimators.node_bp` has the equations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bpflat.batch.family import Family, Status
from bpflat.batch.newton import directional_differences
from bpflat.batch.outputs import Outputs
from bpflat.estimators.node_solver import _PULL
from bpflat.estimators.point import Point

_PADDING = 32  # active patterns of a unit are rounded up to a multiple of it: few sizes of matrices, little waste
_SCRATCH_BYTES = 64 << 20  # most for the terms of a sum over inputs that are not ±1, at once


class _BP(Family):
    """What does not depend on the inputs; messages are g and Γ."""

    def _sweep(self, x: Tensor) -> tuple[Tensor, Outputs]:
        outputs = self._outputs(x)
        return self._flat(*self._cavities_of(outputs.g, outputs.curvature)), outputs

    def linearize(self, x: Tensor, residual: Tensor, extra: tuple[Tensor, ...]) -> tuple[Callable, Callable]:
        """Differences of sweeps, and each hidden unit's own linear response."""
        respond = self._unit_responses(Outputs(*extra).curvature)
        half = x.shape[1] // 2

        def product(directions):
            return -directional_differences(lambda at: self.change(at)[0], x, residual, directions)

        def precondition(vectors):
            return torch.cat([respond(vectors[:, :half]), vectors[:, half:]], dim=1)

        return product, precondition

    def points(self, x: Tensor, status: Status) -> list[Point]:
        """Bethe free energy, distance and messages (g, Γ) at the fixed points x (R, n)."""
        outputs = self._outputs(x)
        return self._points(*self._bethe(*outputs[:3]), outputs[:2], outputs, status)

    def _unit_responses(self, curvature: Tensor) -> Callable[[Tensor], Tensor]:
        """`_unit_response` of `node_solver` of all units, those with equally many active patterns together."""
        n_patterns = curvature.shape[-1]
        pull = (self.delta * curvature).flatten(0, 1)  # (R K, P)
        own = self._self_response(curvature)
        lost = (curvature * own).flatten(0, 1).float()
        own = (own / self.delta).flatten(0, 1).float()
        gram = self.gram.float()
        ranked, order = pull.sort(dim=1, descending=True)
        sizes = (-(-(ranked > _PULL).sum(dim=1) // _PADDING) * _PADDING).clamp(max=n_patterns)
        blocks = []
        for size in sizes[sizes > 0].unique().tolist():
            units = (sizes == size).nonzero()[:, 0]
            active, strength = order[units, :size], ranked[units, :size]
            root = torch.where(strength > _PULL, strength, 0.0).sqrt().float()  # 0: an identity, where it is padding
            matrix = root[:, :, None] * gram[active[:, :, None], active[:, None, :]] * root[:, None, :]
            matrix.diagonal(dim1=1, dim2=2).add_(1 - torch.where(root > 0, lost[units].gather(1, active), 0.0))
            factor, failed = torch.linalg.cholesky_ex(matrix)
            factor[failed > 0] = torch.eye(size, device=factor.device)
            blocks.append((units, active, root, factor))

        def apply(vectors: Tensor) -> Tensor:
            rows = vectors.reshape(-1, n_patterns).float()
            pulled = torch.zeros_like(rows)
            for units, active, root, factor in blocks:
                right = root * rows[units[:, None], active]
                solved = root * torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
                pulled[units[:, None], active] = solved
            return (rows - pulled @ gram + own * pulled).view(vectors.shape)

        return apply


class BinaryBP(_BP):
    """Inputs ±1: ``x̂² = 1/N``, so that P depends on the unit alone."""

    def _gram_product(self, u: Tensor) -> Tensor:
        return (u.flatten(0, 1) @ self.gram).view(u.shape)

    def _precision(self, curvature):
        return 1 / self.delta + curvature.sum(dim=-1, keepdim=True) / self.n_inputs

    def _cavities_of(self, g: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
        precision = self._precision(curvature)
        rest = precision - curvature / self.n_inputs
        return self.hidden + self.delta * self._gram_product(g * (rest / precision)) - g / precision, 1 / rest

    def _self_response(self, curvature: Tensor) -> Tensor:
        """``Σ_i x̂_i²/P_ki`` (R, K, P)."""
        return (1 / self._precision(curvature)).expand_as(curvature)

    def _bethe(self, g: Tensor, curvature: Tensor, log_z: Tensor) -> tuple[Tensor, Tensor]:
        """Log Z and ``Σ (2d/Δ - 1)`` of each reference, (R,) each."""
        precision = self._precision(curvature)
        gain = self.delta * curvature.sum(dim=-1, keepdim=True) / self.n_inputs  # Δ P_k - 1
        ratio = curvature / (self.n_inputs * precision)
        pull = g * (1 - ratio)
        displacement = (self.delta * pull * self._gram_product(pull)).sum(dim=(1, 2))
        own = (g * pull / precision).sum(dim=(1, 2))
        logs = self.n_inputs * (gain.log1p().sum(dim=(1, 2)) + torch.log1p(-ratio).sum(dim=(1, 2)))
        excess = displacement - self.n_inputs * (gain / (1 + gain)).sum(dim=(1, 2))
        return log_z - 0.5 * (displacement - own + logs), excess


class RealBP(_BP):
    """Any real inputs: O(R P K N) a sweep."""

    def _precision(self, curvature):
        return 1 / self.delta + curvature @ self.inputs**2

    def _displacement(self, g, curvature, precision):
        return self.delta * (g @ self.inputs - (g * curvature) @ self.inputs**3 / precision)

    def _sum_over_inputs(self, term: Callable[[Tensor, Tensor, Tensor], Tensor], curvature, precision) -> Tensor:
        """Sum over i, (R, K, P), of a term in x̂_i² (P, N), x̂_i² Γ_kμ and P_ki (R, K, P, N), some patterns at a time."""
        squares = self.inputs**2
        block = max(1, _SCRATCH_BYTES // (8 * precision.numel()))
        parts = [
            term(x2, x2 * c[..., None], precision[:, :, None]).sum(dim=-1)
            for x2, c in zip(squares.split(block), curvature.split(block, dim=-1), strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def _cavities_of(self, g: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor]:
        precision = self._precision(curvature)
        moved = self._displacement(g, curvature, precision) @ self.inputs.T

        def variance(x2, a, precision):  # NaN, hence not allowed, where a term is not positive
            return torch.where(precision > a, x2 / (precision - a), torch.nan)

        omega = self.hidden + moved - g * ((1 / precision) @ (self.inputs**2).T)
        return omega, self._sum_over_inputs(variance, curvature, precision)

    def _self_response(self, curvature: Tensor) -> Tensor:
        """``Σ_i x̂_i²/P_ki`` (R, K, P)."""
        return (1 / self._precision(curvature)) @ (self.inputs**2).T

    def _bethe(self, g: Tensor, curvature: Tensor, log_z: Tensor) -> tuple[Tensor, Tensor]:
        """Log Z and ``Σ (2d/Δ - 1)`` of each reference, (R,) each."""
        precision = self._precision(curvature)
        gain = self.delta * (curvature @ self.inputs**2)  # Δ P_ki - 1
        displacement = (self._displacement(g, curvature, precision) ** 2 / self.delta).sum(dim=(1, 2))
        own = g**2 * ((1 / precision) @ (self.inputs**2).T)
        own = own - g**2 * curvature * ((1 / precision**2) @ (self.inputs**4).T)
        ratios = self._sum_over_inputs(lambda x2, a, precision: torch.log1p(-a / precision), curvature, precision)
        logs = gain.log1p().sum(dim=(1, 2)) + ratios.sum(dim=(1, 2))
        excess = displacement - (gain / (1 + gain)).sum(dim=(1, 2))
        return log_z - 0.5 * (displacement - own.sum(dim=(1, 2)) + logs), excess
