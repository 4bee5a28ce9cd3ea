"""How far belief propagation is off: Φ_LE of one minimum of each algorithm by BP, EP and Monte Carlo.

``python -m figures.estimators`` measures the first minimum of each protocol among the stored results of Fig. 1's quick
preset, keeps the curves, and draws; a second call only draws.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import bpflat
from bpflat import LocalEntropyCurve
from figures.draw.style import LOOKS, add_letters
from figures.measure.measures import problem_of, stored, trained_minima, weights_of
from figures.program import Output, run_program
from training.committee.protocols import PROTOCOLS
from training.committee.results import TrainedMinima

RESULTS = Path(__file__).with_name("results")
DISTANCES = np.array([0.005, 0.01, 0.025, 0.05, 0.1, 0.15])
METHODS = {"bp": "belief propagation", "ep": "expectation propagation", "mcmc": "Monte Carlo"}
N_SAMPLES = 6000

Curves = dict[str, dict[str, LocalEntropyCurve]]  # by protocol and method


def measure(minima: Path, folder: Path, *, n_samples: int = N_SAMPLES, n_jobs: int) -> Curves:
    """Read the curves of every protocol and method from `folder`, or compute and store them.

    Parameters
    ----------
    minima : Path
        Folder of the trained minima; the first restart of each protocol is used.
    folder : Path
    n_samples : int
        Sweeps of a Monte Carlo chain.
    n_jobs : int
        Processes of the Monte Carlo chains.

    Raises
    ------
    FileNotFoundError
        When minima are not stored: nothing is trained here.
    ValueError
        When minima were stored without weights, or a file is damaged.
    OSError
        When `folder` cannot be written.
    """
    curves: Curves = {}
    for trained in trained_minima(minima):
        name = trained.protocol.name
        curves[name] = {}
        for method in METHODS:
            options = {"seed": 0, "n_samples": n_samples, "n_jobs": n_jobs} if method == "mcmc" else {}
            path, compute = folder / f"{name}-{method}.npz", partial(_curve, trained, method, **options)
            curves[name][method] = stored(path, LocalEntropyCurve, trained.reference[:1], compute)
    return curves


def _curve(trained: TrainedMinima, method: str, **options: int) -> LocalEntropyCurve:
    """Φ around the first restart at `DISTANCES`."""
    print(f"{trained.protocol.name}: {METHODS[method]}", file=sys.stderr, flush=True)
    weights = weights_of(trained)[:1]
    return bpflat.local_entropy(weights, *problem_of(trained.data), distances=DISTANCES, method=method, **options)


def draw(curves: Curves) -> Figure:
    """Φ by all methods (left), and Φ by BP and EP over that by Monte Carlo (right)."""
    figure, (values, ratios) = plt.subplots(1, 2, figsize=(7.0, 3.1))
    for name, by_method in curves.items():
        color, marker, _ = LOOKS[name]
        sampled = by_method["mcmc"]
        x, phi, error = sampled.distance[0], sampled.phi[0], sampled.std_error[0]
        values.errorbar(x, phi, 2 * error, color=color, marker=marker, linestyle="none", capsize=2, elinewidth=0.8)
        known = np.abs(phi) > 5 * error  # elsewhere a ratio says nothing
        for method, linestyle in (("bp", "--"), ("ep", "-")):
            curve = by_method[method]
            values.plot(curve.distance[0], curve.phi[0], color=color, linestyle=linestyle)
            ratio = curve.phi[0] / phi
            ratios.errorbar(
                x[known],
                ratio[known],
                2 * np.abs(ratio * error / phi)[known],
                color=color,
                marker=marker,
                linestyle=linestyle,
                capsize=2,
                elinewidth=0.8,
            )
    values.set_yscale("symlog", linthresh=1e-7, linscale=0.5)
    values.set_yticks([0, *(-(10.0**n) for n in range(-7, -1))])
    values.set(ylabel=r"local entropy $\Phi_{\mathrm{LE}}$ (nats/weight)")
    ratios.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    ratios.set(ylabel=r"$\Phi_{\mathrm{LE}}$ over that of Monte Carlo")
    for axes in (values, ratios):
        axes.set(
            xlabel=r"squared distance $d$", xscale="log", xticks=DISTANCES, xticklabels=[f"{d:g}" for d in DISTANCES]
        )
        axes.minorticks_off()
    add_letters((values, ratios))
    by_method = [
        Line2D([], [], color="0.3", linestyle="--", label="BP"),
        Line2D([], [], color="0.3", linestyle="-", label="EP"),
        Line2D([], [], color="0.3", linestyle="none", marker="o", label="Monte Carlo ± 2 s.e."),
    ]
    algorithms = [
        Line2D([], [], color=LOOKS[n].color, marker=LOOKS[n].marker, label=PROTOCOLS[n].label) for n in curves
    ]
    figure.legend(handles=[*algorithms, *by_method], loc="outside lower center", ncols=8, columnspacing=1.0, fontsize=6)
    return figure


def table(curves: Curves) -> Iterator[tuple]:
    """Rows of every plotted number."""
    yield "protocol", "method", "distance", "delta", "phi", "std_error", "converged"
    for name, by_method in curves.items():
        for method, curve in by_method.items():
            for row in zip(curve.distance, curve.delta, curve.phi, curve.std_error, curve.converged, strict=True):
                for d, delta, phi, error, converged in zip(*row, strict=True):
                    yield name, method, f"{d:.6g}", f"{delta:.6g}", f"{phi:.9g}", f"{error:.3g}", bool(converged)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument("--minima", type=Path, default=RESULTS / "fig1-quick", help="folder of trained minima")
    parser.add_argument("--results", type=Path, default=RESULTS / "estimators", help="folder of curves and pictures")
    parser.add_argument(
        "--n-samples", type=int, default=N_SAMPLES, help=f"sweeps of a new Monte Carlo chain (default: {N_SAMPLES})"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes of the Monte Carlo chains")


def make(arguments: argparse.Namespace) -> Output:
    """Measure what is missing, and draw."""
    curves = measure(arguments.minima, arguments.results, n_samples=arguments.n_samples, n_jobs=arguments.jobs)
    return Output(arguments.results, table(curves), draw(curves))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("estimators", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
