"""Does flatter mean better?  The five protocols on several draws of the training patterns.

``python -m figures.draws`` trains two restarts of each protocol of Fig. 1's quick preset on seven natural and
seven balanced draws of 500 patterns, measures them, and separates what differs between draws from what differs between
restarts.  What is there already is not computed again.  Intervals are Student's t over draws, which are independent;
restarts on one draw are not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bpflat.storage import load_result, save_result
from figures.draw.files import save_figure, save_table, save_text
from figures.draw.style import LOOKS, use_style
from figures.draw.tables import markdown
from figures.fig1 import FIG1
from figures.measure.experiment import N_TRAIN, Preset, on_each_draw
from figures.measure.measures import measure
from figures.measure.statistics import Interval, mean_interval, paired_difference, rank_correlation, variance_components
from figures.measure.summary import Minima, scalars
from figures.program import add_size_options, sizes_from
from training.checkpoints import require_same
from training.committee import run
from training.protocols import PROTOCOLS, Protocol, current_fields
from training.results import git_revision
from training.workers import SweepError

RESULTS = Path(__file__).with_name("results") / "draws"
PRESET = replace(FIG1.presets["quick"], restarts=2)
# Each algorithm against the next sharper one, by the local entropies of Fig. 1.
NEIGHBOURS = (("sgd-slow", "sgd-fast"), ("rsgd-fast", "sgd-slow"), ("rsgd-slow", "rsgd-fast"), ("esgd", "rsgd-slow"))
QUANTITIES = {
    "test_error": ("test error", "%", 100),
    "test_error_balanced": ("balanced test error", "%", 100),
    "phi_far": ("Φ(0.25)", "10⁻⁵", 1e5),
    "delta_error": ("δE(0.5)", "%", 100),
}


@dataclass(frozen=True)
class Draw(Minima):
    """Measures of the minima of one draw, and where they are from.

    Attributes
    ----------
    configuration : str
        JSON of the draw, its number of patterns, the resolved protocols and the restarts.
    git_revision : str
        Of the checkout that measured them.
    """

    configuration: str
    git_revision: str


@dataclass(frozen=True)
class Draws:
    """Measures of all minima of one sampling of the patterns, arrays of shape (D, protocols, R).

    Attributes
    ----------
    test_error, test_error_balanced, phi_far, delta_error : ndarray of float
        As in `figures.measure.summary.Minima`; Φ is NaN where a minimum makes training errors.
    """

    test_error: NDArray[np.float64]
    test_error_balanced: NDArray[np.float64]
    phi_far: NDArray[np.float64]
    delta_error: NDArray[np.float64]

    def of(self, name: str, protocol: str) -> NDArray[np.float64]:
        """One quantity of one protocol, shape (D, R), in the units of `QUANTITIES`."""
        return QUANTITIES[name][2] * getattr(self, name)[:, list(PROTOCOLS).index(protocol)]


def collect(results: Path, runs: Path, n_draws: int, *, preset: Preset = PRESET, n_jobs: int = -1) -> dict[str, Draws]:
    """Train and measure the draws that `results` does not hold yet; returns all, by sampling.

    Parameters
    ----------
    results : Path
        Of the measures, one small file a draw.
    runs : Path
        Of the trained minima and their curves.
    n_draws : int
        Of each sampling.
    preset : Preset
        Restarts, patterns and schedules.
    n_jobs : int
        Processes, one draw each.

    Raises
    ------
    ValueError
        When a stored file is of another configuration or damaged.
    SweepError
        When a training fails.
    OSError
        When a folder cannot be written.
    """
    draws = on_each_draw(partial(_one_draw, results, runs, preset), n_draws, n_jobs)
    return {sampling: _stack(its) for sampling, its in draws.items()}


def _one_draw(results: Path, runs: Path, preset: Preset, sampling: str, draw: int) -> Draw:
    """Measures of all minima of one draw, read where they are stored."""
    path = results / f"{sampling}-{draw}.npz"
    protocols = preset.apply(FIG1.protocols)
    options = {
        "restarts": preset.restarts,
        "n_train": preset.n_train,
        "data_seed": draw,
        "balanced": sampling == "balanced",
    }
    configuration = options | {"protocols": {p.name: asdict(p) for p in protocols}}
    if path.exists():
        found = load_result(path, "draw", Draw)
        require_same(path, _configuration_of(found), configuration)
        return found
    folder = runs / f"{sampling}-{draw}"
    series = measure([run(p, folder, threads=1, **options) for p in protocols], folder, n_jobs=1)
    found = Draw(**vars(scalars(series)), configuration=json.dumps(configuration), git_revision=git_revision())
    save_result(path, "draw", found)
    print(f"{sampling} draw {draw} is done", file=sys.stderr, flush=True)
    return found


def _configuration_of(draw: Draw) -> dict:
    """Configuration of a stored draw; what is younger than its file has its default."""
    stored = {"n_train": N_TRAIN} | json.loads(draw.configuration)
    return stored | {
        "protocols": {name: asdict(Protocol(**current_fields(p))) for name, p in stored["protocols"].items()}
    }


def _stack(draws: Sequence[Draw]) -> Draws:
    """Arrays (D, protocols, R) of the draws' columns, which are sorted by protocol and restart."""
    shape = (len(draws), len(PROTOCOLS), -1)
    return Draws(**{f.name: np.stack([getattr(d, f.name) for d in draws]).reshape(shape) for f in fields(Draws)})


def components_table(draws: Mapping[str, Draws]) -> str:
    """Mean, deviation between draws and deviation between restarts of every quantity, in Markdown."""
    rows = [["patterns", "quantity", "algorithm", "mean ± s.e.", "between draws", "between restarts"]]
    for sampling, measured in draws.items():
        for name, (label, unit, _) in QUANTITIES.items():
            for protocol in PROTOCOLS.values():
                values = measured.of(name, protocol.name)
                known = values[~np.isnan(values).any(axis=1)]
                rows.append([sampling, f"{label}, {unit}", protocol.label, *_components(known)])
    return markdown(rows)


def _components(values: NDArray) -> list[str]:
    """The last three cells of a row, from values (draws, restarts); dashes for fewer than two draws."""
    if len(values) < 2:
        return ["—"] * 3
    found = variance_components(values)
    numbers = f"{found.mean:.3g} ± {found.std_error:.2g}", f"{found.between:.2g}", f"{found.within:.2g}"
    return [number.replace("-", "−") for number in numbers]


def differences_table(draws: Mapping[str, Draws]) -> str:
    """Each algorithm minus its sharper neighbour, paired over draws, in Markdown."""
    head = ["patterns", "difference", "flatter by Φ(0.25) in", "test error, %", "balanced, %"]
    rows = [head]
    for sampling, measured in draws.items():
        for second, first in NEIGHBOURS:
            phi = [known_mean(measured.of("phi_far", name)) for name in (second, first)]
            cells = [
                interval_text(paired_difference(measured.of(name, second), measured.of(name, first)))
                for name in ("test_error", "test_error_balanced")
            ]
            labels = f"{PROTOCOLS[second].label} − {PROTOCOLS[first].label}"
            rows.append(
                [
                    sampling,
                    labels,
                    f"{np.count_nonzero(phi[0] > phi[1])} of {np.isfinite(phi[0] + phi[1]).sum()} draws",
                    *cells,
                ]
            )
    return markdown(rows)


def ranking_table(draws: Mapping[str, Draws]) -> str:
    """Spearman's correlation of Φ(0.25) and test error inside a draw, mean over draws, in Markdown."""
    rows = [["patterns", "minima of", "test error", "balanced test error"]]
    for sampling, measured in draws.items():
        for label, names in (("all five", list(PROTOCOLS)), ("all but SGD fast", list(PROTOCOLS)[1:])):
            cells = []
            for quantity in ("test_error", "test_error_balanced"):
                columns = [
                    np.stack([measured.of(q, name) for name in names], axis=1).reshape(len(measured.test_error), -1)
                    for q in ("phi_far", quantity)
                ]
                inside = np.array([_spearman(*pair) for pair in zip(*columns, strict=True)])
                found = mean_interval(inside[~np.isnan(inside)])
                cells.append(interval_text(replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))))
            rows.append([sampling, label, *cells])
    return markdown(rows)


def known_mean(values: NDArray) -> NDArray:
    """Mean over the restarts (D, R) of each draw that are known; NaN where none is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)


def _spearman(x: NDArray, y: NDArray) -> float:
    known = ~np.isnan(x)
    return rank_correlation(x[known], y[known])


def interval_text(found: Interval) -> str:
    """Mean and interval for people; a dash where they are not known."""
    if np.isnan(found.low):
        return "—"
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]".replace("-", "−")


def report(draws: Mapping[str, Draws], preset: Preset = PRESET) -> str:
    """All tables and how they are to be read, in Markdown."""
    n, restarts = len(next(iter(draws.values())).test_error), preset.restarts
    return f"""{n} natural and {n} balanced draws of {preset.n_train} training patterns, {restarts} restarts each;
{preset.shortened(FIG1.protocols)}.

Differences to the next sharper algorithm, paired over draws, with 95 % intervals (Student's t over draws);
Φ is compared where both have a minimum without training errors:

{differences_table(draws)}
Spearman's correlation between Φ(0.25) and test error inside a draw, mean over draws with the same interval, which
covers 92 to 95 % in simulations of seven draws (negative: flatter minima err less):

{ranking_table(draws)}
Standard deviations between draws and between restarts of a draw (one-way random-effects model); standard errors of
the means take draws as independent:

{components_table(draws)}"""


def draw(draws: Mapping[str, Draws], preset: Preset = PRESET) -> Figure:
    """Test errors by draw for both samplings, and local entropies."""
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 2.9))
    quantities = (("natural", "test_error"), ("balanced", "test_error_balanced"), ("natural", "phi_far"))
    for axes, letter, (sampling, name) in zip(panels, "abc", quantities, strict=True):
        measured = draws[sampling]
        means = np.stack([known_mean(measured.of(name, p)) for p in PROTOCOLS])
        axes.plot(means, color="0.8", linewidth=0.7, zorder=0)
        for place, protocol in enumerate(PROTOCOLS):
            color, marker, _ = LOOKS[protocol]
            axes.plot(np.full(len(means[place]), place), means[place], marker, color=color, markersize=4, alpha=0.8)
            axes.plot([place - 0.25, place + 0.25], [known_mean(means)[place]] * 2, color=color, linewidth=2)
        label, unit, _ = QUANTITIES[name]
        axes.set_ylabel(
            f"{label} ({unit})" if name != "phi_far" else r"$\Phi_{\mathrm{LE}}(d = 0.25)$ ($10^{-5}$ nats/weight)"
        )
        axes.set_xticks(range(len(PROTOCOLS)), [p.label for p in PROTOCOLS.values()], rotation=35, ha="right")
        axes.set_title(letter, loc="left", fontweight="bold")
        axes.set_title(f"{sampling} draws", fontsize=7)
    panels[2].set_yscale("symlog", linthresh=1)
    panels[2].set_ylim(None, 0.2)
    n = len(draws["natural"].test_error)
    note = (
        f"A point: mean of {preset.restarts} restarts on one of {n} draws of {preset.n_train} patterns; "
        "lines join a draw's points."
    )
    figure.supxlabel(note, fontsize=6, color="0.35")
    return figure


def table(draws: Mapping[str, Draws]) -> Iterator[tuple]:
    """Rows of every number."""
    yield "patterns", "draw", "protocol", "restart", *QUANTITIES
    for sampling, measured in draws.items():
        for index in np.ndindex(measured.test_error.shape):
            at, protocol, restart = index
            values = (f"{getattr(measured, name)[index]:.9g}" for name in QUANTITIES)
            yield sampling, at, list(PROTOCOLS)[protocol], restart, *values


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m figures.draws", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=7, help="of natural and as many of balanced patterns (default: 7)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of measures and pictures")
    parser.add_argument("--runs", type=Path, default=Path("runs/draws"), help="folder of the trained minima")
    add_size_options(parser)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args(argv)
    preset = PRESET.resized(**sizes_from(arguments))
    if arguments.draws < 2:
        parser.error("--draws must be at least 2: nothing differs between draws otherwise")
    if preset.restarts < 2:
        parser.error("--restarts must be at least 2: nothing differs between restarts otherwise")
    use_style()
    try:
        draws = collect(arguments.results, arguments.runs, arguments.draws, preset=preset, n_jobs=arguments.jobs)
        figure, text = draw(draws, preset), report(draws, preset)
        paths = [
            *save_figure(figure, arguments.results, "draws"),
            save_table(table(draws), arguments.results, "draws"),
            save_text(text, arguments.results / "draws.md"),
        ]
    except (ValueError, OSError, SweepError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plt.close(figure)
    print(text)
    print("picture and numbers:", *paths, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
