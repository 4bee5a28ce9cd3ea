"""Fig. 7: local energy against test error of VGG-like networks trained with different regularisers.

``python -m figures.fig7 --data FILE`` trains a grid of small networks on CIFAR-10 (the preset) and measures them where
that is not done yet, then draws; ``--pgdl FOLDER`` measures the paper's own models, those of task 1 of the PGDL
competition. Without either it draws what is stored.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.draw.panels import save_figure, save_table, save_text
from figures.draw.style import LOOKS, use_style
from figures.measure.networks import GRIDS, N_SAMPLES, Grid, Network, load_networks, train_missing
from figures.measure.pgdl import STOP_LOSS, measure_missing
from figures.measure.statistics import INTERVAL, Correlation, centred_ranks, correlate
from figures.measure.summary import correlation_text, markdown
from training.deep_trainer import describe
from training.progress import StatusLine
from training.workers import SweepError

RESULTS = Path(__file__).with_name("results") / "fig7"
COLORS = [look.color for look in LOOKS.values()]
MARKERS = [look.marker for look in LOOKS.values()]
SIZES = (3.0, 5.0, 7.0)
NOISE = 0.5  # σ of the paper's figure
REGULARISERS = {"dropout": "dropout", "batch": "batch size", "weight_decay": "weight decay"}
# Names of the correlations, in words; those after the first two are of ranks among networks that share a regulariser.
KINDS = {"pearson": "Pearson r", "spearman": "Spearman ρ"} | {n: f"ρ, equal {word}" for n, word in REGULARISERS.items()}
KIND_LOOKS = {
    "pearson": ("0.0", "o"),
    "spearman": ("0.0", "s"),
    "dropout": ("#56B4E9", "^"),
    "batch": ("#0072B2", "D"),
    "weight_decay": ("#CC79A7", "v"),
}


def correlations(networks: Sequence[Network], seed: int = 0) -> dict[str, list[Correlation]]:
    """Correlate δE and test error of the fitted networks, at each σ.

    Returns
    -------
    dict
        By the keys of `KINDS`: lists, one entry a σ; NaN where no networks share a regulariser.
    """
    fitted = [network for network in networks if network.fitted]
    if len(fitted) < 3:
        raise ValueError(
            f"a correlation needs at least 3 networks that fit their training data; there are {len(fitted)}"
        )
    rng = np.random.default_rng(seed)
    test = np.array([network.test_error for network in fitted])
    alike = np.zeros(len(fitted))
    found = {kind: [] for kind in KINDS}
    for delta in np.transpose([network.delta_error for network in fitted]):
        for kind in ("pearson", "spearman"):
            found[kind].append(correlate(delta, test, alike, kind=kind, rng=rng))
        for name in REGULARISERS:
            groups = np.array([getattr(network, name) for network in fitted])
            ranks = centred_ranks(delta, groups), centred_ranks(test, groups)
            found[name].append(correlate(*ranks, groups, kind="pearson", rng=rng))
    return found


def draw(networks: Sequence[Network]) -> Figure:
    """δE against test error at the paper's σ and at the smallest one, and the correlations against σ."""
    figure, (paper, small, summary) = plt.subplots(1, 3, figsize=(7.0, 3.5))
    found = correlations(networks)
    for axes, s in ((paper, place_of(networks, NOISE)), (small, 0)):
        scatter(axes, networks, s)
        axes.set_title(f"Pearson r = {_short(found['pearson'][s])}", fontsize=7, loc="right")
    _legend(figure, networks)
    for place, (kind, label) in enumerate(KINDS.items()):
        value, low, high = np.transpose([(c.value, c.low, c.high) for c in found[kind]])
        color, marker = KIND_LOOKS[kind]
        x = networks[0].sigma + 0.012 * (place - 2)
        summary.vlines(x, low, high, color=color, linewidth=0.8)  # an interval need not hold the value
        summary.plot(x, value, marker, color=color, markersize=3, label=label)
    summary.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    summary.set(xlabel=r"noise amplitude $\sigma$", ylabel="correlation (95 % interval)", ylim=(-2.1, 1.05))
    summary.set_yticks(np.arange(-1, 1.1, 0.5))
    summary.legend(loc="lower left", handletextpad=0.2)
    for axes, letter in zip((paper, small, summary), "abc", strict=True):
        axes.set_title(letter, loc="left", fontweight="bold")
    return figure


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


def levels_of(networks: Sequence[Network]) -> dict[str, dict]:
    """How each value of each regulariser is drawn: colour, marker, size."""
    looks = {"dropout": COLORS, "batch": MARKERS, "weight_decay": SIZES}
    return {
        name: dict(zip(sorted({getattr(network, name) for network in networks}), itertools.cycle(some), strict=False))
        for name, some in looks.items()
    }


def look_of(network: Network, levels: dict[str, dict]) -> dict:
    """Options of a line that draws `network`; open symbols do not fit their training data."""
    return {
        "color": levels["dropout"][network.dropout],
        "marker": levels["batch"][network.batch],
        "markersize": levels["weight_decay"][network.weight_decay],
        "fillstyle": "full" if network.fitted else "none",
    }


def _legend(figure: Figure, networks: Sequence[Network]) -> None:
    """Above the panels: colours, then markers, then sizes."""
    common = {"linestyle": "none", "color": "0.3", "marker": "o"}
    options = {"dropout": "color", "batch": "marker", "weight_decay": "markersize"}
    columns = [
        [(f"{REGULARISERS[name]} {value:g}", {options[name]: look}) for value, look in looks.items()]
        for name, looks in levels_of(networks).items()
    ]
    if not all(network.fitted for network in networks):
        columns.append([("training loss too large", {"fillstyle": "none"})])
    longest = max(map(len, columns))
    for column in columns:  # matplotlib fills columns one after another
        column += [("", {"marker": "none"})] * (longest - len(column))
    handles = [plt.Line2D([], [], label=label, **(common | line)) for label, line in itertools.chain(*columns)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(columns), columnspacing=3.0)


def place_of(networks: Sequence[Network], sigma: float) -> int:
    """Which of their σ is nearest."""
    return int(np.argmin(np.abs(networks[0].sigma - sigma)))


def _short(found: Correlation) -> str:
    if np.isnan(found.value):
        return "—"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]".replace("-", "−")


def report(networks: Sequence[Network]) -> str:
    """The correlations in Markdown, and what they rest on."""
    found = correlations(networks)
    rows = [["σ", *KINDS.values()]]
    for s, sigma in enumerate(networks[0].sigma):
        rows.append([f"{sigma:g}", *(correlation_text(found[kind][s]) for kind in KINDS)])
    fitted = [network for network in networks if network.fitted]
    test = 100 * np.array([network.test_error for network in fitted])
    wrong = max(network.train_error for network in fitted)
    left_out = len(networks) - len(fitted)
    note = f"""Between δE and test error of {len(fitted)} networks ({networks[0].architecture}; {networks[0].n_train:,}
        training images), with a bootstrap interval ({INTERVAL}; networks resampled) and a p-value that takes networks
        as independent; the last three columns are of ranks among networks that share the value of one regulariser. Test
        errors {test.min():.1f} to {test.max():.1f} %, training errors at most {100 * wrong:.2g} %. Left out, as their
        training loss stayed above the one at which training ends: {left_out} of {len(networks)} networks."""
    return f"{markdown(rows)}\n{textwrap.fill(' '.join(note.split()), 120)}\n"


def table(networks: Sequence[Network]) -> Iterator[tuple]:
    """One row a network and σ."""
    head = ("name", "dropout", "batch", "weight_decay", "seed", "epochs", "fitted")
    yield *head, "train_error", "train_loss", "test_error", "sigma", "delta_error", "std_error", "deviation"
    for network in networks:
        what = tuple(getattr(network, name) for name in head)
        errors = (network.train_error, network.train_loss, network.test_error)
        for row in zip(network.sigma, network.delta_error, network.std_error, network.deviation, strict=True):
            yield *what, *(f"{value:.6g}" for value in (*errors, *row))


def parser() -> argparse.ArgumentParser:
    """Command line."""
    p = argparse.ArgumentParser(prog="python -m figures.fig7", description=__doc__)
    p.add_argument("--preset", choices=GRIDS, default="quick", help="grid of networks (default: quick)")
    p.add_argument("--data", type=Path, metavar="FILE_OR_FOLDER", help="CIFAR-10, as training.images reads it")
    p.add_argument("--pgdl", type=Path, metavar="FOLDER", help="of a task of the PGDL data, such as task1_v4")
    p.add_argument("--results", type=Path, help="of networks and pictures (default: fig7, or fig7-pgdl with --pgdl)")
    for name, kind, what in (
        ("dropout", float, "probabilities"),
        ("batch", int, "batch sizes"),
        ("weight-decay", float, "weight decays"),
    ):
        p.add_argument(f"--{name}", type=kind, nargs="+", help=f"{what} of the grid (default: the preset's)")
    for name, kind, what in (
        ("width", int, "channels"),
        ("n-train", int, "training images"),
        ("size", int, "pixels to which images are shrunk"),
        ("eta", float, "first learning rate"),
        ("epochs", int, "the most"),
        ("stop-loss", float, "training loss below which a network fits, and its training ends"),
        ("subset", int, f"training images that each of the {N_SAMPLES} perturbations sees"),
    ):
        p.add_argument(f"--{name}", type=kind, help=f"{what} (default: the preset's)")
    p.add_argument("--seeds", type=int, default=1, help="networks of each kind (default: 1)")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    return p


def grid_from(arguments: argparse.Namespace) -> Grid:
    """Return the preset's grid with the options given on the command line put in."""
    names = (field.name for field in dataclasses.fields(Grid))
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    return dataclasses.replace(
        GRIDS[arguments.preset], **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    folder = arguments.results or RESULTS.with_name("fig7-pgdl" if arguments.pgdl else "fig7")
    use_style()
    progress = StatusLine(interval=10.0, rewrite=False, describe=describe)
    grid = grid_from(arguments)
    try:
        if arguments.pgdl:
            stop_loss = STOP_LOSS if arguments.stop_loss is None else arguments.stop_loss
            options = {"subset": arguments.subset, "device": arguments.device, "stop_loss": stop_loss}
            measure_missing(arguments.pgdl, folder, **options)
        elif arguments.data:
            train_missing(
                grid,
                folder,
                data=arguments.data,
                seeds=arguments.seeds,
                device=arguments.device,
                n_jobs=arguments.jobs if arguments.device == "cpu" else 1,
                progress=progress,
            )
        networks = load_networks(folder)
        text = report(networks)
        paths = [*save_figure(draw(networks), folder, "fig7")]
        paths.append(save_table(table(networks), folder, "fig7"))
        paths.append(save_text(text, folder / "fig7.md"))
    except (ValueError, OSError, ImportError, SweepError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plt.close("all")
    print(text, "picture and numbers:", *paths, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
