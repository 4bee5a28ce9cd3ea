"""Shallow and deep in one picture: local entropy, local energy and test error of the same minima.

``python -m figures.agreement`` draws from stored results: of the committee machine, the minima of Figs. 1 and 6, for
which both measures of flatness exist; of VGG-like networks, for which only the local energy can be computed, those of
Fig. 7 that were trained on whole images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.draw.networks import levels_of, look_of
from figures.draw.style import DROPOUT_LOOKS, SERIES_LOOKS, add_letters
from figures.draw.tables import correlation_text, signed, with_note
from figures.measure.experiment import PAPER, WITH_DROPOUT, Preset, collect
from figures.measure.measures import Series
from figures.measure.networks import NOISE as NOISE_DEEP
from figures.measure.networks import Network, correlations, load_networks, place_of
from figures.measure.statistics import INTERVAL, Correlation, centred_ranks, correlate
from figures.measure.summary import FAR, NOISE, Minima, scalars
from figures.program import Output, add_size_options, run_program, sizes_from
from training.committee.protocols import PROTOCOLS, Protocol

RESULTS = Path(__file__).with_name("results")
DEEP = "fig7-large"
NO_DROPOUT = "dropout-0"  # of Fig. 6: the minima of SGD fast in Fig. 1

PHI, DELTA, TEST, BALANCED = f"Φ({FAR:g})", f"δE({NOISE:g})", "test error", "balanced test error"
FIELDS = {PHI: "phi_far", DELTA: "delta_error", TEST: "test_error", BALANCED: "test_error_balanced"}
PANELS = ((PHI, DELTA), (PHI, TEST), (DELTA, TEST))
AXIS = {
    PHI: rf"$-\Phi_{{\mathrm{{LE}}}}$ at $d = {FAR:g}$ (nats/weight)",
    DELTA: rf"local energy $\delta E_{{\mathrm{{train}}}}$ at $\sigma = {NOISE:g}$",
    TEST: "test error (%)",
}


def solutions(stored: Path, preset: Preset = PAPER) -> tuple[list[Series], Minima]:
    """All minima of Figs. 1 and 6 and their scalars, each once.

    Parameters
    ----------
    stored : Path
        Holds the folders ``fig1-paper`` and ``fig6-paper``.
    preset : Preset
        Sizes of both.

    Raises
    ------
    FileNotFoundError
        Something is not stored: nothing is trained or measured here.
    ValueError
        See `figures.measure.experiment.collect`.
    """
    fig1 = _read("fig1", PROTOCOLS.values(), stored, preset)
    fig6 = _read("fig6", WITH_DROPOUT, stored, preset)
    series = [*fig1, *(measured for measured in fig6 if measured.name != NO_DROPOUT)]
    return series, scalars(series)


def _read(figure: str, protocols: Collection[Protocol], stored: Path, preset: Preset) -> list[Series]:
    """Minima of one figure and their measures."""
    folder = stored / f"{figure}-paper"
    for path in (path for protocol in protocols for path in _needed(folder, protocol.name)):
        if not path.exists():
            command = f"python -m figures.{figure} --preset paper --results {folder}"
            raise FileNotFoundError(f"{path} is not there; make it: {command}")
    return collect(preset.apply(protocols), preset.restarts, folder, n_train=preset.n_train, n_jobs=1)


def _needed(folder: Path, name: str) -> Iterator[Path]:
    """Files of the protocol `name`, the minima first."""
    for what in ("", "-energy", "-entropy"):
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
    """Rank correlation of two measures, keys of `FIELDS`; `within` takes ranks within each algorithm."""
    values = [getattr(minima, FIELDS[name]) for name in (x, y)]
    kind = "spearman"
    if within:
        values, kind = [centred_ranks(each, minima.protocol) for each in values], "pearson"
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
    add_letters(panels.flat if networks else panels.flat[:3])
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, columnspacing=1.2)
    return figure


def scatter(axes: Axes, series: Sequence[Series], minima: Minima, x: str, y: str) -> None:
    """Draw a point for each minimum; flatter is further left (and lower, in the first panel)."""
    for measured in series:
        name = measured.name
        here = chosen(minima, minima.protocol == name)
        color, marker, _ = SERIES_LOOKS[name]
        label = f"SGD fast, dropout {name.removeprefix('dropout-')}" if name in DROPOUT_LOOKS else measured.label
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
    text = f"Spearman {signed(sign * of_all.value)}; within an algorithm {signed(sign * within.value)}"
    axes.set_title(text, fontsize=7, loc="right")


def _shown(minima: Minima, name: str) -> NDArray[np.float64]:
    """Values as the axes have them."""
    return {PHI: -1, TEST: 100}.get(name, 1) * getattr(minima, FIELDS[name])


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
    by_kind = correlations(networks)
    rank, within = (by_kind[kind][s].value for kind in ("spearman", "weight_decay"))
    axes.set(
        xlabel=rf"local energy $\delta E_{{\mathrm{{train}}}}$ at $\sigma = {networks[0].sigma[s]:g}$",
        ylabel=AXIS[TEST],
    )
    text = f"Spearman {signed(rank)}; at equal weight decay {signed(within)}"
    axes.set_title(text, fontsize=7, loc="right")


def report(series: Sequence[Series], minima: Minima) -> str:
    """Rank correlations of the committee machines in Markdown, and what they rest on."""
    parts = subsets(minima)
    rows = [["between", "and", *(f"{name} ({len(part.protocol)})" for name, part in parts.items()), "within each"]]
    for x, y in (*PANELS, (PHI, BALANCED), (DELTA, BALANCED)):
        over_all = [correlation(part, x, y) for part in parts.values()]
        rows.append([x, y, *map(correlation_text, (*over_all, correlation(minima, x, y, within=True)))])
    note = f"""Spearman's ρ of minima (how many in brackets; {np.count_nonzero(minima.train_error)} of all make training
        errors, and their Φ counts the weights that make no more) with a bootstrap interval ({INTERVAL}; restarts
        resampled within each algorithm and dropout) and a p-value that takes minima as independent. Last column: ranks
        within each algorithm and dropout."""
    return with_note(rows, note)


def table(minima: Minima, networks: Sequence[Network]) -> Iterator[tuple]:
    """Measures of every minimum and network, after the names of the columns."""
    yield "network", "series", "restart", PHI, DELTA, "test_error", "balanced_test_error"
    columns = (getattr(minima, name) for name in FIELDS.values())
    for name, restart, *values in zip(minima.protocol, minima.restart, *columns, strict=True):
        yield "committee machine", name, restart, *(f"{value:.6g}" for value in values)
    for network in networks:
        delta = network.delta_error[place_of(networks, NOISE_DEEP)]
        yield "vgg-like", network.name, network.seed, "", f"{delta:.6g}", f"{network.test_error:.6g}", ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument("--stored", type=Path, default=RESULTS, help=f"folder of fig1-paper, fig6-paper and {DEEP}")
    parser.add_argument("--results", type=Path, default=RESULTS / "agreement", help="folder of the picture")
    add_size_options(parser)


def make(arguments: argparse.Namespace) -> Output:
    """Draw what is stored."""
    series, minima = solutions(arguments.stored, PAPER.resized(**sizes_from(arguments)))
    deep_folder = arguments.stored / DEEP
    networks = load_networks(deep_folder) if any(deep_folder.glob("*.npz")) else []
    figure = draw(series, minima, networks)
    return Output(arguments.results, table(minima, networks), figure, report(series, minima))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("agreement", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
