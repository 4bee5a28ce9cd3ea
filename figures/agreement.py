"""From shallow to deep in one picture: local entropy, local energy and test error of the same minima.

``python -m figures.agreement`` draws from stored results: of the committee machine, the minima of Figs. 1 and 6, for
which both measures of flatness exist; of VGG-like networks, for which only the local energy can be computed, Fig. 7's.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.experiment import Experiment, Preset, add_size_options, collect, sizes_from
from figures.fig1 import FIG1
from figures.fig6 import FIG6
from figures.fig7 import NOISE as NOISE_DEEP
from figures.fig7 import correlations, levels_of, look_of, place_of
from figures.measures import Series
from figures.networks import Network, load_networks
from figures.panels import save_figure, save_table, save_text
from figures.statistics import INTERVAL, Correlation, centred_ranks, correlate
from figures.style import LOOKS, Look, use_style
from figures.summary import FAR, NOISE, Minima, correlation_text, markdown, scalars
from training.workers import SweepError

RESULTS = Path(__file__).with_name("results")
NO_DROPOUT = "dropout-0"  # of Fig. 6: the minima of SGD fast in Fig. 1
DROPOUT_LOOKS = {
    "dropout-0.1": Look("#D8A6C4", "P", ""),
    "dropout-0.3": Look("#CC79A7", "X", ""),
    "dropout-0.5": Look("#99507A", "p", ""),
    "dropout-0.7": Look("#5C2547", "h", ""),
}

PHI, DELTA, TEST, BALANCED = f"Φ({FAR:g})", f"δE({NOISE:g})", "test error", "balanced test error"
COLUMNS = {PHI: "phi_far", DELTA: "delta_error", TEST: "test_error", BALANCED: "test_error_balanced"}
PANELS = ((PHI, DELTA), (PHI, TEST), (DELTA, TEST))
AXIS = {
    PHI: rf"$-\Phi_{{\mathrm{{LE}}}}$ at $d = {FAR:g}$ (nats/weight)",
    DELTA: rf"local energy $\delta E_{{\mathrm{{train}}}}$ at $\sigma = {NOISE:g}$",
    TEST: "test error (%)",
}


def solutions(experiments: Sequence[Experiment], results: Path, **sizes: int | None) -> tuple[list[Series], Minima]:
    """All minima of the experiments' paper presets and their scalars, each once.

    Parameters
    ----------
    experiments : sequence of Experiment
    results : Path
        Holds a folder ``<experiment name>-paper`` of each.
    **sizes
        Of the presets, where they are others; see `figures.experiment.Preset.resized`.

    Raises
    ------
    FileNotFoundError
        Something is not stored: nothing is trained or measured here.
    ValueError
        As `figures.experiment.collect`.
    """
    series = []
    for experiment in experiments:
        preset = experiment.presets["paper"].resized(**sizes)
        folder = results / f"{experiment.name}-paper"
        for path in (path for protocol in experiment.protocols for path in _needed(folder, protocol.name, preset)):
            if not path.exists():
                command = f"python -m figures.{experiment.name} --preset paper --results {folder}"
                raise FileNotFoundError(f"{path} is not there; make it: {command}")
        options = {"ep": preset.ep, "n_train": preset.n_train, "n_jobs": 1}
        series += collect(preset.apply(experiment.protocols), preset.restarts, folder, **options)
    series = [one for one in series if one.name != NO_DROPOUT]
    return series, scalars(series)


def _needed(folder: Path, name: str, preset: Preset) -> Iterator[Path]:
    """Files of the protocol `name`, the minima first."""
    for what in ("", "-energy", "-entropy", *(["-entropy-ep"] if preset.ep else [])):
        yield folder / f"{name}{what}.npz"


def chosen(minima: Minima, mask: NDArray[np.bool_]) -> Minima:
    """Those minima for which `mask` is true."""
    return Minima(**{name: values[mask] for name, values in vars(minima).items()})


def subsets(minima: Minima) -> dict[str, Minima]:
    """All minima and three parts of them, by what they are called."""
    protocol = minima.protocol
    with_dropout = np.isin(protocol, list(DROPOUT_LOOKS))
    fast = protocol == "sgd-fast"
    return {
        "all": minima,
        "five algorithms": chosen(minima, ~with_dropout),
        "without SGD fast": chosen(minima, ~with_dropout & ~fast),
        "SGD fast with dropout": chosen(minima, with_dropout | fast),
    }


def correlation(minima: Minima, x: str, y: str, *, within: bool = False, seed: int = 0) -> Correlation:
    """Rank correlation of two measures, keys of `COLUMNS`; `within` takes ranks within each algorithm."""
    values = [getattr(minima, COLUMNS[name]) for name in (x, y)]
    kind = "spearman"
    if within:
        values, kind = [centred_ranks(column, minima.protocol) for column in values], "pearson"
    return correlate(*values, minima.protocol, kind=kind, rng=np.random.default_rng(seed))


def draw(series: Sequence[Series], minima: Minima, networks: Sequence[Network]) -> Figure:
    """The three pairs of measures of the committee machines; the fourth panel is of `networks`, if there are any."""
    figure, panels = plt.subplots(2, 2, figsize=(7.0, 5.8))
    for axes, (x, y) in zip(panels.flat, PANELS, strict=False):
        scatter(axes, series, minima, x, y)
    if networks:
        deep(panels.flat[3], networks)
    else:
        panels.flat[3].remove()
    for axes, letter in zip(panels.flat if networks else panels.flat[:3], "abcd", strict=False):
        axes.set_title(letter, loc="left", fontweight="bold")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, columnspacing=1.2)
    return figure


def scatter(axes: Axes, series: Sequence[Series], minima: Minima, x: str, y: str) -> None:
    """One point a minimum; flatter is further left (and lower, in the first panel)."""
    looks = LOOKS | DROPOUT_LOOKS
    for one in series:
        here = chosen(minima, minima.protocol == one.name)
        color, marker, _ = looks[one.name]
        label = f"SGD fast, dropout {one.name.removeprefix('dropout-')}" if one.name in DROPOUT_LOOKS else one.label
        axes.plot(
            _shown(here, x),
            _shown(here, y),
            marker,
            color=color,
            label=label,
            markersize=3,
            markeredgewidth=0,
            alpha=0.7,
        )
    axes.set(xlabel=AXIS[x], ylabel=AXIS[y], xscale="log", yscale="log" if y == DELTA else "linear")
    of_all, within = (correlation(minima, x, y, within=within) for within in (False, True))
    sign = -1 if x == PHI else 1  # −Φ is drawn
    text = f"Spearman {_signed(sign * of_all.value)}; within an algorithm {_signed(sign * within.value)}"
    axes.set_title(text, fontsize=7, loc="right")


def _signed(value: float) -> str:
    return "—" if np.isnan(value) else f"{value:+.2f}".replace("-", "−")


def _shown(minima: Minima, name: str) -> NDArray[np.float64]:
    """Values as the axes have them."""
    return {PHI: -1, TEST: 100}.get(name, 1) * getattr(minima, COLUMNS[name])


def deep(axes: Axes, networks: Sequence[Network]) -> None:
    """Test error against δE of deep networks; open symbols do not fit their training data."""
    s, levels = place_of(networks, NOISE_DEEP), levels_of(networks)
    for network in networks:
        look = look_of(network, levels)
        axes.errorbar(
            network.delta_error[s], 100 * network.test_error, xerr=network.std_error[s], elinewidth=0.5, **look
        )
    for dropout, color in levels["dropout"].items():
        axes.plot([], [], "o", color=color, label=f"VGG-like, dropout {dropout:g}")
    for batch, marker in levels["batch"].items():
        axes.plot([], [], marker, color="0.3", label=f"batch size {batch}")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    axes.legend(loc="upper right", ncols=2, columnspacing=1.0)
    found = correlations(networks)
    rank, within = (found[kind][s].value for kind in ("spearman", "batch"))
    axes.set(
        xlabel=rf"local energy $\delta E_{{\mathrm{{train}}}}$ at $\sigma = {networks[0].sigma[s]:g}$",
        ylabel=AXIS[TEST],
    )
    text = f"Spearman {_signed(rank)}; at equal batch size {_signed(within)}"
    axes.set_title(text, fontsize=7, loc="right")


def report(series: Sequence[Series], minima: Minima) -> str:
    """Rank correlations of the committee machines in Markdown, and what they rest on."""
    parts = subsets(minima)
    rows = [["between", "and", *(f"{name} ({len(part.protocol)})" for name, part in parts.items()), "within each"]]
    for x, y in (*PANELS, (PHI, BALANCED), (DELTA, BALANCED)):
        found = [correlation(part, x, y) for part in parts.values()]
        rows.append([x, y, *map(correlation_text, (*found, correlation(minima, x, y, within=True)))])
    with_errors = np.count_nonzero(np.concatenate([one.minima.train_error for one in series]))
    note = f"""Spearman's ρ of minima (how many in brackets; {with_errors} of them make training errors, and their Φ
        counts the weights that make no more) with a bootstrap
        interval ({INTERVAL}; restarts resampled within each algorithm and dropout) and a p-value that
        takes minima as independent. Last column: ranks within each algorithm and dropout."""
    return f"{markdown(rows)}\n{textwrap.fill(' '.join(note.split()), 120)}\n"


def table(minima: Minima, networks: Sequence[Network]) -> Iterator[tuple]:
    """One row a minimum."""
    yield "network", "series", "restart", PHI, DELTA, "test_error", "balanced_test_error"
    columns = (getattr(minima, column) for column in COLUMNS.values())
    for name, restart, *values in zip(minima.protocol, minima.restart, *columns, strict=True):
        yield "committee machine", name, restart, *(f"{value:.6g}" for value in values)
    for network in networks:
        delta = network.delta_error[place_of(networks, NOISE_DEEP)]
        yield "vgg-like", network.name, network.seed, "", f"{delta:.6g}", f"{network.test_error:.6g}", ""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.agreement", description=__doc__)
    parser.add_argument("--stored", type=Path, default=RESULTS, help="folder of fig1-paper, fig6-paper and fig7")
    parser.add_argument("--results", type=Path, default=RESULTS / "agreement", help="folder of the picture")
    add_size_options(parser)
    arguments = parser.parse_args(argv)
    use_style()
    try:
        series, minima = solutions((FIG1, FIG6), arguments.stored, **sizes_from(arguments))
        deep_folder = arguments.stored / "fig7"
        networks = load_networks(deep_folder) if any(deep_folder.glob("*.npz")) else []
        text = report(series, minima)
        paths = [*save_figure(draw(series, minima, networks), arguments.results, "agreement")]
        paths.append(save_table(table(minima, networks), arguments.results, "agreement"))
        paths.append(save_text(text, arguments.results / "agreement.md"))
    except (ValueError, OSError, SweepError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plt.close("all")
    print(text, "picture and numbers:", *paths, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
