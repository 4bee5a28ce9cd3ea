"""What the conventions decide that the paper leaves open: gradient, start and pull of the replicas, eSGD's outer step.

``python -m figures.conventions`` trains SGD, rSGD and eSGD by every reading of their conventions, at the paper's full
schedules: three restarts of each on ten natural and ten balanced draws of 500 patterns.  Φ counts the weights that
make no more errors than a minimum, so that minima with errors are measured too.  What is there already is not computed
again; a draw that was cut off goes on where it was.  Intervals are Student's t over draws, which are independent.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from figures.draw.tables import comparison_cells, interval_text, markdown
from figures.measure.experiment import Preset
from figures.measure.statistics import mean_interval
from figures.measure.study import (
    OUTER_STEPS,
    PULLS,
    QUANTITIES,
    READINGS,
    RESULTS,
    STUDY,
    Draw,
    collect,
    of,
    over_draws,
)
from figures.program import Output, add_size_options, run_program, sizes_from
from training.committee.protocols import Protocol

CONVENTIONS = ("algorithm", "gradient", "start", "pull or step")


def conventions_of(protocol: Protocol) -> list[str]:
    """Algorithm, gradient, start, pull (of eSGD the outer step), as a table has them."""
    if protocol.algorithm == "rsgd":
        return [protocol.label, protocol.reduction, protocol.start, PULLS[protocol.pull]]
    step = OUTER_STEPS[protocol.outer_step] if protocol.algorithm == "esgd" else "—"
    return [protocol.label, protocol.reduction, "—", step]


def endings_table(study: Mapping[str, Sequence[Draw]], names: Sequence[str]) -> str:
    """How the restarts of each reading end, in Markdown."""
    head = [
        "patterns",
        *CONVENTIONS,
        "draws",
        "ended by rule",
        "zero errors",
        "epochs",
        "errors left, %",
        "row overlap",
    ]
    rows = [head]
    for sampling, draws in study.items():
        for name in names:
            ended, errors, epochs, overlap = (
                np.concatenate([getattr(d, column)[d.reading == name] for d in draws])
                for column in ("ended", "train_error", "epochs", "overlap")
            )
            rows.append(
                [
                    sampling,
                    *conventions_of(READINGS[name]),
                    str(len(over_draws(draws, "overlap", name))),
                    f"{np.count_nonzero(ended)}/{len(ended)}",
                    f"{np.count_nonzero(errors == 0)}/{len(errors)}",
                    f"{epochs.min():,}–{epochs.max():,}",
                    f"{100 * errors.mean():.2f}",
                    f"{overlap.mean():.2f}".replace("-", "−"),
                ]
            )
    return markdown(rows)


def minima_table(study: Mapping[str, Sequence[Draw]], names: Sequence[str]) -> str:
    """What the minima of each reading are like, every quantity with its interval, in Markdown."""
    rows = [["patterns", *CONVENTIONS, *(label for label, _ in QUANTITIES.values())]]
    for sampling, draws in study.items():
        for name in names:
            intervals = (mean_interval(over_draws(draws, quantity, name)) for quantity in QUANTITIES)
            rows.append([sampling, *conventions_of(READINGS[name]), *map(interval_text, intervals)])
    return markdown(rows)


def contrast_table(study: Mapping[str, Sequence[Draw]], names: Sequence[str]) -> str:
    """Contrast of rSGD slow and rSGD fast for each start and pull (sums), paired over draws, in Markdown."""
    rows = [
        [
            "patterns",
            "start",
            "pull",
            "slow is flatter by Φ(0.25) in",
            "by δE(0.5) in",
            "test error, %",
            "balanced, %",
        ]
    ]
    for sampling, draws in study.items():
        for slow in names:
            fast = slow.replace("rsgd-slow", "rsgd-fast")
            if not slow.startswith("rsgd-slow") or READINGS[slow].reduction == "mean" or fast not in names:
                continue
            pair = ({q: of(draws, q, reading) for q in QUANTITIES} for reading in (slow, fast))
            rows.append([sampling, *conventions_of(READINGS[slow])[2:], *comparison_cells(*pair)])
    return markdown(rows)


def report(study: Mapping[str, Sequence[Draw]], names: Sequence[str], preset: Preset) -> str:
    """All tables and how they are to be read, in Markdown."""
    n = len(study["natural"])
    capped = f", at most {preset.max_epochs} epochs" if preset.max_epochs else ""
    return f"""{n} natural and {n} balanced draws of {preset.n_train} patterns, {preset.restarts} restarts each;
schedules of the paper's Appendix B.1{capped}.

{endings_table(study, names)}
Means over draws, 95 % intervals (Student's t over draws).  Φ by belief propagation; around a minimum with training
errors, of the weights that make no more:

{minima_table(study, names)}
rSGD slow minus rSGD fast, paired over draws:

{contrast_table(study, names)}"""


def rows_of(study: Mapping[str, Sequence[Draw]]):
    """Rows of every number."""
    names = [field.name for field in fields(Draw) if field.name not in ("configuration", "provenance")]
    yield "patterns", "draw", *names
    for sampling, draws in study.items():
        for number, draw in enumerate(draws):
            for row in zip(*(getattr(draw, name).tolist() for name in names), strict=True):
                yield sampling, number, *(f"{v:.9g}" if isinstance(v, float) else v for v in row)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument(
        "--draws", type=int, default=10, help="draws of natural and of balanced patterns each (default: 10)"
    )
    parser.add_argument(
        "--readings", nargs="+", metavar="NAME", choices=READINGS, default=list(READINGS), help=", ".join(READINGS)
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of measures and tables")
    parser.add_argument("--runs", type=Path, default=Path("runs/conventions"), help="folder of the trained minima")
    add_size_options(parser)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")


def make(arguments: argparse.Namespace) -> Output:
    """Train and measure what is missing, and write the tables."""
    preset = STUDY.resized(**sizes_from(arguments))
    results, names = arguments.results, arguments.readings
    study = collect(results, arguments.runs, names, arguments.draws, preset=preset, n_jobs=arguments.jobs)
    return Output(results, rows_of(study), text=report(study, names, preset))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("conventions", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
