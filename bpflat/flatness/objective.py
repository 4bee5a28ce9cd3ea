"""What is measured on a batch: the outputs of the model, and the error and the loss of each pattern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpflat.flatness.batches import Batch
from bpflat.flatness.patterns import Reader

Forward = Callable[[nn.Module, Batch], object]
Measure = Callable[[object, Batch], "Tensor | tuple[Tensor, Tensor]"]


class Values(NamedTuple):
    """Values (N, ...) of N patterns, and their weights, of the same shape; None: all of them 1."""

    values: Tensor
    weights: Tensor | None = None

    def of_rows(self) -> Tensor:
        """Weighted sum of each pattern, shape (N,); what has weight 0 may be anything."""
        values = self.values if self.values.dtype in (torch.float32, torch.float64) else self.values.float()
        if self.weights is not None:
            values = torch.where(self.weights > 0, values * self.weights, 0.0)
        return values if values.ndim == 1 else values.flatten(1).sum(dim=1)

    def counted(self) -> Tensor:
        """Values that count, flat."""
        return self.values.flatten() if self.weights is None else self.values[self.weights > 0]

    def total_weight(self) -> float:
        """Sum of all weights."""
        return float(self.values.numel()) if self.weights is None else self.weights.cpu().double().sum().item()

    def check(self, name: str, n_rows: int | None) -> None:
        """Raise a ValueError unless these are real numbers, some for each of `n_rows` patterns (any number if None)."""
        values, weights = self
        for part in (values,) if weights is None else (values, weights):
            if not isinstance(part, Tensor) or part.is_complex():
                what = type(part).__name__ if not isinstance(part, Tensor) else part.dtype
                raise ValueError(f"{name} must return a tensor of real numbers, or (values, weights), not {what}")
        if not values.ndim or (n_rows is not None and len(values) != n_rows):
            wanted = "(N,) or (N, ...)" if n_rows is None else f"({n_rows},) or ({n_rows}, ...)"
            raise ValueError(
                f"{name} must return a value for each pattern, shape {wanted}, not {tuple(values.shape)}: "
                "no mean over patterns (reduction='none'), and the patterns along the first axis"
            )
        if weights is None:
            return
        if weights.shape != values.shape:
            raise ValueError(
                f"{name} must return weights of the shape of its values, {tuple(values.shape)}, "
                f"not {tuple(weights.shape)}"
            )
        if not ((weights >= 0) & torch.isfinite(weights)).all():
            raise ValueError(f"{name} must return weights that are finite and not negative")


@dataclass(frozen=True)
class Objective:
    """The functions that a user may put in the place of a classifier's; see `bpflat.flatness.local_energy`.

    Attributes
    ----------
    forward : callable, optional
        (model, batch) to outputs.
    loss, error : callable, optional
        (outputs, batch) to a value for each pattern, (N,) or (N, ...), or (values, weights).
    """

    forward: Forward | None = None
    loss: Measure | None = None
    error: Measure | None = None

    def __post_init__(self):
        for name, function in vars(self).items():
            if function is not None and not callable(function):
                raise ValueError(f"{name} must be a function, not {function!r}")

    @property
    def reader(self) -> Reader:
        """What batches must be."""
        return Reader(
            pairs=self.forward is None or self.loss is None, plain=self.forward is None, classes=self.loss is None
        )

    @property
    def has_error(self) -> bool:
        """Whether an error is defined: not by a loss of one's own."""
        return self.loss is None or self.error is not None

    @property
    def is_torch_only(self) -> bool:
        """Whether nothing of the user's but the model is called, which then needs no gradients."""
        return self == Objective()

    def outputs(self, model: nn.Module, batch: Batch) -> object:
        """What the model makes of a batch."""
        return model(batch[0]) if self.forward is None else self.forward(model, batch)

    def values(self, outputs: object, batch: Batch) -> tuple[Values, Values | None]:
        """Loss of each pattern, and error, None where it is not defined."""
        if self.loss is None:
            wrong, losses = score(outputs, batch[1])
            return Values(losses), Values(wrong) if self.error is None else _values(self.error(outputs, batch))
        losses = _values(self.loss(outputs, batch))
        return losses, None if self.error is None else _values(self.error(outputs, batch))

    def energies(self, model: nn.Module, batch: Batch) -> Tensor:
        """Error of each pattern, summed over what it has of them, shape (N,); the loss where there is no error."""
        outputs = self.outputs(model, batch)
        measure = self.error or self.loss
        return wrong(outputs, batch[1]).float() if measure is None else _values(measure(outputs, batch)).of_rows()


def _values(returned: object) -> Values:
    return Values(*returned) if isinstance(returned, tuple) and len(returned) == 2 else Values(returned)


def scores(losses: Values, errors: Values | None) -> Tensor:
    """Errors and losses of N patterns, summed over what each of them has, shape (2, N); errors not defined are 0."""
    of_losses = losses.of_rows()
    of_errors = torch.zeros_like(of_losses) if errors is None else errors.of_rows().to(of_losses.dtype)
    return torch.stack([of_errors, of_losses])


def total_weights(losses: Values, errors: Values | None) -> Tensor:
    """Sums of the weights of errors and of losses, shape (2,)."""
    of_errors = len(losses.values) if errors is None else errors.total_weight()
    return torch.tensor([of_errors, losses.total_weight()], dtype=torch.float64)


def score(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Which patterns are wrong (N,), and the loss of each (N,): cross-entropy or, of one output, logistic."""
    if _single(outputs):
        outputs = outputs.reshape(-1).float()
        losses = F.softplus(torch.where(targets > 0, -outputs, outputs))
    else:
        losses = F.cross_entropy(outputs.float(), targets, reduction="none")
    return wrong(outputs, targets), losses


def wrong(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which patterns are wrong (N,).

    Outputs that are not a number are wrong.  One output says class 1 where it is ≥ 0, as sign(0) = +1.
    """
    if _single(outputs):
        outputs = outputs.reshape(-1)
        return ((outputs >= 0) != (targets > 0)) | outputs.isnan()
    best, answer = outputs.max(dim=1)
    return (answer != targets) | best.isnan()


def _single(outputs: Tensor) -> bool:
    return outputs.ndim == 1 or outputs.shape[1] == 1


def check_outputs(outputs: object, targets: Tensor) -> None:
    """Raise a ValueError unless the outputs can be scored against the targets; reads both back from the device."""
    n = len(targets)
    if not isinstance(outputs, Tensor) or outputs.ndim not in (1, 2) or len(outputs) != n or not outputs.numel():
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"the model must give outputs of shape ({n}, C), or ({n},) for two classes, for {n} inputs, not {shape}; "
            "for outputs of another form wrap the model: forward=lambda model, batch: ..., or give `loss`"
        )
    if not outputs.is_floating_point():
        raise ValueError(f"the model must give floating-point outputs, not {outputs.dtype}")
    if _single(outputs):
        values = set(targets.unique().tolist())
        if not (values <= {0, 1} or values <= {-1, 1}):
            raise ValueError(f"with one output, targets must be 0 and 1 or -1 and 1, not {sorted(values)[:5]}")
        return
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be class indices (integers), not {targets.dtype}; for others give `loss`")
    least, most = targets.min().item(), targets.max().item()
    if least < 0 or most >= outputs.shape[1]:
        bad = least if least < 0 else most
        raise ValueError(f"targets must be class indices from 0 to {outputs.shape[1] - 1}; found {bad}")
