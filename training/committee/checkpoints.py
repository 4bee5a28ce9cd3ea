"""Checkpoints: the weights of the running restarts, the results of the ended ones, and whose they are."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bpflat.layout import check_finite, check_layout
from bpflat.reading import parse_json
from bpflat.storage import damage_named, load_npz, save_npz
from training.committee.protocols import current_fields
from training.result_file import require_same

KIND = "training-checkpoint"
# Coordinates that agree so far hold the same weights to rounding; those of dependent patterns may not agree at all.
_SAME_PROBE = 1e-6
_LAYOUT = {
    "epoch": "i",
    "restarts": "i R",
    "u": "f R y K N",
    "probe": "f P",
    "ended_restarts": "i E",
    "ended_epochs": "i E",
    "ended_status": "U E",
    "ended_distance": "f E",
}
_ENDED = ("ended_restarts", "ended_weights", "ended_epochs", "ended_status", "ended_distance")


@dataclasses.dataclass(frozen=True, eq=False)
class Ended:
    """How one restart ended: its weights (K, N) float32 with unit rows, epochs, status and squared distance."""

    weights: NDArray[np.float32]
    epochs: int
    status: str
    distance: float


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """State between two epochs.

    Attributes
    ----------
    epoch : int
        Epochs done.
    restarts : list of int
        Running restarts.
    u : ndarray of float32, shape (R, y, K, N')
        Their weights, in the coordinates of `training.committee.problem.Problem`.
    probe : ndarray of float64
        Which these are, see `Problem.probe`.
    ended : dict
        `Ended` of each restart that does not run any more.
    """

    epoch: int
    restarts: list[int]
    u: NDArray[np.float32]
    probe: NDArray[np.float64]
    ended: dict[int, Ended]


def save_checkpoint(path: str | os.PathLike, configuration: dict, state: Checkpoint) -> None:
    """Write `state` and the JSON-able `configuration` of its run, atomically."""
    ended = list(state.ended.values())
    save_npz(
        path,
        KIND,
        configuration=json.dumps(configuration),
        epoch=state.epoch,
        restarts=np.array(state.restarts, dtype=np.int64),
        u=state.u,
        probe=state.probe,
        ended_restarts=np.array(list(state.ended), dtype=np.int64),
        ended_weights=np.array([e.weights for e in ended], dtype=np.float32),
        ended_epochs=np.array([e.epochs for e in ended], dtype=np.int64),
        ended_status=np.array([e.status for e in ended], dtype=np.str_),
        ended_distance=np.array([e.distance for e in ended], dtype=np.float64),
    )


def load_checkpoint(path: str | os.PathLike, configuration: dict, probe: NDArray) -> Checkpoint | None:
    """State saved at `path` by a run of the same `configuration`; None when there is none.

    Its weights are in the coordinates that `probe` tells, or, as in the first release, in those of the inputs.

    Raises
    ------
    ValueError
        When the file is damaged, belongs to a run of another configuration, or holds weights in other coordinates.
    """
    if not Path(path).exists():
        return None
    names = ("configuration", "epoch", "restarts", "u", *_ENDED)
    saved = load_npz(path, KIND, names)
    with damage_named(path):
        own = parse_json(str(saved["configuration"]))
        own |= {"protocol": current_fields(own["protocol"])}
    require_same(path, own, configuration)
    with damage_named(path):
        _check(saved, configuration)
    columns = (saved[name] for name in _ENDED)
    ended = {
        int(restart): Ended(weights, int(epochs), str(status), float(distance))
        for restart, weights, epochs, status, distance in zip(*columns, strict=True)
    }
    stored = saved.get("probe", np.empty(0))
    if len(stored) and not (stored.shape == probe.shape and np.allclose(stored, probe, atol=_SAME_PROBE)):
        raise ValueError(
            f"{path} holds weights in other coordinates than those of this machine, or of this version of torch: "
            "go on where it was made, or delete that file"
        )
    return Checkpoint(int(saved["epoch"]), saved["restarts"].tolist(), saved["u"], stored, ended)


def _check(saved: dict[str, NDArray], configuration: dict) -> None:
    """Raise a ValueError where the arrays of a checkpoint are not those of a run of this configuration."""
    some_ended = len(saved["ended_weights"]) > 0  # none are an array without further axes
    check_layout(saved, _LAYOUT | ({"ended_weights": "f E K I"} if some_ended else {}))
    check_finite(saved, "u", "probe", *(["ended_weights"] if some_ended else []))
    if sorted([*saved["restarts"], *saved["ended_restarts"]]) != sorted(configuration["restarts"]):
        raise ValueError(f"its restarts are not those that were asked for, {configuration['restarts']}, each once")
    if saved["u"].shape[1:3] != (configuration["protocol"]["y"], configuration["protocol"]["K"]):
        raise ValueError(f"u is of another network: shape {saved['u'].shape}")
