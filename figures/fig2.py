"""Fig. 2: test error against epochs, from saved runs; `python -m figures.fig2`.

Left ResNet-18 on CIFAR-10, right ResNet-50 on Tiny ImageNet in the paper; any rows of Table 1 here. Epochs are rescaled
by y for rSGD and by L for eSGD, not for rSGD×y, as in the paper; curves are averaged over seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.draw.style import DEEP_LOOKS
from figures.draw.tables import counted
from figures.measure.deep_runs import Cell, grouped, load_runs, precision, what_was_run
from figures.measure.published import TABLE1
from figures.program import Output, add_rows_option, add_runs_option, run_program
from training.deep.recipes import COLUMNS, LABELS
from training.deep.results import DeepRun

ROWS = ("resnet18-cifar10", "resnet50-tiny-imagenet")
# Times the lowest last error is the highest that is shown: replicas begin with a centre that knows nothing.
OF_LOWEST = 2.5

Groups = Mapping[tuple[str, str], Sequence[DeepRun]]  # seeds, by network and algorithm


def data_epochs(run: DeepRun) -> np.ndarray:
    """Epochs as Fig. 2 counts them: those of one replica for rSGD×y, passes over the data for all others."""
    recipe = run.configuration["recipe"]
    rescaled = 1 if run.column == "rsgd-y" else recipe["y"] * recipe["L"]
    return rescaled * run.curve("epoch")


def averaged(runs: Sequence[DeepRun]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Epochs, mean test error (%) and its standard deviation over seeds (NaN for one), where it was evaluated.

    Raises
    ------
    ValueError
        When the runs differ in more than their seeds, ended after different epochs, or are of none.
    """
    first, *others = runs
    if not first.epochs:
        raise ValueError(f"runs of {first.row} {first.column} are of no epochs: nothing can be drawn along them")
    for run in others:
        if what_was_run(run) != what_was_run(first) or run.epochs != first.epochs:
            raise ValueError(
                f"runs of {run.row} {run.column} differ in their length, images, precision or recipe, so they cannot "
                "be averaged; keep them in different folders"
            )
    errors = 100 * np.array([run.curve("test_error") for run in runs])
    evaluated = np.isfinite(errors).all(axis=0)
    spread = errors.std(axis=0, ddof=1) if others else np.full(errors.shape[1], np.nan)
    return data_epochs(first)[evaluated], errors.mean(axis=0)[evaluated], spread[evaluated]


def draw(groups: Groups, networks: Sequence[str]) -> Figure:
    """One panel per network; what was run is said in its title."""
    figure, panels = plt.subplots(1, len(networks), figsize=(4.2 * len(networks), 3.4), squeeze=False)
    for axes, network in zip(panels[0], networks, strict=True):
        lowest: list[float] = []
        for algorithm in COLUMNS:
            if (network, algorithm) not in groups:
                continue
            runs, look = groups[network, algorithm], DEEP_LOOKS[algorithm]
            epochs, mean, spread = averaged(runs)
            label = f"{LABELS[algorithm]} ({counted(len(runs), 'seed')})"
            axes.plot(epochs, mean, color=look.color, linestyle=look.linestyle, label=label)
            if len(runs) > 1:
                axes.fill_between(epochs, mean - spread, mean + spread, color=look.color, alpha=0.2, linewidth=0)
            lowest.append(mean[-1])
            if Cell(tuple(runs)).is_the_papers:
                printed = TABLE1[network][algorithm]
                axes.errorbar(1.02 * epochs[-1], printed.mean, printed.std, fmt="o", mfc="none", color=look.color)
        runs_here = [runs[0] for (name, _), runs in groups.items() if name == network]
        title = ", ".join(dict.fromkeys(map(_what_was_run, runs_here)))
        axes.set_title(f"{network}: {title}", fontsize="small")
        axes.set_xlabel("epochs (× y for rSGD, × L for eSGD)")
        axes.set_ylabel("test error (%); circles: the paper's last" if axes.containers else "test error (%)")
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, OF_LOWEST * min(lowest)))
        axes.legend()
    return figure


def _what_was_run(run: DeepRun) -> str:
    return f"{run.n_train:,} images, {100 * run.epochs_scale:.3g} % of the epochs, {precision(run)}"


def table(groups: Groups, networks: Sequence[str]) -> Iterator[tuple]:
    """Every plotted number, after the names of the columns."""
    yield "row", "column", "seeds", "epochs", "mean test error (%)", "standard deviation"
    for (network, algorithm), runs in groups.items():
        if network in networks:
            for numbers in zip(*averaged(runs), strict=True):
                yield network, algorithm, len(runs), *(f"{value:.6g}" for value in numbers)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    add_runs_option(parser)
    add_rows_option(parser)


def make(arguments: argparse.Namespace) -> Output:
    """Draw the curves of the networks that are asked for."""
    groups = grouped(load_runs(arguments.results), lambda run: (run.row, run.column))
    saved = list(dict.fromkeys(network for network, _ in groups))
    networks = arguments.rows or [network for network in ROWS if network in saved] or saved
    missing = [network for network in networks if network not in saved]
    if missing or not networks:
        raise ValueError(
            f"no saved runs of {', '.join(missing) or 'any row'} in {arguments.results}; see figures.table1"
        )
    return Output(arguments.results, table(groups, networks), draw(groups, networks))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("fig2", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
