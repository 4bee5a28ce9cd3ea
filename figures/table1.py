"""Table 1: test errors of the baseline, rSGD, eSGD and rSGD×y, from saved runs, beside the paper's numbers.

`python -m figures.table1` draws the table from the runs in a folder; with ``--run ROW`` it first trains what is missing
there, one process per run and one thread per process, and goes on with what was cut off. The table says of every cell
how many runs, which scale, images, precision and revision it rests on; a second table says what wins, loses and cannot
be told.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bpflat.arguments import check_count
from bpflat.parallel import over_processes
from figures.draw.tables import comparison_rows, draw_tables, markdown, plus_minus, with_note
from figures.measure.deep_runs import Cell, cells, compare, load_runs
from figures.measure.published import N_RUNS, TABLE1
from figures.program import Output, add_runs_option, run_program
from training.deep import run
from training.deep.flatness import add_flatness_options, flatness_plan
from training.deep.recipes import COLUMNS, LABELS, RECIPES, find_recipe
from training.deep.training import BFLOAT16, KEEP_CONTRACTION
from training.progress import StatusLine


def table(measured: Sequence[Cell]) -> Iterator[tuple]:
    """The table, after the names of its columns: ours, the paper's, and what was run."""
    yield (
        *(
            "network",
            "algorithm",
            "test error (%)",
            "paper (%)",
            "seeds",
            "epochs",
            "of the paper's",
            "passes",
            "images",
        ),
        *("precision", "wall time (h)", "revision", "departures from the recipe"),
    )
    for cell in measured:
        hours, whole = cell.hours
        yield (
            cell.row,
            LABELS[cell.column],
            plus_minus(cell.test_error),
            plus_minus(TABLE1[cell.row][cell.column]),
            len(cell.runs),
            cell.epochs,
            f"{100 * cell.scale:.3g} %",
            cell.passes,
            cell.n_train,
            cell.precision,
            f"{'' if whole else '> '}{hours:.2g}",
            cell.revisions,
            "; ".join(cell.departures),
        )


NOTE = f"""Test error of the centre after the last epoch, mean ± standard deviation over seeds, beside the paper's.
Differences of means with 95 % intervals by Welch's t; where one is a single run, by Student's with the variance of the
other. They are not corrected for their number. The paper's deviations are taken to be over {N_RUNS} runs, as those of
Fig. 2 are, and only cells trained on all images for 100 % of the epochs by the recipe, however its conventions are
read, are compared with its numbers. Wall time: of one run with its evaluations, epochs that were lost in an
interruption counted once; ">": of its minibatches alone, in files that say no more. γ × a factor: rescaled, so that
runs of fewer steps are pulled together as far. Statistics of BatchNorm are running ones, of rSGD their mean over the
replicas. The test set of Tiny ImageNet is the published validation set."""


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
    check_count("seeds", seeds, at_most=1000)
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
    parser.add_argument("--stop-loss", type=float, metavar="NATS", help="end runs when the training loss is lower")
    parser.add_argument("--bfloat16", action="store_true", help=BFLOAT16)
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
            stop_loss=arguments.stop_loss,
            bfloat16=arguments.bfloat16,
            device=arguments.device,
        )
    measured = cells(load_runs(arguments.results, "**/*-seed*.npz"))
    if not measured:
        raise ValueError(f"no saved runs in {arguments.results}; train some with --run ROW")
    rows, compared = list(table(measured)), comparison_rows(list(compare(measured, TABLE1)))
    tables = [rows, compared] if len(compared) > 1 else [rows]
    text = "\n".join([*map(markdown, tables[:-1]), with_note(tables[-1], NOTE)])
    return Output(arguments.results, rows, draw_tables(tables, NOTE), text)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("table1", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
