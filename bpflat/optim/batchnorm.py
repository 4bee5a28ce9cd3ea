"""BatchNorm statistics of weights that the training itself did not run through, such as a centre."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def batchnorm_statistics(model: nn.Module, batches: Iterable[Tensor | tuple]) -> Iterator[None]:
    """Within the block, `model` is in evaluation mode with BatchNorm statistics recomputed from `batches`.

    Means and variances are averaged over the batches with equal weights.  They are gathered as the model will be
    used: everything but BatchNorm is in evaluation mode meanwhile, so dropout is off and no random number is drawn
    by it.  Afterwards the old statistics and modes are back, bit for bit.

    Parameters
    ----------
    model : Module
        Compiled or not.
    batches : iterable of Tensor or tuple
        Inputs, or tuples that begin with them, on the device of the model: augmented as in training, and shuffled.
        Plain images of a network that was trained on augmented ones, or images sorted by class, cost percents of test
        error.

    Raises
    ------
    ValueError
        No batch came, although the model has BatchNorm.

    Examples
    --------
    ``with optimizer.centre(), batchnorm_statistics(model, batches): error = evaluate(model)``
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    modes = [(m, m.training) for m in model.modules()]
    saved = [(b, b.clone()) for m in norms for b in m.buffers(recurse=False)]
    momenta = [m.momentum for m in norms]
    try:
        model.eval()
        if norms:
            _gather(model, norms, batches)
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
        with torch.no_grad():
            for buffer, before in saved:
                buffer.copy_(before)


@torch.no_grad()
def _gather(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Tensor | tuple]) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the plain average over batches
        norm.train()
    n_batches = 0
    for n_batches, batch in enumerate(batches, start=1):  # noqa: B007
        model(batch if isinstance(batch, Tensor) else batch[0])
    if n_batches == 0:
        raise ValueError("batches are empty: BatchNorm statistics need at least one (or an iterator was used up)")
