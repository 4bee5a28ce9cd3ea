"""Fig. 2: test error against epochs, from saved runs; `python -m figures.fig2`.

Left ResNet-18 on CIFAR-10, right ResNet-50 on Tiny ImageNet in the paper; any rows of Table 1 here. Epochs are rescaled
by y for rSGD and by L for eSGD, not for rSGD×y, as in the paper; curves are averaged over seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.draw.panels import save_figure, save_table
from figures.draw.style import LOOKS, use_style
from figures.table1 import load_runs
from training.deep_results import DeepRun
from training.recipes import COLUMNS, LABELS, RECIPES

ROWS = ("resnet18-cifar10", "resnet50-tiny-imagenet")
COLUMN_LOOKS = {
    "baseline": LOOKS["sgd-fast"],
    "rsgd": LOOKS["rsgd-fast"],
    "esgd": LOOKS["esgd"],
    "rsgd-y": LOOKS["rsgd-slow"],
}


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
        When the runs have not the same scale, images, network and evaluated epochs.
    """
    for one in runs[1:]:
        same = all(getattr(one, n) == getattr(runs[0], n) for n in ("epochs", "epochs_scale", "n_train"))
        if not same or one.configuration["recipe"] != runs[0].configuration["recipe"]:
            raise ValueError(
                f"runs of {one.row} {one.column} differ in their scale, images or recipe, so they cannot be averaged; "
                "keep them in different folders"
            )
    errors = 100 * np.array([one.curve("test_error") for one in runs])
    evaluated = np.isfinite(errors).all(axis=0)
    spread = errors.std(axis=0, ddof=1) if len(runs) > 1 else np.full(errors.shape[1], np.nan)
    return data_epochs(runs[0])[evaluated], errors.mean(axis=0)[evaluated], spread[evaluated]


def series(runs: Sequence[DeepRun]) -> dict[tuple[str, str], list[DeepRun]]:
    """Group runs by row and column."""
    groups: dict[tuple[str, str], list[DeepRun]] = {}
    for one in runs:
        groups.setdefault((one.row, one.column), []).append(one)
    return groups


def draw(groups: dict[tuple[str, str], list[DeepRun]], rows: Sequence[str]) -> Figure:
    """One panel a row; what was run is said in its title."""
    figure, panels = plt.subplots(1, len(rows), figsize=(4.2 * len(rows), 3.4), squeeze=False)
    for axes, row in zip(panels[0], rows, strict=True):
        for column in COLUMNS:
            if (row, column) not in groups:
                continue
            runs, look = groups[row, column], COLUMN_LOOKS[column]
            epochs, mean, spread = averaged(runs)
            label = f"{LABELS[column]} ({len(runs)} seed{'s' * (len(runs) > 1)})"
            axes.plot(epochs, mean, color=look.color, linestyle=look.linestyle, label=label)
            if len(runs) > 1:
                axes.fill_between(epochs, mean - spread, mean + spread, color=look.color, alpha=0.2, linewidth=0)
        one = next(runs[0] for (name, _), runs in groups.items() if name == row)
        axes.set_title(f"{row}: {one.n_train:,} images, {one.epochs_scale:.0%} of the epochs", fontsize="small")
        axes.set_xlabel("epochs (× y for rSGD, × L for eSGD)")
        axes.set_ylabel("test error (%)")
        axes.legend()
    return figure


def numbers(groups: dict[tuple[str, str], list[DeepRun]], rows: Sequence[str]) -> Iterator[tuple]:
    """Rows of every plotted number."""
    yield "row", "column", "seeds", "epochs", "mean test error (%)", "standard deviation"
    for (row, column), runs in groups.items():
        if row in rows:
            for epoch, mean, spread in zip(*averaged(runs), strict=True):
                yield row, column, len(runs), f"{epoch:.6g}", f"{mean:.6g}", f"{spread:.6g}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.fig2", description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=Path("runs/table1"), help="folder of the runs and the picture")
    parser.add_argument(
        "--rows", nargs="+", choices=RECIPES, metavar="ROW", help="(default: the paper's, else all saved)"
    )
    arguments = parser.parse_args(argv)
    use_style()
    try:
        groups = series(load_runs(arguments.results))
        saved = list(dict.fromkeys(row for row, _ in groups))
        rows = arguments.rows or [row for row in ROWS if row in saved] or saved
        missing = [row for row in rows if row not in saved]
        if missing or not rows:
            raise ValueError(
                f"no saved runs of {', '.join(missing) or 'any row'} in {arguments.results}; see figures.table1"
            )
        figure = draw(groups, rows)
        paths = [*save_figure(figure, arguments.results, "fig2")]
        paths.append(save_table(numbers(groups, rows), arguments.results, "fig2"))
        plt.close(figure)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("picture and numbers:", *paths, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
