"""Fig. 7: local energy against test error of VGG-like networks trained with different regularisers.

``python -m figures.fig7 --data FILE`` trains a grid of networks on CIFAR-10 (27 small ones; ``--preset large``: 54 on
10,000 whole images) and measures them where that is not done yet, then draws; ``--pgdl FOLDER`` measures the paper's
own models, those of task 1 of the PGDL competition. Without either it draws what is stored.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.draw.networks import add_legend, levels_of, look_of
from figures.draw.style import add_letters
from figures.draw.tables import correlation_text, with_note
from figures.measure.grids import GRIDS, Grid, train_missing
from figures.measure.networks import (
    KINDS,
    N_SAMPLES,
    NOISE,
    Network,
    correlations,
    load_networks,
    place_of,
    precision_of,
)
from figures.measure.pgdl import STOP_LOSS, measure_missing
from figures.measure.statistics import INTERVAL, Correlation
from figures.program import Output, run_program
from training.deep.training import BFLOAT16
from training.progress import StatusLine

RESULTS = Path(__file__).with_name("results") / "fig7"
COVERAGE = "nominally 95 %, 93 to 95 % in simulations"  # of the intervals of ψ and Ψ


def draw(networks: Sequence[Network]) -> Figure:
    """δE against test error at the paper's σ and at the smallest one, and the correlations against σ."""
    figure, (paper, small, summary) = plt.subplots(1, 3, figsize=(8.0, 3.8))
    by_kind = correlations(networks)
    for axes, s in ((paper, place_of(networks, NOISE)), (small, 0)):
        scatter(axes, networks, s)
        axes.set_title(f"Pearson r = {_short(by_kind['pearson'][s])}", fontsize=7, loc="right")
    add_legend(figure, networks)
    forest(summary, {label: by_kind[kind][place_of(networks, NOISE)] for kind, label in KINDS.items()})
    add_letters((paper, small, summary))
    return figure


def forest(axes: Axes, by_label: Mapping[str, Correlation]) -> None:
    """A line for each coefficient that is known, from top to bottom, with its interval."""
    known = {label: c for label, c in by_label.items() if not np.isnan(c.value)}
    for line, c in enumerate(known.values()):
        axes.hlines(line, c.low, c.high, color="0.3", linewidth=0.9)  # an interval need not hold the value
        axes.plot(c.value, line, "o", color="0.0", markersize=3.5)
    axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.set(xlabel=rf"correlation at $\sigma = {NOISE:g}$, 95 % interval", xlim=(-1.05, 1.05))
    axes.set_yticks(range(len(known)), known)
    axes.invert_yaxis()


def scatter(axes: Axes, networks: Sequence[Network], s: int) -> None:
    """δE at entry `s` of the σ against test error; means and standard deviations over perturbations."""
    levels = levels_of(networks)
    for network in networks:
        look = look_of(network, levels)
        axes.errorbar(100 * network.test_error, network.delta_error[s], network.deviation[s], elinewidth=0.5, **look)
    axes.set(
        xlabel="test error (%)",
        ylabel=rf"local energy $\delta E_{{\mathrm{{train}}}}$ at $\sigma = {networks[0].sigma[s]:g}$",
    )


def _short(correlation: Correlation) -> str:
    if np.isnan(correlation.value):
        return "—"
    return f"{correlation.value:.2f} [{correlation.low:.2f}, {correlation.high:.2f}]".replace("-", "−")


def report(networks: Sequence[Network]) -> str:
    """The correlations in Markdown, and what they rest on."""
    by_kind = correlations(networks)
    rows = [["coefficient", *(f"σ = {sigma:g}" for sigma in networks[0].sigma)]]
    rows += [[label, *map(correlation_text, by_kind[kind])] for kind, label in KINDS.items()]
    fitted = [network for network in networks if network.fitted]
    test = 100 * np.array([network.test_error for network in fitted])
    wrong = max(network.train_error for network in fitted)
    left_out = len(networks) - len(fitted)
    hours = sum(network.seconds for network in networks) / 3600
    timed = all(network.seconds for network in networks)
    took = "" if not timed else f" All trainings took {hours:.2g} hours of one core."
    first = networks[0]
    note = f"""Between δE and test error of {len(fitted)} networks ({first.architecture}; {first.n_train:,} training
        images; {precision_of(first)}), with 95 % intervals and p-values that take networks as independent. All
        networks, and ρ of ranks among networks that share the value of one regulariser: bootstrap ({INTERVAL};
        networks resampled). ψ: mean sign of concordance of pairs that differ in one hyper-parameter alone, Ψ their
        average, the granulated coefficient of Jiang et al. (2019); normal intervals that let pairs with a network in
        common be correlated ({COVERAGE}), and have no length where all pairs agree. Test errors {test.min():.1f} to
        {test.max():.1f} %, training errors at most {100 * wrong:.2g} %. Left out, as their training loss stayed above
        the one at which training ends: {left_out} of {len(networks)} networks.{took}"""
    return with_note(rows, note)


def table(networks: Sequence[Network]) -> Iterator[tuple]:
    """Measures of every network at every σ, after the names of the columns."""
    head = ("name", "dropout", "batch", "weight_decay", "eta", "seed", "epochs", "fitted")
    yield *head, "train_error", "train_loss", "test_error", "sigma", "delta_error", "std_error", "deviation"
    for network in networks:
        what = tuple(getattr(network, name) for name in head)
        errors = (network.train_error, network.train_loss, network.test_error)
        for row in zip(network.sigma, network.delta_error, network.std_error, network.deviation, strict=True):
            yield *what, *(f"{value:.6g}" for value in (*errors, *row))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument("--preset", choices=GRIDS, default="quick", help="grid of networks (default: quick)")
    parser.add_argument(
        "--data", type=Path, metavar="FILE_OR_FOLDER", help="CIFAR-10, as training.deep.images reads it"
    )
    parser.add_argument(
        "--pgdl", type=Path, metavar="FOLDER", help="folder of a task of the PGDL data, such as task1_v4"
    )
    parser.add_argument(
        "--results", type=Path, help="folder of networks and pictures (default: fig7, fig7-PRESET or fig7-pgdl)"
    )
    for name, kind, what in (
        ("dropout", float, "probabilities"),
        ("batch", int, "batch sizes"),
        ("weight-decay", float, "weight decays"),
        ("eta", float, "first learning rates"),
    ):
        parser.add_argument(f"--{name}", type=kind, nargs="+", help=f"{what} of the grid (default: the preset's)")
    for name, kind, what in (
        ("width", int, "channels"),
        ("n-train", int, "training images"),
        ("size", int, "pixels to which images are shrunk"),
        ("convolutions", int, "convolutions of a block"),
        ("epochs", int, "the most"),
        ("stop-loss", float, "training loss below which a network fits, and its training ends"),
        ("subset", int, f"training images that each of the {N_SAMPLES} perturbations sees"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=f"{what} (default: the preset's)")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, help=f"{BFLOAT16} (default: the preset's)")
    parser.add_argument("--seeds", type=int, default=1, help="networks of each kind (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")


def grid_from(arguments: argparse.Namespace) -> Grid:
    """Return the preset's grid with the options given on the command line put in."""
    names = (field.name for field in dataclasses.fields(Grid))
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    return dataclasses.replace(
        GRIDS[arguments.preset], **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    )


def make(arguments: argparse.Namespace) -> Output:
    """Train or measure what is asked for, and draw all networks of the folder."""
    what = "pgdl" if arguments.pgdl else arguments.preset
    folder = arguments.results or RESULTS.with_name("fig7" if what == "quick" else f"fig7-{what}")
    if arguments.pgdl:
        stop_loss = STOP_LOSS if arguments.stop_loss is None else arguments.stop_loss
        options = {"subset": arguments.subset, "device": arguments.device, "stop_loss": stop_loss}
        measure_missing(arguments.pgdl, folder, **options)
    elif arguments.data:
        train_missing(
            grid_from(arguments),
            folder,
            data=arguments.data,
            seeds=arguments.seeds,
            device=arguments.device,
            n_jobs=arguments.jobs if arguments.device == "cpu" else 1,
            progress=StatusLine(interval=10.0, rewrite=False),
        )
    networks = load_networks(folder)
    return Output(folder, table(networks), draw(networks), report(networks))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("fig7", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
