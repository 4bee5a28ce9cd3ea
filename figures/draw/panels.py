"""The three panels of Fig. 1 and its kin: local entropy, local energy and test error of several series of minima."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.draw.style import SERIES_LOOKS, add_letters
from figures.measure.binary import BinarySeries
from figures.measure.measures import Series

AnySeries = Series | BinarySeries
SPREAD = (0.16, 0.84)  # quantiles over restarts: unlike mean ± deviation, they never leave Φ ≤ 0 and δE ≥ 0


def draw(
    series: Sequence[AnySeries],
    note: str,
    *,
    distance: str = "squared distance",
    noise: str = r"noise amplitude $\sigma$",
) -> Figure:
    """Means and spreads over restarts of every series.

    Parameters
    ----------
    series : sequence of Series or BinarySeries
    note : str
        What was run, in small print under the panels.
    distance, noise : str
        What the local entropy and the local energy are drawn against.
    """
    figure, (entropy, energy, test) = plt.subplots(1, 3, figsize=(7.0, 2.9))
    for measured in series:
        _band(entropy, measured.entropy.distance, measured.entropy.phi, measured)
        _band(energy, measured.noise, measured.energy.delta_error, measured)
    entropy.set(xlabel=f"{distance} $d$", ylabel=r"local entropy $\Phi_{\mathrm{LE}}$ (nats/weight)", xlim=(0, None))
    # Φ spans five decades: linear between 0 and -1e-6, logarithmic below.
    entropy.set_yscale("symlog", linthresh=1e-6, linscale=0.5)
    entropy.set_yticks([0, *(-(10.0**n) for n in range(-6, -1))])
    entropy.set_ylim(None, 2e-7)
    energy.set(
        xlabel=noise,
        ylabel=r"local energy $\delta E_{\mathrm{train}}$",
        xlim=(0, None),
        ylim=(0, None),
    )
    energy.legend(loc="upper left", handlelength=3)
    _boxes(test, series)
    add_letters((entropy, energy, test))
    lines = [line for text in (note, *_tolerated(series)) for line in textwrap.wrap(text, width=140)]
    figure.supxlabel("\n".join(lines), fontsize=6, color="0.35")
    return figure


def _tolerated(series: Sequence[AnySeries]) -> Iterator[str]:
    """How many restarts make training errors, and what their local entropy counts, if there are any."""
    with_errors = {measured.label: np.count_nonzero(measured.minima.train_error) for measured in series}
    parts = [f"{label}: {n}" for label, n in with_errors.items() if n]
    if parts:
        yield f"Restarts with training errors — {', '.join(parts)}; their local entropy allows as many."


def _band(axes, x: NDArray, values: NDArray, measured: AnySeries) -> None:
    """Mean over restarts with a band of their central 68 %; x is shared, or has a row for each restart."""
    color, marker, linestyle = SERIES_LOOKS[measured.name]
    x = x if x.ndim == 1 else np.nanmean(x, axis=0)
    low, high = np.nanquantile(values, SPREAD, axis=0)
    axes.plot(
        x,
        np.nanmean(values, axis=0),
        color=color,
        marker=marker,
        linestyle=linestyle,
        markevery=2,
        label=measured.label,
    )
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _boxes(axes, series: Sequence[AnySeries]) -> None:
    """Test errors: a box for each series, a point for each restart."""
    rng = np.random.default_rng(0)
    for place, measured in enumerate(series):
        color, marker, _ = SERIES_LOOKS[measured.name]
        percent = 100 * measured.minima.test_error
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
    axes.set_xticks(range(len(series)), [measured.label for measured in series], rotation=35, ha="right")
    axes.set_ylabel("test error (%)")


def table(series: Sequence[AnySeries]) -> Iterator[tuple]:
    """Every plotted number, after the names of the columns."""
    yield "panel", "series", "quantity", "restart", "x", "value"
    for measured in series:
        curves = [
            ("local entropy", np.nanmean(measured.entropy.distance, axis=0), measured.entropy.phi),
            ("local energy", measured.noise, measured.energy.delta_error),
        ]
        for panel, x, values in curves:
            for at, column in zip(x, values.T, strict=True):
                yield panel, measured.name, "mean", "", f"{at:.6g}", f"{np.nanmean(column):.9g}"
                for share, value in zip(SPREAD, np.nanquantile(column, SPREAD), strict=True):
                    yield panel, measured.name, f"{share:.0%} quantile", "", f"{at:.6g}", f"{value:.9g}"
                yield panel, measured.name, "restarts", "", f"{at:.6g}", np.count_nonzero(~np.isnan(column))
        for what in ("test_error", "test_error_balanced"):
            for restart, value in zip(measured.minima.restart, getattr(measured.minima, what), strict=True):
                yield "test error", measured.name, what, restart, "", f"{value:.9g}"
