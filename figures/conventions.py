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

from figures.experiment import N_TRAIN, add_size_options, sizes_from
from figures.panels import save_table, save_text
from figures.statistics import mean_interval, paired_difference
from figures.study import OUTER_STEPS, PULLS, QUANTITIES, READINGS, RESULTS, Draw, collect, over_draws
from figures.summary import interval_text, markdown
from training.protocols import Protocol
from training.workers import SweepError


def columns_of(protocol: Protocol) -> list[str]:
    """Algorithm, gradient, start, pull (of eSGD the outer step), as a table has them."""
    if protocol.algorithm == "rsgd":
        return [protocol.label, protocol.reduction, protocol.start, PULLS[protocol.pull]]
    step = OUTER_STEPS[protocol.outer_step] if protocol.algorithm == "esgd" else "—"
    return [protocol.label, protocol.reduction, "—", step]


def summary_table(draws: Mapping[str, Sequence[Draw]], names: Sequence[str]) -> str:
    """How each reading ends, and every quantity with its interval, in Markdown."""
    head = [
        "patterns",
        "algorithm",
        "gradient",
        "start",
        "pull or step",
        "draws",
        "ended by rule",
        "zero errors",
        "epochs",
        "errors left, %",
    ]
    rows = [[*head, *(label for label, _ in QUANTITIES.values())]]
    for sampling, its in draws.items():
        for name in names:
            ended, errors, epochs = (
                np.concatenate([getattr(d, column)[d.reading == name] for d in its])
                for column in ("ended", "train_error", "epochs")
            )
            rows.append(
                [
                    sampling,
                    *columns_of(READINGS[name]),
                    str(len(over_draws(its, "overlap", name))),
                    f"{np.count_nonzero(ended)}/{len(ended)}",
                    f"{np.count_nonzero(errors == 0)}/{len(errors)}",
                    f"{epochs.min():,}–{epochs.max():,}",
                    f"{100 * errors.mean():.2f}",
                    *(interval_text(mean_interval(over_draws(its, quantity, name))) for quantity in QUANTITIES),
                ]
            )
    return markdown(rows)


def contrast_table(draws: Mapping[str, Sequence[Draw]], names: Sequence[str]) -> str:
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
    for sampling, its in draws.items():
        for slow in names:
            fast = slow.replace("rsgd-slow", "rsgd-fast")
            if not slow.startswith("rsgd-slow") or READINGS[slow].reduction == "mean" or fast not in names:
                continue
            flatter = [
                np.count_nonzero(sign * (over_draws(its, q, slow) - over_draws(its, q, fast)) > 0)
                for q, sign in (("phi_far", 1), ("delta_error", -1))
            ]
            rows.append(
                [
                    sampling,
                    *columns_of(READINGS[slow])[2:],
                    *(f"{n} of {len(over_draws(its, 'overlap', slow))} draws" for n in flatter),
                    *(
                        interval_text(paired_difference(*(over_draws(its, q, r)[:, None] for r in (slow, fast))))
                        for q in ("test_error", "test_error_balanced")
                    ),
                ]
            )
    return markdown(rows)


def report(draws: Mapping[str, Sequence[Draw]], names: Sequence[str], sizes: Mapping[str, int]) -> str:
    """Both tables and how they are to be read, in Markdown."""
    n = len(draws["natural"])
    capped = f", at most {sizes['max_epochs']} epochs" if sizes["max_epochs"] else ""
    return f"""{n} natural and {n} balanced draws of {sizes["n_train"]} patterns, {sizes["restarts"]} restarts each;
schedules of the paper's Appendix B.1{capped}.  Means over draws, 95 % intervals (Student's t over draws).
Φ by belief propagation, of all minima: of one that makes errors, the log fraction of weights that make no more.

{summary_table(draws, names)}
rSGD slow minus rSGD fast, paired over draws:

{contrast_table(draws, names)}"""


def rows_of(draws: Mapping[str, Sequence[Draw]]):
    """Rows of every number."""
    names = [field.name for field in fields(Draw)][:-2]
    yield "patterns", "draw", *names
    for sampling, its in draws.items():
        for at, one in enumerate(its):
            for row in zip(*(getattr(one, name).tolist() for name in names), strict=True):
                yield sampling, at, *(f"{v:.9g}" if isinstance(v, float) else v for v in row)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m figures.conventions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draws", type=int, default=10, help="of natural and of balanced patterns (default: 10)")
    parser.add_argument(
        "--readings", nargs="+", metavar="NAME", choices=READINGS, default=list(READINGS), help=", ".join(READINGS)
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of measures and tables")
    parser.add_argument("--runs", type=Path, default=Path("runs/conventions"), help="folder of the trained minima")
    add_size_options(parser)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args(argv)
    if arguments.draws < 2:
        parser.error("--draws must be at least 2: nothing differs between draws otherwise")
    sizes = {"restarts": 3, "n_train": N_TRAIN, "max_epochs": None}
    sizes |= {name: size for name, size in sizes_from(arguments).items() if size is not None}
    try:
        names = arguments.readings
        draws = collect(arguments.results, arguments.runs, names, arguments.draws, sizes=sizes, n_jobs=arguments.jobs)
        text = report(draws, names, sizes)
        paths = [
            save_table(rows_of(draws), arguments.results, "conventions"),
            save_text(text, arguments.results / "conventions.md"),
        ]
    except (ValueError, OSError, SweepError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    print("numbers:", *paths, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
