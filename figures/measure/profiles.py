"""Local energy profiles of deep networks, along the training or at its end: the data of Figs. 3, 4 and 5.

Read from saved runs of `training.deep` with ``--flatness-every``.  Errors and δE are in percent, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from figures.measure.deep_runs import grouped, load_runs, precision
from figures.measure.statistics import quantile
from training.deep.recipes import LABELS
from training.deep.results import DeepRun

NAMES = LABELS | {"baseline": "SGD"}
OF_CENTRE = ("train_error", "test_error", "train_loss")


@dataclass(frozen=True)
class Profiles:
    """Local energy of one algorithm along its training, averaged over seeds.

    Attributes
    ----------
    runs : tuple of DeepRun
        A run for each seed.
    epoch : ndarray of int, shape (E,)
    sigma : ndarray, shape (S,)
    delta_error : ndarray, shape (E, S)
        δE in percent.
    std_error : ndarray, shape (E, S)
        Its standard error: over seeds, or of one seed over draws of the noise.
    half_width : ndarray, shape (E, S)
        Half of its 95 % interval, by Student's t over the same.
    train_error, test_error, train_loss : ndarray, shape (E,)
        `OF_CENTRE`, of the unperturbed centre: means over seeds, errors in percent.
    """

    runs: tuple[DeepRun, ...]
    epoch: NDArray[np.int64]
    sigma: NDArray[np.float64]
    delta_error: NDArray[np.float64]
    std_error: NDArray[np.float64]
    half_width: NDArray[np.float64]
    train_error: NDArray[np.float64]
    test_error: NDArray[np.float64]
    train_loss: NDArray[np.float64]

    @classmethod
    def of(cls, runs: Sequence[DeepRun]) -> Profiles:
        """Averages over seeds at the epochs that all have, and over their ends, which with a stopping loss may differ.

        Raises
        ------
        ValueError
            When the runs differ in more than their seeds.
        """
        first = runs[0]
        for other in runs[1:]:
            _require_same([first, other], f"{other.row} {other.column}", _setting)
        epochs = [run.flatness.epoch for run in runs]
        shared = sorted(set.intersection(*(set(own[:-1].tolist()) for own in epochs)))
        places = [np.append(np.searchsorted(own, shared), len(own) - 1) for own in epochs]

        def at_shared(name: str) -> NDArray[np.float64]:
            return np.array([getattr(run.flatness, name)[at] for run, at in zip(runs, places, strict=True)])

        delta, over_draws = 100 * at_shared("delta_error"), 100 * at_shared("std_error")[0]
        error = delta.std(axis=0, ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else over_draws
        means = {name: at_shared(name).mean(axis=0) for name in OF_CENTRE}
        return cls(
            runs=tuple(runs),
            epoch=at_shared("epoch").mean(axis=0).round().astype(int),
            sigma=first.flatness.sigma,
            delta_error=delta.mean(axis=0),
            std_error=error,
            half_width=error * quantile(len(runs) if len(runs) > 1 else first.flatness.n_samples),
            train_error=100 * means["train_error"],
            test_error=100 * means["test_error"],
            train_loss=means["train_loss"],
        )

    @property
    def column(self) -> str:
        """The algorithm, as recipes call it."""
        return self.runs[0].column

    @property
    def name(self) -> str:
        """The algorithm, as the paper calls it."""
        return NAMES[self.column]


def conditions(run: DeepRun) -> dict:
    """What the algorithms of one network must share to be compared."""
    return {
        "network": run.configuration["recipe"]["model"],
        "images": run.n_train,
        "epochs_scale": run.epochs_scale,
        "augment": run.configuration.get("augment", True),
        "precision": precision(run),
        "stop_loss": run.configuration.get("stop_loss"),
    }


def _setting(run: DeepRun) -> dict:
    """What the seeds of one algorithm must share."""
    shared = {name: value for name, value in run.configuration.items() if name not in ("seed", "evaluate_every")}
    names = ("epoch", "sigma") if run.configuration.get("stop_loss") is None else ("sigma",)
    grid = {name: getattr(run.flatness, name).tolist() for name in names}
    return conditions(run) | shared | grid | {"draws": int(run.flatness.n_samples)}


def _require_same(runs: Sequence[DeepRun], what: str, of: Callable[[DeepRun], dict]) -> None:
    first, *others = map(of, runs)
    for other in others:
        different = [name for name in first.keys() | other.keys() if first.get(name) != other.get(name)]
        if different:
            raise ValueError(f"runs of {what} differ in {', '.join(sorted(different))}; keep them in different folders")


def load_profiles(
    folder: Path, wanted: Sequence[str] | None, preferred: Sequence[str] = ()
) -> dict[str, list[Profiles]]:
    """Profiles of every algorithm by network, from the runs in `folder` that have some.

    Parameters
    ----------
    folder : Path
    wanted : sequence of str, or None
        Rows of Table 1; by default those of `preferred` that are there, else all.
    preferred : sequence of str

    Raises
    ------
    ValueError
        When a wanted row has no profiles, a file is damaged, or runs cannot be averaged or compared.
    """
    groups = grouped((run for run in load_runs(folder) if run.flatness is not None), lambda run: run.row)
    wanted = wanted or [row for row in preferred if row in groups] or list(groups)
    missing = [row for row in wanted if row not in groups]
    if missing or not wanted:
        there = (
            f"it has {', '.join(groups)}"
            if groups
            else "python -m training.deep ROW --flatness-every EPOCHS makes them"
        )
        raise ValueError(f"no saved runs of {', '.join(missing) or 'any row'} with profiles in {folder}; {there}")
    by_network = {
        row: [Profiles.of(seeds) for seeds in grouped(groups[row], lambda run: run.column).values()] for row in wanted
    }
    for row, profiles in by_network.items():
        _require_same([algorithm.runs[0] for algorithm in profiles], row, conditions)
    return by_network
