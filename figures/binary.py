"""Fig. 1 for weights ±1: local entropy, local energy and test error of what three solvers find.

``python -m figures.binary`` solves the reduced Fashion-MNIST by focusing belief propagation, decimation guided by
belief propagation and SGD on rounded weights, measures around the solutions what is not stored yet, and draws; a second
call only draws.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from figures.draw import panels
from figures.draw.tables import correlation_text, difference_text, mean_and_error, signed, with_note
from figures.measure.binary import DISTANCES, FLIPS, SAMPLED, BinarySeries, Plan, measure
from figures.measure.experiment import BANDS
from figures.measure.statistics import INTERVAL, Sample, centred_ranks, correlate, difference
from figures.program import Output, run_program

RESULTS = Path(__file__).with_name("results") / "binary"
NOISE = 0.05  # flip probability of δE in the tables
NOTE = """Means ± standard errors over the restarts that make no training error, K = {K} and P = {P}; Φ in nats per
weight at Hamming distances, by belief propagation and by Monte Carlo (MC), and δE at a flip probability."""
CORRELATION_NOTE = f"""Spearman's coefficients over these machines, with bootstrap intervals ({INTERVAL}; restarts
resampled within each solver) and p-values as if machines were independent; last column: ranks within each solver."""
DIFFERENCE_NOTE = """Differences of means with 95 % intervals (Welch's), restarts of two solvers being independent."""
CHECK_NOTE = """10⁵ Φ around the first machine of each solver by Monte Carlo at two couplings, with standard errors, d
being the distance there, and how far belief propagation is from it at the same couplings."""


def scalars(series: BinarySeries) -> dict[str, NDArray[np.float64]]:
    """What the tables tell of each restart, (R,), after the heads of their columns."""
    phi = {
        f"10⁵ Φ({d:g}), {method}": 1e5 * values[:, i]
        for method, values in (("BP", series.entropy.phi[:, SAMPLED]), ("MC", series.sampled.phi))
        for i, d in enumerate(DISTANCES[SAMPLED])
    }
    return phi | {
        f"δE({NOISE:g}), %": 100 * series.energy.delta_error[:, np.flatnonzero(NOISE == FLIPS)[0]],
        "test error, %": 100 * series.minima.test_error,
        "balanced, %": 100 * series.minima.test_error_balanced,
    }


def report(series: Sequence[BinarySeries], restarts: int) -> str:
    """The tables of what so many restarts of each solver found: means, differences, correlations and a check of BP."""
    columns = [scalars(one) for one in series]
    rows: list[tuple] = [("solver", "zero errors", "steps", *columns[0])]
    for one, values in zip(series, columns, strict=True):
        solved = f"{len(one.minima.restart)}/{restarts}"
        rows.append((one.label, solved, mean_and_error(one.minima.steps), *map(mean_and_error, values.values())))
    differences: list[tuple] = [("difference", *columns[0])]
    for (first, of_first), (second, of_second) in combinations(zip(series, columns, strict=True), 2):
        pairs = (difference(*map(_sample, pair)) for pair in zip(of_second.values(), of_first.values(), strict=True))
        cells = map(difference_text, pairs)
        differences.append((f"{second.label} − {first.label}", *cells))
    minima = series[0].minima
    tables = (
        (rows, NOTE.format(K=minima.weights.shape[1], P=minima.n_train)),
        (differences, DIFFERENCE_NOTE),
        (list(_correlations(series)), CORRELATION_NOTE),
        (list(_checks(series)), CHECK_NOTE),
    )
    return "\n".join(with_note(rows, note) for rows, note in tables)


def _correlations(series: Sequence[BinarySeries], seed: int = 0) -> Iterator[tuple]:
    """Rows of correlations of each measure of flatness with the test error."""
    yield "measure", "with the test error", "with it, within a solver"
    columns = [scalars(one) for one in series]
    solver = np.repeat([one.name for one in series], [len(one.minima.restart) for one in series])
    *measures, test, _ = columns[0]
    rng = np.random.default_rng(seed)
    for name in measures:
        x, y = (np.concatenate([values[quantity] for values in columns]) for quantity in (name, test))
        known = np.isfinite(x)
        x, y, groups = x[known], y[known], solver[known]
        ranks = centred_ranks(x, groups), centred_ranks(y, groups)
        both = ((x, y), "spearman"), (ranks, "pearson")
        yield name, *(correlation_text(correlate(*pair, groups, kind=kind, rng=rng)) for pair, kind in both)


def _sample(values: NDArray[np.float64]) -> Sample:
    return Sample.of(values[np.isfinite(values)])


def _checks(series: Sequence[BinarySeries]) -> Iterator[tuple]:
    """Rows of Monte Carlo beside belief propagation."""
    yield "solver", "d", "Monte Carlo", "BP", "BP − Monte Carlo"
    for one in series:
        points = *_monte_carlo(one), one.entropy.phi[:, SAMPLED]
        for d, *phi in zip(*(each[0] for each in points), strict=True):
            value, error, by_bp = (1e5 * each for each in phi)
            numbers = f"{value:.2f} ± {error:.2f}", f"{by_bp:.2f}"
            cells = (number.replace("-", "−") if "nan" not in number else "—" for number in numbers)
            yield one.label, f"{d:.4f}", *cells, signed(by_bp - value)


def table(series: Sequence[BinarySeries]) -> Iterator[tuple]:
    """Every plotted number, and Monte Carlo's, after the names of the columns."""
    yield from panels.table(series)
    for one in series:
        for restart, *points in zip(one.minima.restart, *_monte_carlo(one), strict=True):
            for d, *point in zip(*points, strict=True):
                for what, value in zip(("phi", "std_error"), point, strict=True):
                    yield "local entropy", one.name, f"Monte Carlo, {what}", restart, f"{d:.6g}", f"{value:.9g}"


def _monte_carlo(series: BinarySeries) -> tuple[NDArray[np.float64], ...]:
    """Distances, Φ and standard errors (R, D) by Monte Carlo."""
    return series.sampled.distance, series.sampled.phi, series.sampled.std_error


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of solutions, measures and pictures")
    plan = Plan()
    for name, what in (
        ("restarts", "machines of each solver"),
        ("n_hidden", "hidden units K"),
        ("n_train", "training patterns"),
        ("n_samples", "sweeps of a new Monte Carlo chain"),
    ):
        default = getattr(plan, name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")


def make(arguments: argparse.Namespace) -> Output:
    """Solve and measure what is missing, and draw."""
    plan = Plan(**{f.name: getattr(arguments, f.name) for f in fields(Plan)})
    series = [one.solved() for one in measure(arguments.results, plan, n_jobs=arguments.jobs)]
    solved = ", ".join(f"{one.label}: {len(one.minima.restart)}" for one in series)
    size = f"K = {plan.n_hidden} on {plan.n_train:,} patterns"
    note = f"{size}; restarts of {plan.restarts} that make no error — {solved}.  {BANDS}"
    figure = panels.draw(series, note, distance="Hamming distance", noise="flip probability $p$")
    return Output(arguments.results, table(series), figure, report(series, plan.restarts))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("binary", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
