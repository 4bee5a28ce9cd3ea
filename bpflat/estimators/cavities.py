"""What belief propagation in its node form and expectation propagation have in common: cavities are the unknowns.

The means ω and variances V of the pre-activations without their own pattern fix everything: the output nodes answer
them with derivatives g, Γ, from which new cavities follow.  Fixed points of that map are found by Newton-Krylov, in the
variables (ω/√Δ, V/Δ), flat: n = 2KP numbers.

All arrays are (..., K, P), a row of patterns for each hidden unit: of one reference in numpy, or of R references, in
step, in torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bpflat.estimators.arrays import Array, like, namespace, to_numpy
from bpflat.estimators.newton import Operator, Root, newton_krylov, newton_krylov_together
from bpflat.estimators.output_node import Outputs, output_nodes
from bpflat.estimators.point import Point
from bpflat.estimators.problem import Problem


class Solution(NamedTuple):
    """What is read off a fixed point: sums over the weights (...), and messages (..., K, P) to begin another from.

    log Z; ``Σ (2d/Δ - 1)``; the mean number of errors at a cost β; whether the point makes sense.
    """

    log_z: Array
    excess: Array
    errors: Array
    is_valid: Array
    messages: tuple[Array, Array]


@dataclass(frozen=True)
class CavityEquations(ABC):
    """The fixed-point equations of a problem at prior variance Δ: a `newton.System`.

    Attributes
    ----------
    problem : Problem
    delta : float or array, shape (R, 1, 1)
    """

    problem: Problem
    delta: float | Array

    product_cost = 1

    def take(self, rows: NDArray[np.int64]) -> CavityEquations:
        """Return the equations of some references, by indices that rise."""
        if len(rows) == len(self.delta):
            return self
        return replace(self, problem=self.problem.take(rows), delta=self.delta[rows])

    def begin(self, messages: tuple[Array, Array] | None) -> Array:
        """Where to start, (..., n): from the messages of an earlier point, or from none."""
        xp = namespace(self.problem.hidden)
        if messages is not None:
            x = self.flat(*self.cavities_from(*messages))
            if (allowed := self._allowed(x)).all():  # else the old messages make no sense at this Δ
                return x
        silent = xp.zeros_like(self.problem.hidden)
        cold = self.flat(*self.cavities_from(silent, silent))
        return cold if messages is None else xp.where(allowed, x, cold)

    def change(self, x: Array) -> tuple[Array, NamedTuple]:
        """What a sweep changes at x (..., n), infinite where a variance is not positive; and arrays for the others."""
        xp = namespace(x)
        allowed = self._allowed(x)
        if not (every := bool(allowed.all())):
            x = xp.where(allowed, x, xp.ones_like(x))
        image, extra = self.sweep(x)
        return image - x if every else xp.where(allowed, image - x, xp.full_like(x, xp.inf)), extra

    def flat(self, omega: Array, variance: Array) -> Array:
        """The unknowns (..., n) that are these cavities (..., K, P)."""
        xp = namespace(omega)
        x = xp.stack([omega / self.delta**0.5, variance / self.delta], axis=-3)
        return xp.reshape(x, (*omega.shape[:-2], -1))

    def cavities(self, x: Array) -> tuple[Array, Array]:
        """Cavity means and variances (..., K, P) from the unknowns."""
        pair = namespace(x).reshape(x, (*x.shape[:-1], 2, *self.problem.hidden.shape[-2:]))
        return pair[..., 0, :, :] * self.delta**0.5, pair[..., 1, :, :] * self.delta + self.problem.floor

    def outputs(self, x: Array) -> Outputs:
        """What the output nodes answer to the cavities."""
        problem = self.problem
        return output_nodes(problem.node, *self.cavities(x), problem.labels, problem.n_errors, problem.beta)

    def _allowed(self, x: Array) -> Array:
        variance = x[..., x.shape[-1] // 2 :]
        if not self.problem.is_isotropic:
            variance = variance + namespace(x).reshape(self.problem.floor, variance.shape)
        return namespace(x).all(variance > 0, axis=-1, keepdims=True)

    @abstractmethod
    def cavities_from(self, first: Array, second: Array) -> tuple[Array, Array]:
        """Cavity means and variances (..., K, P) that follow from the two messages (..., K, P)."""

    @abstractmethod
    def sweep(self, x: Array) -> tuple[Array, NamedTuple]:
        """The fixed-point map at x (..., n), and arrays with the same leading dimensions that the others need."""

    @abstractmethod
    def linearize(self, x: Array, residual: Array, extra: Sequence[Array]) -> tuple[Operator, Operator | None]:
        """Return two functions of directions (..., n): product with ``-change'(x)``, and an approximate inverse."""

    @abstractmethod
    def solution(self, x: Array, extra: Sequence[Array]) -> Solution:
        """Free energy, distance and messages at a fixed point x (..., n)."""

    def points(self, root: Root) -> list[Point]:
        """One point per reference, in order."""
        *sums, messages = self.solution(root.x, self.sweep(root.x)[1] if root.extra is None else root.extra)
        log_z, excess, errors, is_valid, delta = (np.reshape(to_numpy(a), -1) for a in (*sums, self.delta))
        residual, converged, n_iter = (np.reshape(a, -1) for a in root[1:4])
        n_weights, many = np.reshape(self.problem.n_weights, -1), self.problem.hidden.ndim > 2
        return [
            Point(
                delta=float(delta[r]),
                log_z=float(log_z[r] / n_weights[r]),
                excess=float(excess[r] / n_weights[r]),
                converged=bool(converged[r] and is_valid[r]),
                n_iter=int(n_iter[r]),
                residual=float(residual[r]),
                messages=tuple(m[r] if many else m for m in messages),
                beta=np.inf if self.problem.beta is None else self.problem.beta,
                errors=float(errors[r] / n_weights[r]),
            )
            for r in range(len(log_z))
        ]


def solve(equations: CavityEquations, start: Point | None, *, tolerance: float, max_steps: int) -> Point:
    """Find the fixed point of one reference, from the messages of an earlier point or from none."""
    x = equations.begin(start.messages if start else None)
    return equations.points(newton_krylov(equations, x, tolerance=tolerance, max_steps=max_steps))[0]


def solve_together(
    equations_of: Callable[[Problem, Array], CavityEquations],
    problem: Problem,
    deltas: Sequence[float],
    starts: Sequence[Point | None],
    *,
    tolerance: float = 1e-9,
    max_steps: int = 40,
) -> list[Point]:
    """`solve` for R references in step, each at its own Δ; messages are tensors (K, P) on the problem's device."""
    import torch

    equations = equations_of(problem, like(np.reshape(deltas, (-1, 1, 1)), problem.hidden))
    silent = torch.zeros_like(equations.problem.hidden[0])
    messages = [start.messages if start else (silent, silent) for start in starts]
    with torch.inference_mode():
        x = equations.begin(tuple(map(torch.stack, zip(*messages, strict=True))) if any(starts) else None)
        return equations.points(newton_krylov_together(equations, x, tolerance=tolerance, max_steps=max_steps))
