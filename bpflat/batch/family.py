"""R references on the same patterns: what belief and expectation propagation around them have in common.

Tensors are (R, K, P): a row of patterns for each hidden unit of each reference.  The unknowns of each reference are its
cavity moments (ω/√Δ, V/Δ), flat: n = 2 K P.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpflat.batch.outputs import Outputs, tolerant_output_nodes
from bpflat.estimators.point import Point


class Status(NamedTuple):
    """How each reference ended: largest residual, converged, sweeps; (R,) each."""

    residual: NDArray[np.float64]
    converged: NDArray[np.bool_]
    sweeps: NDArray[np.int64]


@dataclass(frozen=True)
class Family(ABC):
    """The fixed-point equations around R references.

    Attributes
    ----------
    inputs : Tensor, shape (P, N)
        ``x̂ = x/√N``.
    gram : Tensor, shape (P, P)
        ``C = X Xᵀ/N``.
    labels : Tensor, shape (P,)
    hidden : Tensor, shape (R, K, P)
        Pre-activations of the references.
    n_errors : ndarray of int, shape (R,)
        Training errors that each reference makes and its solutions may make.
    beta : float or None
        Cost of an error, where any number of them is allowed instead.
    delta : Tensor, shape (R, 1, 1)
    """

    inputs: Tensor
    gram: Tensor
    labels: Tensor
    hidden: Tensor
    n_errors: NDArray[np.int64]
    beta: float | None
    delta: Tensor

    product_sweeps = 1  # sweeps that a product with the Jacobian takes

    @property
    def n_inputs(self) -> int:
        """N."""
        return self.inputs.shape[1]

    def take(self, rows: Tensor) -> Family:
        """Return the references of these indices, in rising order."""
        if len(rows) == len(self.hidden):
            return self
        n_errors = self.n_errors[rows.cpu().numpy()]
        return replace(self, hidden=self.hidden[rows], n_errors=n_errors, delta=self.delta[rows])

    def at(self, deltas: Sequence[float]) -> Family:
        """Return the same references at prior variances Δ (R,)."""
        return replace(self, delta=torch.tensor(deltas, dtype=torch.float64, device=self.hidden.device)[:, None, None])

    def begin(self, messages: Sequence[tuple[Tensor, ...] | None]) -> Tensor:
        """Where to start, (R, n): from the messages of an earlier point, or from none."""
        nothing = torch.zeros_like(self.hidden)
        cold = self._flat(*self._cavities_of(nothing, nothing))
        if not any(messages):
            return cold
        zeros = nothing[0], nothing[0]
        x = self._flat(*self._cavities_of(*map(torch.stack, zip(*(m or zeros for m in messages), strict=True))))
        allowed = (x[:, x.shape[1] // 2 :] > 0).all(dim=1)  # else the old messages make no sense at this Δ
        return torch.where(allowed[:, None], x, cold)

    def change(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What a sweep changes at x (R, n), infinite where x is not allowed, and what it found on its way."""
        allowed = (x[:, x.shape[1] // 2 :] > 0).all(dim=1, keepdim=True)
        if not (every := bool(allowed.all())):
            x = torch.where(allowed, x, 1.0)
        image, extra = self._sweep(x)
        image -= x
        return image if every else torch.where(allowed, image, torch.inf), extra

    def _flat(self, omega: Tensor, variance: Tensor) -> Tensor:
        return torch.stack([omega / self.delta.sqrt(), variance / self.delta], dim=1).flatten(1)

    def _cavities(self, x: Tensor) -> tuple[Tensor, Tensor]:
        omega, variance = x.view(len(x), 2, *self.hidden.shape[1:]).unbind(1)
        return omega * self.delta.sqrt(), variance * self.delta

    def _outputs(self, x: Tensor) -> Outputs:
        return tolerant_output_nodes(*self._cavities(x), self.labels, self.n_errors, self.beta)

    def _points(self, log_z: Tensor, excess: Tensor, messages, outputs: Outputs, status: Status) -> list[Point]:
        """One `Point` a reference from log Z and ``Σ (2d/Δ - 1)``, summed over its weights, (R,) each."""
        n_weights = self.n_inputs * self.hidden.shape[1]
        columns = (
            self.delta.flatten().tolist(),
            (log_z / n_weights).tolist(),
            (excess / n_weights).tolist(),
            status.converged.tolist(),
            status.sweeps.tolist(),
            status.residual.tolist(),
            zip(*messages, strict=True),
            [np.inf if self.beta is None else self.beta] * len(log_z),
            (outputs.errors / n_weights).tolist(),
        )
        return [Point(*fields) for fields in zip(*columns, strict=True)]

    @abstractmethod
    def _cavities_of(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Cavity means and variances that follow from messages (R, K, P)."""

    @abstractmethod
    def _sweep(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The fixed-point map at x (R, n), and tensors of leading dimension R that `linearize` needs."""

    @abstractmethod
    def linearize(self, x: Tensor, residual: Tensor, extra: tuple[Tensor, ...]) -> tuple[Callable, Callable]:
        """Return two functions of directions (R, n): their product with ``-change'(x)``, and an approximate inverse."""

    @abstractmethod
    def points(self, x: Tensor, status: Status) -> list[Point]:
        """Free energy, distance and messages at the fixed points x (R, n)."""
