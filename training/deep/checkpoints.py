"""Checkpoints of deep networks: all replicas in one file, however many processes train them."""

from __future__ import annotations

import dataclasses
import json
import os

import torch

from bpflat.storage import atomic_write
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
    with atomic_write(path) as file:
        torch.save(content, file)


def load_state(path: str | os.PathLike, configuration: dict, state: State) -> None:
    """Put what a run of the same `configuration` saved at `path` into `state`, in place: the replicas of this process.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is damaged or belongs to a run of another configuration.
    """
    with open(path, "rb") as file:
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
            stored = json.loads(saved["configuration"])
        except Exception as error:  # damage shows as OSError, RuntimeError, EOFError, UnpicklingError, nearly anything
            raise ValueError(f"{path} is not a whole checkpoint ({error}); delete it to begin again") from error
    require_same(path, stored, configuration)
    own = slice(state.replicas.start, state.replicas.stop)
    for model, weights in zip(state.models, saved["models"][own], strict=True):
        model.load_state_dict(weights)
    optimizer = saved["optimizer"]
    if state.group is not None:
        optimizer |= {key: optimizer[key][own] for key in _PER_REPLICA}
    state.optimizer.load_state_dict(optimizer)
    state.epoch, state.gamma0 = saved["epoch"], saved["gamma0"]
    state.curves = [EpochMetrics(**row) for row in saved["curves"]]
    state.flatness = [FlatnessPoint(**point) for point in saved["flatness"]]


_PER_REPLICA = ("shapes", "replicas")  # lists in the state_dict of `bpflat.optim.ReplicatedSGD`
