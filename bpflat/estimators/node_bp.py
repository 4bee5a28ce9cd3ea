"""Belief propagation without edges: the same fixed points on (P, K) arrays.

At a fixed point every message follows from the output node's derivatives g, Γ (P, K) and the weights' marginals, so
the unknowns are the cavity moments ω, V of the PK pre-activations.  With ``x̂ = x/√N`` and
``P_ki = 1/Δ + Σ_μ x̂_i² Γ_kμ``, the displacement of a weight's mean is ``δ_ki = M_ki - w_ki`` and

    δ_ki = Δ Σ_μ x̂_i g_kμ (1 - x̂_i² Γ_kμ/P_ki)        ω_kμ = Σ_i x̂_i (w_ki + δ_ki) - g_kμ Σ_i x̂_i²/P_ki
    V_kμ = Σ_i x̂_i²/(P_ki - x̂_i² Γ_kμ)

In these variables the terms of the Bethe free energy that grow as N/Δ cancel by algebra, not by subtraction:

    log Z = Σ_μ log Z_μ - ½ Σ_ki [δ_ki²/Δ + log(Δ P_ki)] + ½ Σ_μki [b²(1 - a)/P_ki - log(1 - a)]

with b = x̂_i g_kμ and a = x̂_i² Γ_kμ/P_ki: log Z keeps its relative precision where it is 1e-10 a weight.  Two sets
of sums: for inputs ±1 (x̂² = 1/N, P_ki = P_k) through the Gram matrix, and for any real inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bpflat.estimators.kernels import _cavity_variance, _log_cavity_ratio


class Cavity(NamedTuple):
    """Moments of the pre-activations without their own pattern, each of shape (P, K)."""

    omega: NDArray[np.float64]
    variance: NDArray[np.float64]


@dataclass(frozen=True)
class BinaryNodes:
    """The sums over inputs ±1: one product with the Gram matrix.

    Attributes
    ----------
    hidden : ndarray, shape (P, K)
        Pre-activations of the reference, ``X wᵀ/√N``.
    gram : ndarray, shape (P, P)
        ``C = X Xᵀ/N``.
    n_inputs : int
        N.
    """

    hidden: NDArray[np.float64]
    gram: NDArray[np.float64]
    n_inputs: int

    def _precision(self, delta, curvature):
        return 1 / delta + curvature.sum(axis=0) / self.n_inputs

    def cavity(self, delta, g, curvature) -> Cavity:
        """ω and V from the output node's g and Γ (P, K)."""
        precision = self._precision(delta, curvature)
        rest = precision - curvature / self.n_inputs
        pull = g * (rest / precision)
        return Cavity(self.hidden + delta * (self.gram @ pull) - g / precision, 1 / rest)

    def self_response(self, delta, curvature) -> NDArray[np.float64]:
        """``Σ_i x̂_i²/P_ki``, shape (P, K): what ω loses of its own pattern's pull."""
        return np.broadcast_to(1 / self._precision(delta, curvature), curvature.shape)

    def bethe(self, delta, g, curvature, log_z) -> tuple[float, float]:
        """Log Z per weight and the excess ``ε = 2d/Δ - 1`` at a fixed point, from the output nodes' g, Γ and log Z."""
        precision = self._precision(delta, curvature)
        gain = delta * curvature.sum(axis=0) / self.n_inputs  # Δ P_k - 1
        ratio = curvature / (self.n_inputs * precision)
        pull = g * (1 - ratio)
        displacement = delta * np.vdot(pull, self.gram @ pull)  # Σ δ²/Δ
        total = (
            log_z
            - 0.5 * (displacement - np.sum(g * pull / precision))
            - 0.5 * self.n_inputs * (np.log1p(gain).sum() + np.log1p(-ratio).sum())
        )
        n_hidden = curvature.shape[1]
        n_weights = self.n_inputs * n_hidden
        return float(total / n_weights), float(displacement / n_weights - np.mean(gain / (1 + gain)))


@dataclass(frozen=True)
class RealNodes:
    """The sums over any real inputs: O(PKN) a sweep, without memory for edges.

    Attributes
    ----------
    weights : ndarray, shape (K, N)
        The reference.
    inputs : ndarray, shape (P, N)
        ``x̂ = x/√N``.
    """

    weights: NDArray[np.float64]
    inputs: NDArray[np.float64]

    @property
    def n_inputs(self) -> int:
        """N."""
        return self.inputs.shape[1]

    @cached_property
    def hidden(self) -> NDArray[np.float64]:
        """Pre-activations of the reference, shape (P, K)."""
        return self.inputs @ self.weights.T

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """``C = X Xᵀ/N``, shape (P, P)."""
        return self.inputs @ self.inputs.T

    @cached_property
    def _squares(self):
        return self.inputs**2

    @cached_property
    def _cubes(self):
        return self.inputs**3

    def _precision(self, delta, curvature):
        return 1 / delta + curvature.T @ self._squares

    def _displacement(self, delta, g, curvature, precision):
        return delta * (g.T @ self.inputs - (g * curvature).T @ self._cubes / precision)

    def cavity(self, delta, g, curvature) -> Cavity:
        """ω and V from the output node's g and Γ (P, K)."""
        precision = self._precision(delta, curvature)
        shift = self.inputs @ self._displacement(delta, g, curvature, precision).T
        variance = np.empty_like(g)
        _cavity_variance(self._squares, precision, np.ascontiguousarray(curvature), variance)
        return Cavity(self.hidden + shift - g * (self._squares @ (1 / precision).T), variance)

    def self_response(self, delta, curvature) -> NDArray[np.float64]:
        """``Σ_i x̂_i²/P_ki``, shape (P, K): what ω loses of its own pattern's pull."""
        return self._squares @ (1 / self._precision(delta, curvature)).T

    def bethe(self, delta, g, curvature, log_z) -> tuple[float, float]:
        """Log Z per weight and the excess ``ε = 2d/Δ - 1`` at a fixed point, from the output nodes' g, Γ and log Z."""
        precision = self._precision(delta, curvature)
        gain = delta * (curvature.T @ self._squares)  # Δ P_ki - 1
        displacement = np.sum(self._displacement(delta, g, curvature, precision) ** 2) / delta
        own = g**2 * (self._squares @ (1 / precision).T)
        own -= g**2 * curvature * (self._squares**2 @ (1 / precision**2).T)
        logs = np.log1p(gain).sum() + _log_cavity_ratio(self._squares, precision, np.ascontiguousarray(curvature))
        total = log_z - 0.5 * (displacement - own.sum() + logs)
        return float(total / self.weights.size), float(displacement / self.weights.size - np.mean(gain / (1 + gain)))


def nodes_of(weights: NDArray[np.float64], patterns: NDArray[np.float64]) -> BinaryNodes | RealNodes:
    """Choose the sums for weights (K, N), rows of norm √N, and patterns (P, N): by the Gram matrix where all are ±1."""
    n_inputs = patterns.shape[1]
    if np.all(np.abs(patterns) == 1):
        return BinaryNodes(patterns @ weights.T / np.sqrt(n_inputs), patterns @ patterns.T / n_inputs, n_inputs)
    return RealNodes(weights, patterns / np.sqrt(n_inputs))
