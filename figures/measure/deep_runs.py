"""Saved runs of deep networks, the cells of Table 1 that they make, and how these compare."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from figures.measure.statistics import Interval, Sample, difference
from training.deep.images import SOURCES
from training.deep.recipes import COLUMNS, LABELS, RECIPES, Recipe, as_plain, find_recipe
from training.deep.results import DeepRun

Key = TypeVar("Key", bound=Hashable)
_NOT_OF_THE_TRAINING = ("seed", "evaluate_every", "flatness")
_READINGS = ("gamma_convention", "loss_convention")  # of what the paper leaves open
_SHARED = ("augment", "policy", "bfloat16", "stop_loss")  # options that cells must share to be compared


@dataclass(frozen=True)
class Cell:
    """Runs that differ in the seed alone, of one row and column of Table 1."""

    runs: tuple[DeepRun, ...]

    @property
    def row(self) -> str:
        """Data and network, as recipes call them."""
        return self.runs[0].row

    @property
    def column(self) -> str:
        """Algorithm, as recipes call it."""
        return self.runs[0].column

    @property
    def test_error(self) -> Sample:
        """Test errors of the centre, in percent, over seeds."""
        return Sample.of([100 * run.test_error for run in self.runs])

    @property
    def scale(self) -> float:
        """Share of the recipe's epochs."""
        return self.runs[0].epochs_scale

    @property
    def n_train(self) -> int:
        """Images trained on."""
        return self.runs[0].n_train

    @property
    def epochs(self) -> str:
        """Epochs, as the recipe counts them; the fewest and the most where seeds ended at a loss."""
        return _span([run.epochs for run in self.runs])

    @property
    def passes(self) -> str:
        """Passes over the data, of all replicas and inner steps together."""
        return _span([round(run.curve("passes").max(initial=0)) for run in self.runs])

    @property
    def precision(self) -> str:
        """Number format of the forward passes."""
        return precision(self.runs[0])

    @property
    def hours(self) -> tuple[float, bool]:
        """Mean wall time of a run, and whether it is whole: older runs know that of their minibatches alone."""
        seconds = [run.wall_time for run in self.runs]
        whole = bool(np.isfinite(seconds).all())
        return float(np.mean(seconds if whole else [run.training_time for run in self.runs])) / 3600, whole

    @property
    def revisions(self) -> str:
        """Abbreviated commits of the code."""
        parts = (run.provenance.git_revision.partition("-") for run in self.runs)
        return ", ".join(dict.fromkeys(f"{commit[:8]}{dash}{rest}" for commit, dash, rest in parts))

    @property
    def departures(self) -> list[str]:
        """What differs from the recipe of Table 1, in words, beside its scale, images and precision."""
        return self._departures_from(find_recipe(self.row, self.column))

    def _departures_from(self, recipe: Recipe) -> list[str]:
        configuration = self.runs[0].configuration
        stored, published = (json.loads(json.dumps(one)) for one in (configuration["recipe"], as_plain(recipe)))
        names = [name for name in {**published, **stored} if stored.get(name) != published.get(name)]
        words = [f"{name} {stored[name]}" for name in names if name in stored]
        words += ["older recipe"] * any(name not in stored for name in names)
        factor, loss = configuration.get("gamma_scale", 1.0), configuration.get("stop_loss")
        words += [f"γ × {factor:.3g}"] * (factor != 1)
        words += ["not augmented"] * (not configuration.get("augment", True))
        words += ["other sub-policies"] * bool(configuration.get("policy"))
        words += [] if loss is None else [f"until the loss is {loss:g}"]
        return words

    @property
    def label(self) -> str:
        """Algorithm and departures."""
        words = "; ".join(self.departures)
        return LABELS[self.column] + (f" ({words})" if words else "")

    @property
    def setting(self) -> Hashable:
        """What cells must share to be compared."""
        configuration = self.runs[0].configuration
        options = json.dumps([configuration.get(name) for name in _SHARED])
        return self.row, configuration["recipe"]["model"], self.n_train, self.scale, options

    @property
    def is_the_papers(self) -> bool:
        """Whether it was run as the paper can be read, so that its number can be set beside the printed one."""
        recipe, stored = find_recipe(self.row, self.column), self.runs[0].configuration["recipe"]
        read = replace(recipe, **{name: stored[name] for name in _READINGS if name in stored})
        return self.n_train == SOURCES[recipe.data].n_train and self.scale == 1 and not self._departures_from(read)


@dataclass(frozen=True)
class Comparison:
    """Difference of the test errors of two cells, or of a cell and the paper's, in percentage points.

    Attributes
    ----------
    of : Cell
    first, second : str
        What is subtracted from what.
    n : tuple of int
        Runs of both.
    interval : Interval
        Of the mean of the first minus that of the second, see `figures.measure.statistics.difference`.
    """

    of: Cell
    first: str
    second: str
    n: tuple[int, int]
    interval: Interval


def compare(measured: Sequence[Cell], published: dict[str, dict[str, Sample]]) -> Iterator[Comparison]:
    """All algorithms with each other at the same setting, then each that was run as the paper says with its number."""
    for earlier, later in itertools.combinations(measured, 2):
        if later.setting == earlier.setting and later.column != earlier.column:
            samples = later.test_error, earlier.test_error
            yield Comparison(later, later.label, earlier.label, tuple(s.n for s in samples), difference(*samples))
    for cell in measured:
        if cell.is_the_papers:
            samples = cell.test_error, published[cell.row][cell.column]
            yield Comparison(cell, cell.label, "the paper's", tuple(s.n for s in samples), difference(*samples))


def precision(run: DeepRun) -> str:
    """Number format of the forward passes of the training."""
    return "bfloat16" if run.configuration.get("bfloat16") else "float32"


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
    return [Cell(tuple(members)) for members in grouped(runs, what_was_run).values()]


def what_was_run(run: DeepRun) -> Hashable:
    """Everything that decides the result, but for the seed."""
    kept = {name: value for name, value in run.configuration.items() if name not in _NOT_OF_THE_TRAINING}
    return run.row, run.column, run.n_train, run.epochs_scale, json.dumps(kept, sort_keys=True)


def _span(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)}–{max(values)}"
