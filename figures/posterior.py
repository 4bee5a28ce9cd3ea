"""Does the local posterior generalise better than its centre?  Test errors within d of the minima of Fig. 1.

``python -m figures.posterior`` measures the stored minima of Fig. 1's quick preset by belief propagation, expectation
propagation and, the first of each algorithm, Monte Carlo; it keeps the errors and draws; a second call only draws.
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
from matplotlib.lines import Line2D

from figures.draw.style import LOOKS, add_letters
from figures.draw.tables import mean_and_error, signed, with_note
from figures.measure.posterior import DELTAS, N_SAMPLES, Measured, measure
from figures.program import Output, run_program

RESULTS = Path(__file__).with_name("results")
NEAR, FAR = 2, 5  # of `DELTAS`, in the table
RULES = {"gibbs": "Gibbs", "bayes": "Bayes"}
NOTE = """Test errors in percent, means ± standard errors over restarts; Gibbs is the mean error of a w' of the local
posterior at distance d, Bayes that of the majority of all of them, by expectation propagation.  Differences are paired
by restart."""
CHECK_NOTE = """Test errors in percent around the first minimum of each algorithm by Monte Carlo, with standard errors,
and how far the others are from them; dashes where its chains do not agree."""


def draw(measured: Sequence[Measured]) -> Figure:
    """One column per algorithm: Gibbs and Bayes error against d, the plain test error above the balanced one."""
    figure, rows = plt.subplots(2, len(measured), figsize=(7.4, 3.8), sharex=True, sharey="row")
    for column, one in zip(rows.T, measured, strict=True):
        protocol = one.minima.protocol
        color = LOOKS[protocol.name].color
        for axes, kind in zip(column, ("", "_balanced"), strict=True):
            centre = 100 * np.mean(getattr(one.minima, f"test_error{kind}"))
            axes.axhline(centre, color="0.4", linewidth=0.8, linestyle=":")
            for method, width in (("bp", 0.6), ("ep", 1.5)):
                errors = one.errors[method]
                for rule, linestyle in (("gibbs", "-"), ("bayes", "--")):
                    mean = 100 * np.mean(getattr(errors, rule + kind), axis=0)
                    x = np.mean(errors.distance, axis=0)
                    axes.plot(x, mean, color=color, linestyle=linestyle, linewidth=width)
            axes.set_xscale("log")
        column[0].set_title(protocol.label, loc="center", fontsize="small")
        column[1].set_xlabel(r"squared distance $d$")
    rows[0, 0].set_ylabel("test error (%)")
    rows[1, 0].set_ylabel("balanced (%)")
    add_letters(rows[:, 0])
    looks = {
        "centre": {"linestyle": ":", "linewidth": 0.8},
        "Gibbs, EP": {"linestyle": "-", "linewidth": 1.5},
        "Bayes, EP": {"linestyle": "--", "linewidth": 1.5},
        "Gibbs, BP": {"linestyle": "-", "linewidth": 0.6},
        "Bayes, BP": {"linestyle": "--", "linewidth": 0.6},
    }
    handles = [Line2D([], [], color="0.3", label=label, **look) for label, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def table(measured: Sequence[Measured]) -> Iterator[tuple]:
    """Every number, after the names of the columns."""
    names = ("distance", "gibbs", "gibbs_std_error", "bayes", "bayes_std_error", "gibbs_balanced", "bayes_balanced")
    yield "protocol", "method", "restart", "centre", "centre_balanced", "delta", *names, "overlap"
    for one in measured:
        minima = one.minima
        for method, errors in one.errors.items():
            for r in range(len(errors.reference)):
                centre = f"{minima.test_error[r]:.6g}", f"{minima.test_error_balanced[r]:.6g}"
                for i, delta in enumerate(errors.delta):
                    values = (f"{getattr(errors, name)[r, i]:.6g}" for name in (*names, "overlap"))
                    yield minima.protocol.name, method, minima.restart[r], *centre, f"{delta:.6g}", *values


def report(measured: Sequence[Measured]) -> str:
    """Both tables: what the posteriors give, and how the methods agree."""
    near, far = (f"{DELTAS[i] / 2:g}" for i in (NEAR, FAR))
    rules = [f"{label}, d = {d}" for d in (near, far) for label in RULES.values()]
    rows = [("algorithm", "centre", *rules, f"Bayes − centre, d = {far}", f"Bayes − centre, balanced, d = {far}")]
    for one in measured:
        minima, errors = one.minima, one.errors["ep"]
        cells = [mean_and_error(100 * getattr(errors, rule)[:, i]) for i in (NEAR, FAR) for rule in RULES]
        gain = mean_and_error(100 * (errors.bayes[:, FAR] - minima.test_error))
        balanced = mean_and_error(100 * (errors.bayes_balanced[:, FAR] - minima.test_error_balanced))
        rows.append((minima.protocol.label, mean_and_error(100 * minima.test_error), *cells, gain, balanced))
    return with_note(rows, NOTE) + "\n" + with_note(list(_checks(measured)), CHECK_NOTE)


def _checks(measured: Sequence[Measured]) -> Iterator[tuple]:
    """Rows of Monte Carlo beside the two other methods, at the Δ where it was done."""
    yield "algorithm", "d", *(f"{rule}, {what}" for rule in RULES.values() for what in ("Monte Carlo", "EP", "BP"))
    for one in measured:
        sampled = one.errors["mcmc"]
        places = np.searchsorted(DELTAS, sampled.delta)
        for i, delta in enumerate(sampled.delta):
            cells = []
            for rule in RULES:
                value, error = (100 * getattr(sampled, name)[0, i] for name in (rule, f"{rule}_std_error"))
                cells.append(f"{value:.2f} ± {error:.2f}" if np.isfinite(value) else "—")
                for method in ("ep", "bp"):
                    cells.append(signed(100 * getattr(one.errors[method], rule)[0, places[i]] - value))
            yield one.minima.protocol.label, f"{delta / 2:g}", *cells


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument("--minima", type=Path, default=RESULTS / "fig1-quick", help="folder of trained minima")
    parser.add_argument("--results", type=Path, default=RESULTS / "posterior", help="folder of errors and pictures")
    parser.add_argument(
        "--n-samples", type=int, default=N_SAMPLES, help=f"sweeps of a new Monte Carlo chain (default: {N_SAMPLES})"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of what is measured")


def make(arguments: argparse.Namespace) -> Output:
    """Measure what is missing, and draw."""
    measured = measure(arguments.minima, arguments.results, n_samples=arguments.n_samples, n_jobs=arguments.jobs)
    return Output(arguments.results, table(measured), draw(measured), report(measured))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("posterior", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
