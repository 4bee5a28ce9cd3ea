"""Both flatness measures of trained minima, computed once and kept beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bpflat
from bpflat import LocalEnergyProfile, LocalEntropyCurve, committee
from training.results import TrainedMinima
from training.workers import Task, carry_out, part_path, tidy

DISTANCES = np.array([0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0])
SIGMAS = np.round(np.arange(0, 1.51, 0.1), 2)
REFERENCES = 5  # whose curves are one task


@dataclass(frozen=True)
class Series:
    """Minima of one protocol and what was measured around them.

    Attributes
    ----------
    name : str
        Of the protocol and of its files.
    label : str
        For the legend.
    minima : TrainedMinima
        All restarts.
    entropy : LocalEntropyCurve
        Φ at `DISTANCES` around the restarts without training errors.
    energy : LocalEnergyProfile
        δE at `SIGMAS`, of all restarts.
    """

    name: str
    label: str
    minima: TrainedMinima
    entropy: LocalEntropyCurve
    energy: LocalEnergyProfile


def measure(
    minima: Sequence[TrainedMinima], folder: Path, *, n_jobs: int = -1, scheduler: str | None = None
) -> list[Series]:
    """Read both measures of the minima of every protocol from `folder`, or compute and store them there.

    Parameters
    ----------
    minima : sequence of TrainedMinima
        One of each protocol.
    folder : Path
        Of ``<protocol name>-entropy.npz`` and ``<protocol name>-energy.npz``.
    n_jobs, scheduler
        Who computes the curves, see `training.workers.carry_out`.

    Raises
    ------
    ValueError
        When no restart of a protocol is free of training errors, or a stored file is damaged.
    SweepError
        When tasks or workers fail.
    OSError
        When `folder` cannot be written.
    """
    for one in minima:
        if not np.any(one.train_error == 0):
            raise ValueError(
                f"{one.protocol.name}: no restart reached zero training errors; train longer or leave the protocol out"
            )
    entropies = _entropies(minima, folder, n_jobs, scheduler)
    return [
        Series(one.protocol.name, one.protocol.label, one, entropy, _energy(one, folder))
        for one, entropy in zip(minima, entropies, strict=True)
    ]


def _energy(minima: TrainedMinima, folder: Path) -> LocalEnergyProfile:
    path, weights = folder / f"{minima.protocol.name}-energy.npz", minima.weights.astype(np.float64)
    energy = stored(
        path,
        LocalEnergyProfile,
        weights,
        lambda: bpflat.local_energy(weights, *problem_of(minima.data), SIGMAS, method="exact"),
    )
    tidy([path])
    return energy


def _entropies(
    minima: Sequence[TrainedMinima], folder: Path, n_jobs: int, scheduler: str | None
) -> list[LocalEntropyCurve]:
    """Φ of every protocol, a few references a task."""
    paths = [folder / f"{one.protocol.name}-entropy.npz" for one in minima]
    tasks, parts = [], {}
    for one, path in zip(minima, paths, strict=True):
        solved = np.flatnonzero(one.train_error == 0)
        weights = one.weights[solved].astype(np.float64)
        if read(path, LocalEntropyCurve, weights) is not None:
            continue
        parts[path] = []
        for first in range(0, len(weights), REFERENCES):
            some = weights[first : first + REFERENCES]
            last = first + len(some) - 1
            parts[path].append(part_path(path, first, last))
            if read(parts[path][-1], LocalEntropyCurve, some) is None:
                restarts = one.restart[solved[[first, last]]]
                label = f"{one.protocol.name}, Φ of restarts {restarts[0]} to {restarts[1]}"
                tasks.append(Task(parts[path][-1], label, partial(_curves, some, one.data)))
    for _ in carry_out(tasks, n_jobs=n_jobs, scheduler=scheduler, bar="Φ by bp"):
        pass
    for path, its in parts.items():
        _joined([LocalEntropyCurve.load(part) for part in its]).save(path)
    tidy(paths)
    return [LocalEntropyCurve.load(path) for path in paths]


def _curves(weights: NDArray, data: dict) -> LocalEntropyCurve:
    return bpflat.local_entropy(weights, *problem_of(data), distances=DISTANCES)


def _joined(curves: Sequence[LocalEntropyCurve]) -> LocalEntropyCurve:
    """Curves of several sets of references as one."""
    arrays = {name: np.concatenate([getattr(c, name) for c in curves]) for name in vars(curves[0]) if name != "method"}
    return LocalEntropyCurve(method=curves[0].method, **arrays)


def problem_of(data: dict) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training patterns (P, N) and labels (P,) of stored minima, from their `data`."""
    drawn = bpflat.load_reduced_fashion_mnist(data["n_train"], seed=data["data_seed"], balanced=data["balanced"])
    return drawn.train_patterns, drawn.train_labels


def read(path: Path, kind: type, weights: NDArray):
    """Read the result of these weights at `path`; None where it is absent or of other weights."""
    if path.exists():
        result = kind.load(path)
        if np.array_equal(result.reference, [committee.fingerprint(w) for w in weights]):
            return result
    return None


def stored(path: Path, kind: type, weights: NDArray, compute: Callable):
    """Read the result of these weights at `path`; where it is absent or of other weights, compute and store it."""
    result = read(path, kind, weights)
    if result is None:
        result = compute()
        result.save(path)
    return result
