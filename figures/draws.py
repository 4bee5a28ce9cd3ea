"""Does flatter mean better?  The five protocols on several draws of the training patterns.

``python -m figures.draws`` draws from the results of ``python -m figures.conventions``: test errors and flatness of the
protocols as they are read by default, on natural and balanced draws of the patterns.  What differs between draws is
told from what differs between restarts.  Intervals are Student's t over draws, which are independent; restarts on one
draw are not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.draw.style import SERIES_LOOKS, add_letters
from figures.draw.tables import comparison_cells, interval_text, markdown
from figures.measure.statistics import mean_interval, rank_correlation, variance_components
from figures.measure.study import QUANTITIES, RESULTS, Draw, load, of, reading_of
from figures.program import Output, run_program
from training.committee.protocols import PROTOCOLS

# Each algorithm against the next sharper one, by the local entropies of Fig. 1.
NEIGHBOURS = (("sgd-slow", "sgd-fast"), ("rsgd-fast", "sgd-slow"), ("rsgd-slow", "rsgd-fast"), ("esgd", "rsgd-slow"))
SHOWN = ("test_error", "test_error_balanced", "phi_far", "delta_error")
PANELS = (("natural", "test_error"), ("balanced", "test_error_balanced"), ("natural", "phi_far"))

Values = Mapping[str, Mapping[str, NDArray[np.float64]]]  # (D, R) of every quantity in `SHOWN` and protocol


def values_of(draws: Sequence[Draw]) -> Values:
    """Quantities of the five protocols as they are read by default, in the units of `QUANTITIES`."""
    readings = {name: reading_of(protocol) for name, protocol in PROTOCOLS.items()}
    return {q: {name: of(draws, q, reading) for name, reading in readings.items()} for q in SHOWN}


def components_table(draws: Mapping[str, Values]) -> str:
    """Mean, deviation between draws and deviation between restarts of every quantity, in Markdown."""
    rows = [["patterns", "quantity", "algorithm", "mean ± s.e.", "between draws", "between restarts"]]
    for sampling, values in draws.items():
        for quantity, by_protocol in values.items():
            for name, array in by_protocol.items():
                parts = variance_components(array)
                numbers = f"{parts.mean:.3g} ± {parts.std_error:.2g}", f"{parts.between:.2g}", f"{parts.within:.2g}"
                cells = [number.replace("-", "−") for number in numbers]
                rows.append([sampling, QUANTITIES[quantity][0], PROTOCOLS[name].label, *cells])
    return markdown(rows)


def differences_table(draws: Mapping[str, Values]) -> str:
    """Each algorithm minus its sharper neighbour, paired over draws, in Markdown."""
    rows = [["patterns", "difference", "flatter by Φ(0.25) in", "by δE(0.5) in", "test error, %", "balanced, %"]]
    for sampling, values in draws.items():
        for second, first in NEIGHBOURS:
            pair = ({q: values[q][name] for q in SHOWN} for name in (second, first))
            difference = f"{PROTOCOLS[second].label} − {PROTOCOLS[first].label}"
            rows.append([sampling, difference, *comparison_cells(*pair, "+.2f")])
    return markdown(rows)


def ranking_table(draws: Mapping[str, Values]) -> str:
    """Spearman's correlation of Φ(0.25) and test error inside a draw, mean over draws, in Markdown."""
    rows = [["patterns", "minima of", "test error", "balanced test error"]]
    for sampling, values in draws.items():
        for label, names in (("all five", list(PROTOCOLS)), ("all but SGD fast", list(PROTOCOLS)[1:])):
            phi, *errors = (
                np.concatenate([values[q][name] for name in names], axis=1)
                for q in ("phi_far", "test_error", "test_error_balanced")
            )
            cells = []
            for error in errors:
                mean = mean_interval([rank_correlation(*pair) for pair in zip(phi, error, strict=True)])
                cells.append(interval_text(replace(mean, low=max(mean.low, -1.0), high=min(mean.high, 1.0)), "+.2f"))
            rows.append([sampling, label, *cells])
    return markdown(rows)


def report(draws: Mapping[str, Values], sizes: Mapping[str, int]) -> str:
    """All tables and how they are to be read, in Markdown."""
    n = len(draws["natural"]["phi_far"]["esgd"])
    return f"""{n} natural and {n} balanced draws of {sizes["n_train"]} patterns, {sizes["restarts"]} restarts each;
schedules of the paper.  Φ around a minimum with training errors counts the weights that make no more.

Differences to the next sharper algorithm, paired over draws, with 95 % intervals (Student's t over draws):

{differences_table(draws)}
Spearman's correlation between Φ(0.25) and test error inside a draw, mean over draws with the same interval, which
covers 90 to 95 % in simulations of ten draws (negative: flatter minima err less):

{ranking_table(draws)}
Standard deviations between draws and between restarts of a draw (one-way random-effects model); standard errors of
the means take draws as independent:

{components_table(draws)}"""


def draw(draws: Mapping[str, Values], sizes: Mapping[str, int]) -> Figure:
    """Test errors by draw for both samplings, and local entropies."""
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 2.9))
    for axes, (sampling, quantity) in zip(panels, PANELS, strict=True):
        means = np.stack([values.mean(axis=1) for values in draws[sampling][quantity].values()])
        axes.plot(means, color="0.8", linewidth=0.7, zorder=0)
        for place, name in enumerate(PROTOCOLS):
            color, marker, _ = SERIES_LOOKS[name]
            axes.plot(np.full(len(means[place]), place), means[place], marker, color=color, markersize=4, alpha=0.8)
            axes.plot([place - 0.25, place + 0.25], [means[place].mean()] * 2, color=color, linewidth=2)
        axes.set_ylabel(
            {
                "test_error": "test error (%)",
                "test_error_balanced": "balanced test error (%)",
                "phi_far": r"$\Phi_{\mathrm{LE}}(d = 0.25)$ ($10^{-5}$ nats/weight)",
            }[quantity]
        )
        axes.set_xticks(range(len(PROTOCOLS)), [p.label for p in PROTOCOLS.values()], rotation=35, ha="right")
        axes.set_title(f"{sampling} draws", fontsize=7)
    add_letters(panels)
    panels[2].set_yscale("symlog", linthresh=1)
    panels[2].set_ylim(None, 0.2)
    note = (
        f"A point: mean of {sizes['restarts']} restarts on one of {means.shape[1]} draws of {sizes['n_train']} "
        "patterns; lines join a draw's points."
    )
    figure.supxlabel(note, fontsize=6, color="0.35")
    return figure


def table(draws: Mapping[str, Values]) -> Iterator[tuple]:
    """Every number, after the names of the columns."""
    yield "patterns", "draw", "protocol", "restart", *SHOWN
    for sampling, values in draws.items():
        for name in PROTOCOLS:
            for (number, restart), _ in np.ndenumerate(values["phi_far"][name]):
                yield sampling, number, name, restart, *(f"{values[q][name][number, restart]:.9g}" for q in SHOWN)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the study and of the picture")


def make(arguments: argparse.Namespace) -> Output:
    """Read the study, and draw the five protocols."""
    study = load(arguments.results)
    values = {sampling: values_of(draws) for sampling, draws in study.items()}
    sizes = json.loads(study["natural"][0].configuration)
    return Output(arguments.results, table(values), draw(values, sizes), report(values, sizes))


if __name__ == "__main__":
    sys.exit(run_program("draws", __doc__, add_options, make))
