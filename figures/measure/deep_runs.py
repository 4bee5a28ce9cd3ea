"""Saved runs of deep networks, and the cells of Table 1 that they make."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from training.deep.recipes import COLUMNS, RECIPES
from training.deep.results import DeepRun

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Cell:
    """Runs of one recipe at one scale.

    Attributes
    ----------
    row, column : str
        Data and network, and algorithm, as recipes call them.
    model : str
    scale : float
        Share of the recipe's epochs.
    n_train : int
        Images trained on.
    errors : ndarray of float, shape (seeds,)
        Test errors of the centre, in percent.
    epochs : int
    passes : float
        Passes over the data of one run, all replicas and inner steps together.
    augmented : bool
    gamma_scale : float
        Factor of the recipe's γ.
    """

    row: str
    column: str
    model: str
    scale: float
    n_train: int
    errors: np.ndarray
    epochs: int
    passes: float
    augmented: bool = True
    gamma_scale: float = 1.0

    @property
    def mean(self) -> float:
        """Mean test error (%)."""
        return float(self.errors.mean())

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds (%), None for one seed."""
        return float(self.errors.std(ddof=1)) if len(self.errors) > 1 else None

    @property
    def setting(self) -> tuple[str, str, int, float, bool]:
        """What cells must share to be compared: row, network, images, scale and augmentation."""
        return self.row, self.model, self.n_train, self.scale, self.augmented


def load_runs(folder: Path, pattern: str = "*-seed*.npz") -> list[DeepRun]:
    """Read every saved run of `folder`, in the order of the table; raises as `DeepRun.load`."""
    runs = [DeepRun.load(path) for path in sorted(folder.glob(pattern))]
    place = [(row, column) for row in RECIPES for column in COLUMNS]
    return sorted(runs, key=lambda run: (place.index((run.row, run.column)), run.seed))


def grouped(runs: Iterable[DeepRun], key: Callable[[DeepRun], Key]) -> dict[Key, list[DeepRun]]:
    """Runs by what `key` says of them, in the order in which they come."""
    groups: dict[Key, list[DeepRun]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def cells(runs: Iterable[DeepRun]) -> list[Cell]:
    """Gather runs that differ in the seed alone."""
    return [
        Cell(
            row=row,
            column=column,
            model=model,
            scale=scale,
            n_train=n_train,
            errors=100 * np.array([run.test_error for run in members]),
            epochs=members[0].epochs,
            passes=members[0].curve("passes")[-1],
            augmented=augmented,
            gamma_scale=gamma_scale,
        )
        for (row, column, model, n_train, scale, augmented, gamma_scale), members in grouped(
            runs, _what_was_run
        ).items()
    ]


def _what_was_run(run: DeepRun) -> tuple[str, str, str, int, float, bool, float]:
    """Row, column, network, images, scale, augmentation and factor of γ."""
    model = run.configuration["recipe"]["model"]
    changed = run.configuration.get("augment", True), run.configuration.get("gamma_scale", 1.0)
    return run.row, run.column, model, run.n_train, run.epochs_scale, *changed
