"""Checkpoints of deep networks: all replicas in one file, however many processes train them."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
from torch import Tensor

from bpflat.arguments import check_count
from bpflat.reading import parse_json
from bpflat.storage import damage_named
from bpflat.tensor_files import load_tensors, save_tensors, tensors_in
from training.deep.flatness import FlatnessPoint
from training.deep.processes import gather_states
from training.deep.results import EpochMetrics
from training.deep.trainer import State
from training.result_file import require_same


def save_state(path: str | os.PathLike, configuration: dict, state: State) -> None:
    """Write `state` and the JSON-able `configuration` of its run, atomically.

    All processes of its group must call this; the first one writes.
    """
    own = {"models": [model.state_dict() for model in state.models], "optimizer": state.optimizer.state_dict()}
    parts = gather_states(own, state.group)
    if not parts:
        return
    optimizer = parts[0]["optimizer"]
    if state.group is not None:
        optimizer |= {key: [replica for part in parts for replica in part["optimizer"][key]] for key in _PER_REPLICA}
    content = {
        "configuration": json.dumps(configuration),
        "epoch": state.epoch,
        "gamma0": state.gamma0,
        "curves": [dataclasses.asdict(row) for row in state.curves],
        "flatness": [dataclasses.asdict(point) for point in state.flatness],
        "models": [model for part in parts for model in part["models"]],
        "optimizer": optimizer,
    }
    save_tensors(path, content)


def load_state(path: str | os.PathLike, configuration: dict, state: State) -> None:
    """Put what a run of the same `configuration` saved at `path` into `state`, in place: the replicas of this process.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is damaged or belongs to a run of another configuration.
    """
    saved = load_tensors(path)
    with damage_named(path):
        stored = parse_json(saved["configuration"])
    require_same(path, stored, configuration)
    with damage_named(path):
        _put(saved, state)


def _put(saved: dict, state: State) -> None:
    """Put the content of a checkpoint into `state`; raises nearly anything where it is not what `save_state` writes."""
    own = slice(state.replicas.start, state.replicas.stop)
    for model, weights in zip(state.models, saved["models"][own], strict=True):
        _check_like(model.state_dict(), weights)
        model.load_state_dict(weights)
    optimizer = saved["optimizer"]
    if not all(tensor.isfinite().all() for tensor in tensors_in(optimizer)):
        raise ValueError("its optimizer holds numbers that are not finite")
    if state.group is not None:
        optimizer |= {key: optimizer[key][own] for key in _PER_REPLICA}
    state.optimizer.load_state_dict(optimizer)
    state.epoch, state.gamma0 = check_count("epoch", saved["epoch"], at_least=0), float(saved["gamma0"])
    state.curves = [EpochMetrics(**row) for row in saved["curves"]]
    state.flatness = [FlatnessPoint(**point) for point in saved["flatness"]]
    epochs, numbers = [row.epoch for row in state.curves], [dataclasses.astuple(row) for row in state.curves]
    if epochs != list(range(1, state.epoch + 1)) or np.array(numbers, np.float64).ndim != min(state.epoch, 1) + 1:
        raise ValueError(f"its curves are not those of {state.epoch} epochs")


def _check_like(wanted: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Raise a ValueError that names the first tensor that is not finite or not of the wanted type and shape."""
    for name, tensor in wanted.items():
        if weights[name].dtype != tensor.dtype or weights[name].shape != tensor.shape:
            raise ValueError(f"{name} must be {tensor.dtype} of shape {tuple(tensor.shape)}")
        if not weights[name].isfinite().all():
            raise ValueError(f"{name} must be finite")


_PER_REPLICA = ("shapes", "replicas")  # lists in the state_dict of `bpflat.optim.ReplicatedSGD`
