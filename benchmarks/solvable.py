"""Models whose learning coefficient λ̂(β) is known, by quadrature or by importance sampling, not by any Markov chain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WIDTHS = (1.0, 1.1, 1.25)  # of the Gaussians among the importance sampler's proposals; the prior is one more


@dataclass(frozen=True)
class Case:
    """A model with one parameter `w`, its data, an inverse temperature β and the prior N(w, σ²).

    A pattern's loss is the half square of output less target, and the model makes none: L₀ = 0.  It gives outputs
    (..., n) for parameters with axes in front of its own.
    """

    name: str
    model: nn.Module
    data: tuple[Tensor, Tensor]  # inputs (n, ...) and targets (n,)
    sigma: float
    beta: float

    @property
    def nbeta(self) -> float:
        """Inverse temperature nβ of the mean loss."""
        return self.beta * len(self.data[1])

    def outputs(self, w: Tensor) -> Tensor:
        """Outputs (..., n) at weights w."""
        return torch.func.functional_call(self.model, {"w": w}, (self.data[0],))

    def energies(self, states: Tensor) -> Tensor:
        """Total losses (G,) of states (G, ...)."""
        return half_square(self.outputs(states), self.data).sum(dim=-1)


def half_square(outputs: Tensor, batch: Sequence[Tensor]) -> Tensor:
    """Loss of each pattern."""
    return 0.5 * (outputs - batch[1]) ** 2


class Crossing(nn.Module):
    """``√2 Π w_i^{k_i}``, whose loss ``Π w_i^{2k_i}`` has normal crossings at 0."""

    def __init__(self, k: Sequence[int]):
        super().__init__()
        self.k, self.w = torch.tensor(k), nn.Parameter(torch.zeros(len(k), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(2) * (self.w**self.k).prod(dim=-1, keepdim=True) * x


class Committee(nn.Module):
    """``Σ_k tanh(w_k·x)``."""

    def __init__(self, w: Tensor):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.w @ x.T).sum(dim=-2)


def crossing(k: Sequence[int], beta: float) -> Case:
    """Normal crossings ``Π w_i^{2k_i}`` under the prior N(0, 1)."""
    data = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    loss = " ".join(f"w{'₁₂₃'[i]}{'⁰¹²³⁴⁵⁶⁷⁸'[2 * k_i]}" for i, k_i in enumerate(k))
    return Case(f"{loss}, nβ = {beta:,.0f}", Crossing(k), data, 1.0, beta)


def committee(n_inputs: int, n_patterns: int, sigma: float, beta: float, *, seed: int = 0) -> Case:
    """A machine of three tanh units with standard normal weights, on its own answers to random patterns ±1/√N."""
    rng = np.random.default_rng(seed)
    model = Committee(torch.from_numpy(rng.standard_normal((3, n_inputs))))
    inputs = torch.from_numpy(rng.choice([-1.0, 1.0], (n_patterns, n_inputs)) / math.sqrt(n_inputs))
    with torch.no_grad():
        data = inputs, model(inputs)
    name = f"committee machine, {3 * n_inputs} weights, {n_patterns} patterns, σ = {sigma:g}"
    return Case(f"{name}, nβ = {n_patterns * beta:,.0f}", model, data, sigma, beta)


def of_crossing(case: Case, n_points: int = 1501) -> tuple[float, float]:
    """λ̂(β) of normal crossings by the trapezoidal rule in log |w|, whose error is that of rounding; and 0."""
    w = np.exp(np.linspace(-35.0, math.log(12.0), n_points))

    def outer(function: Callable[[int], NDArray]) -> NDArray:
        return reduce(np.multiply.outer, [function(k) for k in case.model.k.tolist()])

    loss = outer(lambda k: w ** (2 * k))
    weight = outer(lambda k: w * np.exp(-(w**2) / 2)) * np.exp(-case.beta * loss)
    return case.beta * float((loss * weight).sum() / weight.sum()), 0.0


def by_importance(case: Case, n_samples: int, *, seed: int = 0, n_together: int = 10_000) -> tuple[float, float]:
    """λ̂(β) by independent samples, and its standard error.

    Proposals are, all as often, the prior and Gaussians of the curvature that prior and losses have at w
    (Gauss–Newton), as wide as that says and a little wider.
    """
    w, n = case.model.w.detach(), case.model.w.numel()
    jacobian = case.sigma * torch.func.jacrev(case.outputs)(w).flatten(1)  # z is in units of the prior
    factor = torch.linalg.cholesky(torch.eye(n, dtype=w.dtype) + case.beta * jacobian.T @ jacobian)
    narrow = torch.linalg.inv(factor)
    widths = torch.tensor(WIDTHS, dtype=w.dtype)[:, None]
    generator = torch.Generator().manual_seed(seed)
    scaled, log_weights = [], []
    for _ in range(n_samples // n_together):
        noise = torch.randn((n_together, n), generator=generator, dtype=w.dtype)
        kind = torch.randint(len(WIDTHS) + 1, (n_together,), generator=generator)
        z = torch.where(kind[:, None] == 0, noise, widths[kind - 1] * (noise @ narrow))
        log_prior = -0.5 * z.square().sum(dim=1)
        log_gaussian = -0.5 * (z @ factor).square().sum(dim=1) / widths**2 - n * widths.log()
        log_density = torch.cat([log_prior[None], log_gaussian + factor.diagonal().log().sum()]).logsumexp(dim=0)
        scaled.append(case.beta * case.energies(w + case.sigma * z.view(-1, *w.shape)))
        log_weights.append(log_prior - scaled[-1] - log_density)
    energy, weight = torch.cat(scaled), torch.cat(log_weights).softmax(dim=0)
    value = weight @ energy
    return value.item(), (weight * (energy - value)).square().sum().sqrt().item()
