"""What Figs. 3, 4 and 5 share: local energy profiles of deep networks, along the training or at its end.

Drawn are saved runs of `training.deep` with ``--flatness-every``.  Errors and δE are in percent here, as in the paper.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from figures.draw.panels import save_figure, save_table
from figures.fig2 import COLUMN_LOOKS
from figures.table1 import load_runs
from training.deep_results import DeepRun
from training.recipes import LABELS

NAMES = LABELS | {"baseline": "SGD"}
LEGEND_LINES = 8
"""Most epochs that the legend of a panel names; all are drawn."""
EQUAL = 1.0
"""Percent of training errors by which minima may differ before a comparison is called into question."""


@dataclass(frozen=True)
class Profiles:
    """Local energy of one algorithm along its training, averaged over seeds.

    Attributes
    ----------
    runs : tuple of DeepRun
        One a seed.
    epoch : ndarray of int, shape (E,)
    sigma : ndarray, shape (S,)
    delta_error : ndarray, shape (E, S)
        δE in percent.
    std_error : ndarray, shape (E, S)
        Its standard error: over seeds, or of one seed over draws of the noise.
    train_error, test_error, train_loss : ndarray, shape (E,)
        Of the unperturbed centre, means over seeds; errors in percent.
    """

    runs: tuple[DeepRun, ...]
    epoch: NDArray[np.int64]
    sigma: NDArray[np.float64]
    delta_error: NDArray[np.float64]
    std_error: NDArray[np.float64]
    train_error: NDArray[np.float64]
    test_error: NDArray[np.float64]
    train_loss: NDArray[np.float64]

    @classmethod
    def of(cls, runs: Sequence[DeepRun]) -> Profiles:
        """Average over seeds.

        Raises
        ------
        ValueError
            When the runs differ in more than their seeds.
        """
        first = runs[0]
        for one in runs[1:]:
            _require_same([first, one], f"{one.row} {one.column}", _setting)
        delta = 100 * np.array([one.flatness.delta_error for one in runs])
        over_draws = 100 * first.flatness.std_error
        error = delta.std(axis=0, ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else over_draws
        means = {name: np.mean([getattr(one.flatness, name) for one in runs], axis=0) for name in _OF_CENTRE}
        return cls(
            runs=tuple(runs),
            epoch=first.flatness.epoch,
            sigma=first.flatness.sigma,
            delta_error=delta.mean(axis=0),
            std_error=error,
            train_error=100 * means["train_error"],
            test_error=100 * means["test_error"],
            train_loss=means["train_loss"],
        )

    @property
    def column(self) -> str:
        """Of Table 1."""
        return self.runs[0].column

    @property
    def name(self) -> str:
        """Of the algorithm, as the paper calls it."""
        return NAMES[self.column]

    def errors(self, e: int) -> str:
        """Train and test error (%) at the e-th stored epoch."""
        return f"{self.train_error[e]:.2f} / {self.test_error[e]:.2f}"


_OF_CENTRE = ("train_error", "test_error", "train_loss")


def _setting(run: DeepRun) -> dict:
    """What seeds of one algorithm must share."""
    shared = {name: value for name, value in run.configuration.items() if name not in ("seed", "evaluate_every")}
    grid = {name: getattr(run.flatness, name).tolist() for name in ("epoch", "sigma")}
    return _conditions(run) | shared | grid | {"draws": int(run.flatness.n_samples)}


def _conditions(run: DeepRun) -> dict:
    """What the algorithms of one row must share to be compared."""
    return {
        "network": run.configuration["recipe"]["model"],
        "images": run.n_train,
        "epochs_scale": run.epochs_scale,
        "augment": run.configuration.get("augment", True),
    }


def _require_same(runs: Sequence[DeepRun], what: str, of: Callable[[DeepRun], dict]) -> None:
    first, *others = map(of, runs)
    for other in others:
        different = [name for name in first.keys() | other.keys() if first.get(name) != other.get(name)]
        if different:
            raise ValueError(f"runs of {what} differ in {', '.join(sorted(different))}; keep them in different folders")


def load_profiles(
    folder: Path, wanted: Sequence[str] | None, preferred: Sequence[str] = ()
) -> dict[str, list[Profiles]]:
    """Profiles of every algorithm by row of Table 1, from the runs in `folder` that have some.

    Parameters
    ----------
    folder : Path
    wanted : sequence of str, or None
        Rows; by default those of `preferred` that are there, else all.

    Raises
    ------
    ValueError
        When a wanted row has no profiles, a file is damaged, or runs cannot be averaged or compared.
    """
    groups: dict[str, dict[str, list[DeepRun]]] = {}
    for one in load_runs(folder):
        if one.flatness is not None:
            groups.setdefault(one.row, {}).setdefault(one.column, []).append(one)
    wanted = wanted or [row for row in preferred if row in groups] or list(groups)
    missing = [row for row in wanted if row not in groups]
    if missing or not wanted:
        there = (
            f"it has {', '.join(groups)}"
            if groups
            else "python -m training.deep ROW --flatness-every EPOCHS makes them"
        )
        raise ValueError(f"no saved runs of {', '.join(missing) or 'any row'} with profiles in {folder}; {there}")
    rows = {row: [Profiles.of(runs) for runs in groups[row].values()] for row in wanted}
    for row, found in rows.items():
        _require_same([one.runs[0] for one in found], row, _conditions)
    return rows


def draw_evolution(axes: Axes, profiles: Profiles) -> None:
    """One algorithm: a line for each stored epoch, from light to dark, in a band of two standard errors."""
    last = len(profiles.epoch) - 1
    named = set(np.linspace(0, last, min(last + 1, LEGEND_LINES)).round().astype(int))
    for e, epoch in enumerate(profiles.epoch):
        shade = plt.get_cmap("viridis_r")(0.1 + 0.9 * (e / last if last else 1.0))
        label = f"{epoch}: {profiles.errors(e)}" if e in named else None
        sigma, delta = _from_zero(profiles.sigma, profiles.delta_error[e])
        _, error = _from_zero(profiles.sigma, profiles.std_error[e])
        axes.plot(sigma, delta, color=shade, label=label)
        axes.fill_between(sigma, delta - 2 * error, delta + 2 * error, color=shade, alpha=0.2, linewidth=0)
    axes.set_title(profiles.name)
    _finish(axes, "epoch: train / test error (%)")


def draw_final(axes: Axes, found: Sequence[Profiles], title: str) -> None:
    """The last configurations of all algorithms, with two standard errors."""
    for profiles in found:
        look = COLUMN_LOOKS[profiles.column]
        sigma, delta = _from_zero(profiles.sigma, profiles.delta_error[-1])
        _, error = _from_zero(profiles.sigma, profiles.std_error[-1])
        axes.errorbar(
            sigma, delta, 2 * error, **look._asdict(), capsize=2, label=f"{profiles.name}: {profiles.errors(-1)}"
        )
    axes.set_title(title)
    _finish(axes, "train / test error (%)")


def _from_zero(sigma: NDArray, values: NDArray) -> tuple[NDArray, NDArray]:
    """Begin at σ = 0, where δE = 0 without error."""
    return np.concatenate([[0], sigma]), np.concatenate([[0], values])


def _finish(axes: Axes, legend: str) -> None:
    axes.set(xlabel=r"noise amplitude $\sigma$", xlim=(0, None), ylabel=r"$\delta E_{\mathrm{train}}$ (%)")
    axes.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    below = axes.transAxes + ScaledTranslation(0, -0.36, axes.figure.dpi_scale_trans)  # inches: under the axis' label
    axes.legend(title=legend, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, handlelength=3)


def write_note(figure: Figure, rows: dict[str, list[Profiles]]) -> None:
    """Say in small print under the panels what was run, and make room for it."""
    width = round(20 * figure.get_figwidth())  # characters
    lines = [line for text in note(rows) for line in textwrap.wrap(text, width)]
    figure.set_figheight(figure.get_figheight() + 0.11 * len(lines))
    figure.supxlabel("\n".join(lines), fontsize=6, color="0.35")


def note(rows: dict[str, list[Profiles]]) -> Iterator[str]:
    """What the picture rests on, and whether it compares what can be compared."""
    for row, found in rows.items():
        yield f"{row}: {_what_was_run(found)}"
    has_one = [len(one.runs) == 1 for found in rows.values() for one in found]
    over_seeds = "two standard errors over seeds, which hold those over draws of the noise"
    over_draws = "over draws of the noise alone, not over seeds"
    bars = f"{over_seeds}; of single seeds, {over_draws}" if any(has_one) else over_seeds
    if all(has_one):
        bars = f"two standard errors {over_draws}"
    yield (
        f"Bars and bands: {bars}. Errors in the legends: of the unperturbed centre, on images that are not augmented. "
        "Flatness tells of the test error at equal training errors only (B.2)."
    )
    for row, found in rows.items():
        last = [one.train_error[-1] for one in found]
        if max(last) - min(last) > EQUAL:
            shown = ", ".join(f"{one.name} {error:.2f} %" for one, error in zip(found, last, strict=True))
            yield f"NOT COMPARABLE: the final training errors of {row} differ by more than {EQUAL:g} % ({shown})."


def _what_was_run(found: Sequence[Profiles]) -> str:
    run = found[0].runs[0]
    conditions = _conditions(run)
    augmented = "augmented, also where δE is measured" if conditions["augment"] else "not augmented"
    lengths, measured = [], []
    for one in found:
        gamma = one.runs[0].configuration.get("gamma_scale", 1.0)
        subset = one.runs[0].configuration.get("flatness", {}).get("subset")
        strength = f", γ × {gamma:g}" if gamma != 1 else ""
        lengths.append(f"{one.name}: {one.epoch[-1]} epochs, {_count(len(one.runs), 'seed')}{strength}")
        draws = _count(one.runs[0].flatness.n_samples, "draw")
        measured.append(f"{draws} of the noise at each σ" + (f", each on {subset:,} images" if subset else ""))
    if len(set(measured)) > 1:
        measured = [f"{one.name}: {how}" for one, how in zip(found, measured, strict=True)]
    return (
        f"{conditions['network']} on {conditions['images']:,} training images, {augmented}, "
        f"{conditions['epochs_scale']:.3g} times the recipe's epochs ({'; '.join(lengths)}); "
        f"δE from {'; '.join(dict.fromkeys(measured))}."
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def table(rows: dict[str, list[Profiles]], *, final: bool) -> Iterator[tuple]:
    """Rows of every plotted number; of the last epochs alone if `final`."""
    yield (
        *("row", "column", "seeds", "epoch", "sigma", "delta_error (%)", "standard error (%)"),
        *("train error (%)", "test error (%)", "train loss", "draws"),
    )
    for row, found in rows.items():
        for one in found:
            for e in range(len(one.epoch))[-1 if final else 0 :]:
                for s, sigma in enumerate(one.sigma):
                    values = one.delta_error[e, s], one.std_error[e, s], *(getattr(one, n)[e] for n in _OF_CENTRE)
                    numbers = (f"{value:.6g}" for value in (sigma, *values))
                    seeds, draws = len(one.runs), one.runs[0].flatness.n_samples
                    yield row, one.column, seeds, one.epoch[e], *numbers, draws


def save_all(figure: Figure, rows: dict[str, list[Profiles]], folder: Path, name: str, *, final: bool) -> None:
    """Write NAME.pdf, .png and .csv beside the runs, and print where."""
    write_note(figure, rows)
    paths = [*save_figure(figure, folder, name), save_table(table(rows, final=final), folder, name)]
    plt.close(figure)
    print("picture and numbers:", *paths, sep="\n  ")
