"""Coverage of the 95 % intervals of `bpflat.flatness.local_entropy`: of Φ, in 100 whole calls for each of two models.

``python -m benchmarks.coverage``.  Both models take a ladder and have a closed form: a linear one with a smooth loss,
whose log Z is a determinant, and a perceptron of two weights whose solutions are the wedge between two patterns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor, nn

from benchmarks.timing import verdict
from bpflat.flatness import local_entropy


class Case(NamedTuple):
    """A model, its data, the options of the call and the exact Φ."""

    name: str
    model: nn.Module
    data: tuple[Tensor, Tensor]
    sigma: float
    options: dict[str, object]
    phi: float


def squares(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared deviation, pattern by pattern."""
    return 0.5 * (outputs[:, 0] - batch[1]) ** 2


def apply(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Outputs of a batch."""
    return model(batch[0])


def legendre(log_z: float, excess: float, n: int) -> float:
    """Φ of log Z and of the excess of |z|² over its prior's mean, per weight."""
    return log_z / n + 0.5 * (excess - math.log1p(excess))


def linear(n: int = 4, n_patterns: int = 6, sigma: float = 2.0) -> Case:
    """``log Z = −½ log det(1 + βσ² Xᵀ X)`` at β = 1; each eigenvalue s of the spread takes s/(1 + s) off z²."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n_patterns, n, generator=generator, dtype=torch.float64)
    model = nn.Linear(n, 1, bias=False).double()
    data = inputs, model(inputs)[:, 0].detach()
    spread = sigma**2 * np.linalg.eigvalsh((inputs.T @ inputs).numpy())
    fall = float((spread / (1 + spread)).sum())
    phi = legendre(-0.5 * np.log1p(spread).sum() + 0.5 * fall, -fall / n, n)
    return Case("linear model, smooth loss", model, data, sigma, {"forward": apply, "loss": squares, "beta": 1.0}, phi)


class Perceptron(nn.Module):
    """The sign of ``w·x``, as logits of two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        h = x @ self.w
        return torch.stack([-h, h], dim=1)


def wedge(angle: float = 0.02, sigma: float = 1.0) -> Case:
    """Directions within `angle` of w: an integral over x > 0, of those over |y| < x tan(angle) in closed form."""
    slope = math.tan(angle)
    inputs = torch.tensor([[slope, 1.0], [slope, -1.0]], dtype=torch.float64)

    def integral(function: Callable[[float, float], float]) -> float:
        def density(x: float) -> float:
            return norm.pdf(x, 1.0, sigma) * function((x - 1.0) / sigma, x * slope / sigma)

        return quad(density, 0.0, 1.0 + 12 * sigma, epsabs=1e-12)[0]

    def mass(_: float, c: float) -> float:
        return 2 * norm.cdf(c) - 1

    z = integral(mass)
    square = integral(lambda x, c: (x * x + 1) * mass(x, c) - 2 * c * norm.pdf(c)) / z
    data = inputs, torch.ones(2, dtype=torch.int64)
    return Case("perceptron, errors", Perceptron(), data, sigma, {}, legendre(math.log(z), square / 2 - 1, 2))


def deviations(case: Case, n_calls: int) -> np.ndarray:
    """Deviations of Φ from the exact value in standard errors, of the calls that converged."""
    options = {"scale": "isotropic", "n_samples": 100, **case.options}
    curves = [local_entropy(case.model, case.data, [case.sigma], seed=seed, **options) for seed in range(n_calls)]
    assert all(curve.n_temperatures[0] > 1 for curve in curves), "counted, without a ladder"
    return np.array([(c.phi[0] - case.phi) / c.std_error[0] for c in curves if c.converged[0]])


def main(n_calls: int = 100) -> None:
    """Measure both models."""
    for case in (linear(), wedge()):
        z = deviations(case, n_calls)
        print(
            f"{case.name}: Φ = {case.phi:.4f}, {len(z)} of {n_calls} calls converged; in standard errors Φ is off by "
            f"{z.mean():.2f} on average, with a deviation of {z.std(ddof=1):.2f}"
        )
        print(verdict("95 % intervals that hold Φ (%)", 100 * np.mean(np.abs(z) < 1.96), 91), flush=True)


if __name__ == "__main__":
    main()
