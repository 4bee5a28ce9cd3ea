"""The way from a model and data, as they are given, to an evaluation of a copy on the device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bpflat.arguments import check_choice, check_count, check_flag
from bpflat.flatness.evaluation import PRECISIONS, Augmentation, Evaluation
from bpflat.flatness.models import copy_to
from bpflat.flatness.objective import Objective
from bpflat.flatness.patterns import Data, Patterns
from bpflat.flatness.sampling import ORDER
from bpflat.randomness import stream


def prepare(
    model: nn.Module,
    chosen: Mapping[str, nn.Parameter],
    data: Data,
    device: torch.device,
    objective: Objective,
    *,
    seed: np.random.SeedSequence,
    batch_size: int | None,
    block_size: int,
    batch_norm: str,
    resident: bool | None,
    precision: str | None,
    channels_last: bool = False,
    augment: Augmentation | None = None,
    compile: bool | str = False,
) -> tuple[Evaluation, list[Tensor]]:
    """Bring data and a copy of the model to the device; the options are those of `bpflat.flatness.local_energy`.

    Returns
    -------
    evaluation : Evaluation
    parameters : list of Parameter
        The copies of the chosen ones.

    Raises
    ------
    ValueError
        When an option is not what it must be, or model or data cannot be used.
    """
    check_choice("batch_norm", batch_norm, ("frozen", "recompute"))
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
    if resident is not None:
        check_flag("resident", resident)
    batch_size = None if batch_size is None else check_count("batch_size", batch_size)
    block_size = check_count("block_size", block_size)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    patterns = Patterns(
        data, device, reader=objective.reader, dtype=dtype, resident=resident, channels_last=channels_last
    )
    twin, copies = copy_to(model, device, chosen)
    if channels_last:
        twin.to(memory_format=torch.channels_last)
    evaluation = Evaluation(
        twin,
        patterns,
        objective,
        batch_size=batch_size or patterns.largest or (128 if device.type == "cpu" else 512),
        block_size=block_size,
        recompute=batch_norm == "recompute",
        order=_shuffled(patterns.n_rows, stream(seed, ORDER)),
        augment=augment,
        precision=precision,
        compiled=_compiled(twin, compile) if compile else None,
    )
    return evaluation, copies


def _compiled(model: nn.Module, mode: bool | str) -> nn.Module:
    try:
        return torch.compile(model, mode=None if mode is True else mode)
    except RuntimeError as error:  # an unknown mode
        raise ValueError(f"compile must be True, False or a mode of torch.compile: {error}") from error


def _shuffled(n: int | None, seed: np.random.SeedSequence) -> Tensor | None:
    """The numbers from 0 to n − 1 in random order."""
    return None if n is None else torch.from_numpy(np.random.default_rng(seed).permutation(n))
