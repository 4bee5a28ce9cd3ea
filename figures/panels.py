"""The three panels of Figs. 1 and 6: local entropy, local energy and test error of several series of minima."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bpflat.storage import atomic_write
from figures.measures import Series
from figures.style import Look

SPREAD = (0.16, 0.84)  # quantiles over restarts: unlike mean ± deviation, they never leave Φ ≤ 0 and δE ≥ 0


def draw(series: Sequence[Series], looks: dict[str, Look], note: str) -> Figure:
    """Draw mean and spread over restarts of every series.

    Parameters
    ----------
    series : sequence of Series
    looks : dict
        By the names of the series.
    note : str
        What was run, in small print under the panels.
    """
    figure, (entropy, energy, test) = plt.subplots(1, 3, figsize=(7.0, 2.9))
    for one in series:
        _band(entropy, one.entropy.distance, one.entropy.phi, one, looks)
        _band(energy, one.energy.sigma, one.energy.delta_error, one, looks)
    entropy.set(
        xlabel=r"squared distance $d$", ylabel=r"local entropy $\Phi_{\mathrm{LE}}$ (nats/weight)", xlim=(0, None)
    )
    # Φ spans five decades: linear between 0 and -1e-6, logarithmic below.
    entropy.set_yscale("symlog", linthresh=1e-6, linscale=0.5)
    entropy.set_yticks([0, *(-(10.0**n) for n in range(-6, -1))])
    entropy.set_ylim(None, 2e-7)
    energy.set(
        xlabel=r"noise amplitude $\sigma$",
        ylabel=r"local energy $\delta E_{\mathrm{train}}$",
        xlim=(0, None),
        ylim=(0, None),
    )
    energy.legend(loc="upper left", handlelength=3)
    _boxes(test, series, looks)
    for axes, letter in zip((entropy, energy, test), "abc", strict=True):
        axes.set_title(letter, loc="left", fontweight="bold")
    lines = [line for text in (note, *_tolerated(series)) for line in textwrap.wrap(text, width=140)]
    figure.supxlabel("\n".join(lines), fontsize=6, color="0.35")
    return figure


def _tolerated(series: Sequence[Series]) -> Iterator[str]:
    """Say how many restarts make training errors, and what their local entropy counts."""
    with_errors = {one.label: np.count_nonzero(one.minima.train_error) for one in series}
    parts = [f"{label} {n}" for label, n in with_errors.items() if n]
    if parts:
        yield f"Restarts with training errors: {', '.join(parts)}; their local entropy allows as many."


def _band(axes, x: NDArray, values: NDArray, one: Series, looks: dict[str, Look]) -> None:
    """Mean over restarts with a band of their central 68 %; x is shared or one row a restart."""
    color, marker, linestyle = looks[one.name]
    x = x if x.ndim == 1 else np.nanmean(x, axis=0)
    low, high = np.nanquantile(values, SPREAD, axis=0)
    axes.plot(
        x, np.nanmean(values, axis=0), color=color, marker=marker, linestyle=linestyle, markevery=2, label=one.label
    )
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _boxes(axes, series: Sequence[Series], looks: dict[str, Look]) -> None:
    """Test errors: a box for each series, a point for each restart."""
    rng = np.random.default_rng(0)
    for place, one in enumerate(series):
        color, marker, _ = looks[one.name]
        percent = 100 * one.minima.test_error
        axes.boxplot(
            percent,
            positions=[place],
            widths=0.6,
            showfliers=False,
            boxprops={"color": color},
            whiskerprops={"color": color},
            capprops={"color": color},
            medianprops={"color": color, "linewidth": 1.5},
        )
        jitter = rng.uniform(-0.15, 0.15, len(percent))
        axes.plot(place + jitter, percent, marker, color=color, alpha=0.6, markersize=3, markeredgewidth=0)
    axes.set_xticks(range(len(series)), [one.label for one in series], rotation=35, ha="right")
    axes.set_ylabel("test error (%)")


def table(series: Sequence[Series]) -> Iterator[tuple]:
    """Rows of every plotted number: panel, series, what, restart, x, value."""
    yield "panel", "series", "quantity", "restart", "x", "value"
    for one in series:
        curves = [
            ("local entropy", np.nanmean(one.entropy.distance, axis=0), one.entropy.phi),
            ("local energy", one.energy.sigma, one.energy.delta_error),
        ]
        for panel, x, values in curves:
            for at, column in zip(x, values.T, strict=True):
                yield panel, one.name, "mean", "", f"{at:.6g}", f"{np.nanmean(column):.9g}"
                for share, value in zip(SPREAD, np.nanquantile(column, SPREAD), strict=True):
                    yield panel, one.name, f"{share:.0%} quantile", "", f"{at:.6g}", f"{value:.9g}"
                yield panel, one.name, "restarts", "", f"{at:.6g}", np.count_nonzero(~np.isnan(column))
        for what in ("test_error", "test_error_balanced"):
            for restart, value in zip(one.minima.restart, getattr(one.minima, what), strict=True):
                yield "test error", one.name, what, restart, "", f"{value:.9g}"


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.pdf and NAME.png to `folder`, each whole or not at all; returns their paths."""
    paths = []
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", None)):
        paths.append(folder / (name + suffix))
        with atomic_write(paths[-1]) as file:
            figure.savefig(file, format=suffix[1:], metadata=metadata)
    return paths


def save_table(rows: Iterable[tuple], folder: Path, name: str) -> Path:
    """Write NAME.csv to `folder`, whole or not at all; returns its path."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return save_text(text.getvalue(), folder / f"{name}.csv")


def save_text(text: str, path: Path) -> Path:
    """Write `text` to `path`, whole or not at all; returns the path."""
    with atomic_write(path) as file:
        file.write(text.encode())
    return path
