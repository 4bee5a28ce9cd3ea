"""Table 1: test errors of the baseline, rSGD, eSGD and rSGD×y, from saved runs, beside the paper's numbers.

`python -m figures.table1` draws the table from the runs in a folder; with ``--run ROW`` it first trains what is missing
there, one process a run and one thread a process, and goes on with what was cut off. The table says of every cell how
many runs, which scale and how many images it rests on, and where the entropic algorithms do not win.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from bpflat.parallel import over_processes
from figures.draw.tables import markdown
from figures.measure.deep_runs import Cell, cells, load_runs
from figures.program import Output, add_runs_option, run_program
from training.deep import run
from training.deep.flatness import add_flatness_options, flatness_plan
from training.deep.recipes import COLUMNS, LABELS, RECIPES, find_recipe
from training.deep.training import KEEP_CONTRACTION
from training.progress import StatusLine

# Test errors in percent, (mean, standard deviation or None), of the paper's Table 1.
PAPER: dict[str, dict[str, tuple[float, float | None]]] = {
    "smallconvnet-cifar10": {
        "baseline": (16.5, 0.2),
        "rsgd": (15.6, 0.3),
        "esgd": (14.7, 0.3),
        "rsgd-y": (14.9, 0.2),
    },
    "resnet18-cifar10": {"baseline": (13.1, 0.3), "rsgd": (12.4, 0.3), "esgd": (12.1, 0.3), "rsgd-y": (11.8, 0.1)},
    "resnet110-cifar10": {"baseline": (6.4, 0.1), "rsgd": (6.2, 0.2), "esgd": (6.2, 0.1), "rsgd-y": (5.3, 0.1)},
    "pyramidnet-cifar10": {"baseline": (2.1, 0.2), "rsgd": (2.2, 0.1), "rsgd-y": (1.8, None)},
    "pyramidnet-cifar100": {"baseline": (13.8, 0.1), "rsgd": (13.5, 0.1), "rsgd-y": (12.7, None)},
    "efficientnet-b0-cifar100": {
        "baseline": (20.5, None),
        "rsgd": (20.6, None),
        "esgd": (20.1, 0.2),
        "rsgd-y": (19.5, None),
    },
    "resnet50-tiny-imagenet": {
        "baseline": (45.2, 1.2),
        "rsgd": (41.5, 0.3),
        "esgd": (41.7, 1.0),
        "rsgd-y": (39.2, 0.3),
    },
    "densenet121-tiny-imagenet": {
        "baseline": (41.4, 0.3),
        "rsgd": (39.8, 0.2),
        "esgd": (38.6, 0.4),
        "rsgd-y": (38.9, 0.3),
    },
}


def verdict(cell: Cell, baseline: Cell | None) -> str:
    """Whether `cell` has a lower test error than the baseline at the same setting, by two standard errors."""
    if cell.column == "baseline":
        return ""
    if baseline is None:
        return "no baseline to compare with"
    difference = baseline.mean - cell.mean
    if cell.std is None or baseline.std is None:
        return f"{'lower' if difference > 0 else 'not lower'} than the baseline (one seed: no error bar)"
    error = np.hypot(cell.std / np.sqrt(len(cell.errors)), baseline.std / np.sqrt(len(baseline.errors)))
    if abs(difference) <= 2 * error:
        return "as the baseline, within 2 standard errors"
    return "lower than the baseline" if difference > 0 else "HIGHER than the baseline"


def plus_minus(mean: float, std: float | None) -> str:
    """Percent as the paper prints them."""
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def table(measured: Sequence[Cell]) -> Iterator[tuple]:
    """The table, after the names of its columns: ours, the paper's, and what was run."""
    yield (
        "data and network",
        "algorithm",
        "test error (%)",
        "paper (%)",
        "seeds",
        "epochs",
        "of the paper's",
        "passes",
        "images",
        "augmented",
        "network",
        "γ",
        "verdict",
    )
    baselines = {cell.setting: cell for cell in measured if cell.column == "baseline"}
    for cell in measured:
        yield (
            cell.row,
            LABELS[cell.column],
            plus_minus(cell.mean, cell.std),
            plus_minus(*PAPER[cell.row][cell.column]),
            len(cell.errors),
            cell.epochs,
            f"{cell.scale:.0%}",
            f"{cell.passes:.0f}",
            cell.n_train,
            "yes" if cell.augmented else "no",
            cell.model,
            "" if cell.column == "baseline" else f"× {cell.gamma_scale:g}",
            verdict(cell, baselines.get(cell.setting)),
        )


NOTE = (
    "Test error of the centre after the last epoch, mean ± standard deviation over seeds, beside the paper's. "
    "Only cells run on all training images with 100 % of the epochs can be compared with the paper's numbers. "
    "γ: factor of the recipe's, so that runs of fewer steps are pulled together as far. "
    "Statistics of BatchNorm are running ones, of rSGD their mean over the replicas. "
    "Of Tiny ImageNet the published validation set is the test set."
)


def picture(rows: Sequence[tuple]) -> Figure:
    """Draw the table."""
    figure, axes = plt.subplots(figsize=(13, 0.9 + 0.28 * len(rows)))
    axes.axis("off")
    grid = axes.table([list(map(str, row)) for row in rows[1:]], colLabels=rows[0], loc="upper center")
    grid.auto_set_font_size(False)
    grid.set_fontsize(8)
    grid.auto_set_column_width(range(len(rows[0])))
    grid.scale(1, 1.3)
    for (line, _), box in grid.get_celld().items():
        box.set_linewidth(0.4)
        if line == 0:
            box.set_facecolor("#dddddd")
    figure.text(0.5, 0.02, NOTE, ha="center", fontsize=6, wrap=True)
    return figure


def train_missing(
    row: str,
    folder: Path,
    *,
    data: Path | None,
    seeds: int,
    columns: Sequence[str] = COLUMNS,
    n_jobs: int = 1,
    **options: object,
) -> None:
    """Train every column of `row` that Table 1 has with seeds 0, 1, ..., each with one thread, where it is missing."""
    wanted = [find_recipe(row, column) for column in columns if column in RECIPES[row]]
    calls = [(recipe, folder, data, seed, options) for seed in range(seeds) for recipe in wanted]
    list(over_processes(_train, calls, n_jobs))


def _train(recipe, folder: Path, data: Path | None, seed: int, options: dict) -> None:
    import torch

    if options.get("device", "cpu") == "cpu":
        torch.set_num_threads(1)
    status = StatusLine(interval=10.0, rewrite=False)
    run(recipe, folder, data=data, seed=seed, progress=status, **options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    add_runs_option(parser)
    parser.add_argument("--run", choices=RECIPES, metavar="ROW", help=f"train what is missing of: {', '.join(RECIPES)}")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=COLUMNS, help="(default: all)")
    parser.add_argument("--data", type=Path, metavar="PATH", help=".npz or folder of the images (default: download)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell (default: 3)")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="shortens all schedules (default: 1)")
    parser.add_argument("--n-train", type=int, help="training images to draw (default: all)")
    parser.add_argument("--policies", metavar="FILE", help='sub-policies (JSON) instead of the recipe\'s, or "none"')
    parser.add_argument("--no-augmentation", action="store_true", help="train on the images as they are")
    parser.add_argument("--keep-contraction", action="store_true", help=KEEP_CONTRACTION)
    add_flatness_options(parser)
    parser.add_argument("--evaluate-every", type=int, default=1, metavar="EPOCHS", help="(default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")


def make(arguments: argparse.Namespace) -> Output:
    """Train what is missing, if that is asked for, and draw the table."""
    if arguments.run:
        train_missing(
            arguments.run,
            arguments.results,
            data=arguments.data,
            seeds=arguments.seeds,
            columns=arguments.columns,
            n_jobs=arguments.jobs if arguments.device == "cpu" else 1,
            epochs_scale=arguments.epochs_scale,
            n_train=arguments.n_train,
            policies=arguments.policies,
            evaluate_every=arguments.evaluate_every,
            augment=not arguments.no_augmentation,
            keep_contraction=arguments.keep_contraction,
            flatness=flatness_plan(arguments),
            device=arguments.device,
        )
    rows = list(table(cells(load_runs(arguments.results, "**/*-seed*.npz"))))
    if len(rows) == 1:
        raise ValueError(f"no saved runs in {arguments.results}; train some with --run ROW")
    return Output(arguments.results, rows, picture(rows), f"{markdown(rows)}\n{NOTE}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("table1", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
