"""BatchNorm statistics of weights that the training itself did not run through: a centre, or weights under noise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bpflat.arguments import shown

Batch = TypeVar("Batch")


@contextlib.contextmanager
def batchnorm_statistics(model: nn.Module, batches: Iterable[Tensor | tuple[Any, ...]]) -> Iterator[None]:
    """Hold `model` in evaluation mode, with BatchNorm statistics recomputed from `batches`, within the block.

    Means and variances are averaged over the batches with equal weights.  They are gathered as the model will be
    used: everything but BatchNorm is in evaluation mode meanwhile, so dropout is off and no random number is drawn
    by it.  Afterwards the old statistics and modes are back, bit for bit.

    Parameters
    ----------
    model : Module
        Compiled or not.
    batches : iterable of Tensor or tuple
        Inputs, or tuples that begin with them, on the device of the model.  Shuffle them, and augment them as in
        training: the variance within batches of one class each is too small, and that of plain images is not the one
        that the network was trained with.

    Raises
    ------
    ValueError
        No model; batches that are neither tensors nor begin with one; none at all, although the model has BatchNorm.

    Examples
    --------
    >>> import torch
    >>> from bpflat.optim import batchnorm_statistics
    >>> model = torch.nn.BatchNorm1d(3)
    >>> inputs = 5 + torch.randn(64, 3)
    >>> with batchnorm_statistics(model, inputs.split(16)):  # a centre: ``with optimizer.centre(), ...``
    ...     mean = model(inputs).mean()
    >>> bool(mean.abs() < 0.01), bool(model(inputs).requires_grad)
    (True, True)
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, not {shown(model)}")
    norms = layers_with_statistics(model)
    modes = [(m, m.training) for m in model.modules()]
    saved = [(b, b.clone()) for m in norms for b in m.buffers(recurse=False)]
    momenta = [m.momentum for m in norms]
    try:
        model.eval()
        if norms:
            gather_statistics(norms, batches, lambda batch: model(_inputs(batch)))
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
        with torch.no_grad():
            for buffer, before in saved:
                buffer.copy_(before)


def _inputs(batch: Tensor | tuple[Any, ...]) -> Tensor:
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(inputs, Tensor):
        raise ValueError(f"batches must be tensors, or tuples that begin with one; found {shown(batch)}")
    return inputs


def layers_with_statistics(model: nn.Module) -> list[_BatchNorm]:
    """BatchNorm layers that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@torch.no_grad()
def gather_statistics(norms: list[_BatchNorm], batches: Iterable[Batch], apply: Callable[[Batch], object]) -> None:
    """Set the statistics of `norms` to their mean over batches, each of which `apply` sends through the model.

    The layers are left in evaluation mode, without a momentum.

    Raises
    ------
    ValueError
        No batch came.
    """
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the plain average over batches
        norm.train()
    if not isinstance(batches, Iterable):
        raise ValueError(f"batches must be an iterable of inputs, not {shown(batches)}")
    n_batches = 0
    for n_batches, batch in enumerate(batches, start=1):  # noqa: B007
        apply(batch)
    if n_batches == 0:
        raise ValueError("batches are empty: BatchNorm statistics need at least one (or an iterator was used up)")
    for norm in norms:
        norm.eval()
