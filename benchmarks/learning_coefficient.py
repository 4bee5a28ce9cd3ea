"""The learning coefficient λ̂(β) against exact values, and beside the samplers of devinterp: error and cost.

``python -m benchmarks.learning_coefficient`` prints, for normal crossings and a committee machine of tanh units,
whose λ̂(β) is known, the root-mean-square error of independent runs, what a run spends (passes forward and backward
over all patterns, and seconds of one thread of the processor), and their mean:

- `bpflat.flatness.local_entropy` as it comes, whose mean must agree with the exact value;
- SGLD of devinterp as its README sets it (4 chains of 200 steps of ε = 0.001, and no burn-in);
- SGLD, RMSprop-SGLD and SGNHT of devinterp with the step of the least error, for which the exact value must be known:
  4 chains of 5,000 steps, the first fifth left out, which cost about what bpflat spends if a backward pass costs two.

All sample the same measure, ``e^{-nβL}`` times the prior N(w, σ²), a localisation γ = 1/σ² in devinterp's terms.

devinterp is no dependency: ``pip install devinterp``, best in an environment of its own.  Without it bpflat's side is
measured.  ``--results FOLDER`` stores all runs and the table; rows of devinterp that are there already are kept where
it is not installed.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.langevin import NAMES, Length, Sampler, estimates, seconds_of_step, tuned
from benchmarks.solvable import Case, by_importance, committee, crossing, half_square, of_crossing
from bpflat import LocalEntropyCurve
from bpflat.flatness import local_entropy
from bpflat.provenance import git_revision
from figures.draw.tables import with_note

RUNS, THEIR_RUNS = 8, 32  # theirs are made at once, and settings are chosen by their errors
OURS, THEIRS = "bpflat", "devinterp"
AS_IN_README = Sampler("SGLD", 1e-3), Length(4, 200, 0)
LENGTH = Length(4, 5000, 1000)
NAME = "learning_coefficient"


@dataclass(frozen=True)
class Row:
    """One run."""

    problem: str
    exact: float
    exact_error: float
    package: str
    sampler: str
    made_by: str  # versions
    run: int
    estimate: float
    std_error: float  # as stated; NaN where none is
    forward: float
    backward: float
    seconds: float


def cases() -> Iterator[tuple[Case, tuple[float, float]]]:
    """What is measured, each with the exact value and its standard error."""
    for k, beta in (([1], 1e3), ([1, 1], 1e2), ([1, 2], 1e7)):
        case = crossing(k, beta)
        yield case, of_crossing(case)
    case = committee(31, 60, 0.3, 10.0)
    yield case, by_importance(case, 200_000)


def measured(case: Case, exact: tuple[float, float], n_runs: int = RUNS) -> list[Row]:
    """Runs of `local_entropy`, NaN where one did not converge; raises AssertionError where their mean is off."""
    rows, made_by = [], f"bpflat {git_revision()}, torch {torch.__version__}"
    for run in range(n_runs):
        start = time.process_time()
        curve = curve_of(case, seed=run)
        seconds = time.process_time() - start
        found = float(curve.learning_coefficient[0]), float(curve.learning_coefficient_error[0])
        assert bool(curve.converged[0]) == np.isfinite(found[0])
        rows.append(Row(case.name, *exact, OURS, "", made_by, run, *found, float(curve.passes[0]), 0.0, seconds))
    values, errors = np.array([(row.estimate, row.std_error) for row in rows if np.isfinite(row.estimate)]).T
    deviation = (values.mean() - exact[0]) / np.hypot(np.sqrt(np.sum(errors**2)) / len(errors), exact[1])
    assert abs(deviation) < 5, f"{case.name}: λ̂ is {deviation:+.1f} standard errors off"
    return rows


def curve_of(case: Case, seed: int) -> LocalEntropyCurve:
    """The call that is timed."""
    return local_entropy(
        case.model,
        case.data,
        [case.sigma],
        scale="isotropic",
        beta=case.beta,
        loss=half_square,
        forward=lambda model, batch: model(batch[0]),
        seed=seed,
    )


def measured_of_devinterp(case: Case, exact: tuple[float, float], n_runs: int = THEIR_RUNS) -> list[Row]:
    """Runs of devinterp's samplers, as its README sets them and tuned."""

    def run(sampler: Sampler, shorter: int) -> NDArray[np.float64]:
        return estimates(case, sampler, LENGTH // shorter, n_runs, seed=1)

    rows, made_by = [], f"devinterp {importlib.metadata.version(THEIRS)}, torch {torch.__version__}"
    for sampler, length in (AS_IN_README, *((tuned(name, run, exact[0]), LENGTH) for name in NAMES)):
        values = estimates(case, sampler, length, n_runs, seed=2)  # other random numbers than those of the tuning
        seconds = length.n_steps * seconds_of_step(case, sampler, length.n_chains)
        gradients = float(length.n_chains * length.n_steps)
        name = f"{sampler} (its README)" if length != LENGTH else str(sampler)
        rows += [
            Row(case.name, *exact, THEIRS, name, made_by, i, value, np.nan, gradients, gradients, seconds)
            for i, value in enumerate(values.tolist())
        ]
    return rows


def table(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """A line for each problem and sampler, after the heads of the columns."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.problem, f"{row.package} {row.sampler}".strip()), []).append(row)
    lines = [("problem", "exact λ̂", "sampler", "mean λ̂", "r.m.s. error, %", "forward", "backward", "seconds")]
    for (problem, sampler), group in groups.items():
        exact, exact_error = group[0].exact, group[0].exact_error
        values = np.array([row.estimate for row in group])
        values = values[np.isfinite(values)]
        spent = np.mean([(row.forward, row.backward, row.seconds) for row in group], axis=0)
        lines.append(
            (
                problem,
                f"{exact:.4f}" if not exact_error else f"{exact:.3f} ± {exact_error:.3f}",
                sampler if len(values) == len(group) else f"{sampler}; {len(values)} of {len(group)} runs",
                *(accuracy(values, exact) if len(values) > 1 else ("—", "—")),
                *(f"{passes:,.0f}" for passes in spent[:2]),
                f"{spent[2]:.1f}",
            )
        )
    return lines


def accuracy(values: NDArray, exact: float) -> tuple[str, str]:
    """Mean and relative root-mean-square error of runs, each with its standard error."""
    squares, n = (100 * (values / exact - 1)) ** 2, len(values)
    root = np.sqrt(squares.mean())
    error = np.std(squares, ddof=1) / n**0.5 / (2 * root)
    return f"{values.mean():.3f} ± {np.std(values, ddof=1) / n**0.5:.3f}", f"{root:.1f} ± {error:.1f}"


def text(rows: Sequence[Row]) -> str:
    """The table in Markdown, and what it rests on."""
    runs = {row.package: row.run + 1 for row in rows}
    note = (
        f"Means and errors over runs ({', '.join(f'{n} of {package}' for package, n in runs.items())}), ± one standard "
        "error. Passes go over all "
        "patterns; seconds are of one thread of the processor. Settings of devinterp but for those of its README are "
        "those of the least error, found from other runs by the exact value. "
        f"{'; '.join(dict.fromkeys(row.made_by for row in rows if row.package == THEIRS))}."
    )
    return with_note(table(rows), note)


def read(path: Path) -> list[Row]:
    """Rows that were stored."""
    kinds = [str if field.type == "str" else int if field.type == "int" else float for field in fields(Row)]
    with open(path, encoding="utf-8", newline="") as file:
        return [
            Row(*(kind(cell) for kind, cell in zip(kinds, line.values(), strict=True))) for line in csv.DictReader(file)
        ]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Store rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([[field.name for field in fields(Row)], *map(astuple, rows)])


def main(arguments: Sequence[str] = ()) -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning_coefficient", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where runs and table are stored")
    folder = parser.parse_args(arguments).results
    torch.set_num_threads(1)
    stored = folder / f"{NAME}.csv" if folder else None
    is_here = importlib.util.find_spec(THEIRS) is not None
    known = [row for row in read(stored) if row.package != OURS] if stored and stored.exists() and not is_here else []
    if not is_here:
        print("devinterp is not installed (pip install devinterp): " + ("its stored runs" if known else "bpflat alone"))
    rows: list[Row] = []
    for case, exact in cases():
        theirs = measured_of_devinterp(case, exact) if is_here else [row for row in known if row.problem == case.name]
        found = [*measured(case, exact), *theirs]
        print("\n".join(" | ".join(line) for line in table(found)), flush=True)
        rows += found
        if stored:
            write(stored, rows)
            stored.with_suffix(".md").write_text(text(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
