"""Table 1: test errors of the baseline, rSGD, eSGD and rSGD×y, from saved runs, beside the paper's numbers.

`python -m figures.table1` draws the table from the runs in a folder; with ``--run ROW`` it first trains what is missing
there, one process a run and one thread a process, and goes on with what was cut off. The table says of every cell how
many runs, which scale and how many images it rests on, and where the entropic algorithms do not win.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from joblib import Parallel, delayed, parallel_config
from matplotlib.figure import Figure

from bpflat.storage import atomic_write
from figures.draw.panels import save_figure, save_table
from figures.draw.style import use_style
from training.deep import KEEP_CONTRACTION, add_flatness_options, flatness_plan, run
from training.deep_results import DeepRun
from training.deep_trainer import describe
from training.progress import StatusLine
from training.recipes import COLUMNS, LABELS, RECIPES, find_recipe

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


@dataclass(frozen=True)
class Cell:
    """Runs of one recipe at one scale.

    Attributes
    ----------
    row, column, model : str
    scale : float
        Of the epochs.
    n_train : int
        Images trained on.
    errors : ndarray of float, shape (seeds,)
        Test errors of the centre, in percent.
    epochs : int
    passes : float
        Passes over the data of one run, all replicas and inner steps together.
    augmented : bool
    gamma_scale : float
        Factor of γ.
    """

    row: str
    column: str
    model: str
    scale: float
    n_train: int
    errors: np.ndarray
    epochs: int
    passes: float
    augmented: bool = True
    gamma_scale: float = 1.0

    @property
    def mean(self) -> float:
        """Mean test error (%)."""
        return float(self.errors.mean())

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds (%), None for one seed."""
        return float(self.errors.std(ddof=1)) if len(self.errors) > 1 else None

    @property
    def setting(self) -> tuple[str, str, int, float, bool]:
        """What cells must share to be compared: row, network, images, scale and augmentation."""
        return self.row, self.model, self.n_train, self.scale, self.augmented


def load_runs(folder: Path, pattern: str = "*-seed*.npz") -> list[DeepRun]:
    """Read every saved run of `folder`, in the order of the table; raises as `DeepRun.load`."""
    runs = [DeepRun.load(path) for path in sorted(folder.glob(pattern))]
    place = [(row, column) for row in RECIPES for column in COLUMNS]
    return sorted(runs, key=lambda one: (place.index((one.row, one.column)), one.seed))


def cells(runs: Iterable[DeepRun]) -> list[Cell]:
    """Gather runs that differ in the seed alone."""
    groups: dict[tuple, list[DeepRun]] = {}
    for one in runs:
        model = one.configuration["recipe"]["model"]
        changed = one.configuration.get("augment", True), one.configuration.get("gamma_scale", 1.0)
        groups.setdefault((one.row, one.column, model, one.n_train, one.epochs_scale, *changed), []).append(one)
    return [
        Cell(
            row=row,
            column=column,
            model=model,
            scale=scale,
            n_train=n_train,
            errors=100 * np.array([one.test_error for one in members]),
            epochs=members[0].epochs,
            passes=members[0].curve("passes")[-1],
            augmented=augmented,
            gamma_scale=gamma_scale,
        )
        for (row, column, model, n_train, scale, augmented, gamma_scale), members in groups.items()
    ]


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


def table(found: Sequence[Cell]) -> Iterator[tuple]:
    """Rows of the table, a header first: ours, the paper's, and what was run."""
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
    baselines = {cell.setting: cell for cell in found if cell.column == "baseline"}
    for cell in found:
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


def markdown(rows: Sequence[tuple]) -> str:
    """Return the table in Markdown, with what it rests on below."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join([*lines, "", NOTE, ""])


def picture(rows: Sequence[tuple]) -> Figure:
    """Draw the table."""
    figure, axes = plt.subplots(figsize=(13, 0.9 + 0.28 * len(rows)))
    axes.axis("off")
    drawn = axes.table([list(map(str, row)) for row in rows[1:]], colLabels=rows[0], loc="upper center")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    drawn.auto_set_column_width(range(len(rows[0])))
    drawn.scale(1, 1.3)
    for (line, _), box in drawn.get_celld().items():
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
    tasks = [(recipe, seed) for seed in range(seeds) for recipe in wanted]
    with parallel_config("loky", inner_max_num_threads=1):
        Parallel(n_jobs=n_jobs)(delayed(_train)(recipe, folder, data, seed, options) for recipe, seed in tasks)


def _train(recipe, folder: Path, data: Path | None, seed: int, options: dict) -> None:
    import torch

    if options.get("device", "cpu") == "cpu":
        torch.set_num_threads(1)
    status = StatusLine(interval=10.0, rewrite=False, describe=describe)
    run(recipe, folder, data=data, seed=seed, progress=status, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.table1", description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=Path("runs/table1"), help="folder of the runs and the table")
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
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    arguments = parser.parse_args(argv)
    use_style()
    try:
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
        figure = picture(rows)
        paths = [*save_figure(figure, arguments.results, "table1"), save_table(rows, arguments.results, "table1")]
        plt.close(figure)
        paths.append(arguments.results / "table1.md")
        with atomic_write(paths[-1]) as file:
            file.write(markdown(rows).encode())
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(rows))
    print("table and numbers:", *paths, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
