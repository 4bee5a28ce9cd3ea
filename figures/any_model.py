"""Local entropy against local energy beyond committee machines.

``python -m figures.any_model`` trains ReLU perceptrons with one and two hidden layers and a small convolutional network
on the patterns of Fig. 1, by SGD, rSGD and eSGD, measures Φ, δE and test error of every minimum where that is not done
yet, then draws: how the measures rank the minima, and what lies between both (``any-model-bridge``).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter
from numpy.typing import NDArray

from figures.draw.style import DEEP_LOOKS, add_letters
from figures.draw.tables import correlation_text, mean_and_error, signed, with_note
from figures.measure.any_model import ARCHITECTURES, PLANS, SCALES, Minimum, Plan, load_minima, measure_missing
from figures.measure.statistics import INTERVAL, Correlation, centred_ranks, correlate
from figures.program import Output, run_program
from training.deep.recipes import LABELS
from training.result_file import json_object

RESULTS = Path(__file__).with_name("results") / "any-model"
NAMES = {"one-layer": "one hidden layer", "two-layer": "two hidden layers", "convolutional": "convolutional"}
MARKERS = dict(zip(NAMES, "osD", strict=True))
NOISES = {"multiplicative": "plain", "filter": "filter scales"}
ALGORITHMS = LABELS | {"baseline": "SGD"}
PHI, DELTA, TEST, BALANCED = "Φ", "δE", "test error", "balanced test error"
PAIRS = ((PHI, DELTA), (PHI, TEST), (DELTA, TEST))
AXIS = {
    PHI: r"$-\Phi_{{\mathrm{{LE}}}}$ at $\sigma = {:g}$ (nats/weight)",
    DELTA: r"local energy $\delta E_{{\mathrm{{train}}}}$ at $\sigma = {:g}$",
    TEST: "test error (%)",
}


def values_of(
    minima: Sequence[Minimum], measure: str, scale: str, s: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A measure of all minima (n,), with the noise of a scale at entry `s` of the σ, and its standard errors."""
    if measure in (PHI, DELTA):
        c, name = SCALES.index(scale), "phi" if measure == PHI else "delta_error"
        return tuple(np.array([getattr(m, n)[c, s] for m in minima]) for n in (name, f"{name}_error"))
    name = "test_error" if measure == TEST else "balanced_error"
    return np.array([getattr(m, name) for m in minima]), np.zeros(len(minima))


def correlation(
    minima: Sequence[Minimum], x: str, y: str, scale: str, s: int, *, kind: str = "spearman", seed: int = 0
) -> Correlation:
    """Rank correlation of two measures over the minima of which both are known, ranks within each architecture."""
    values = np.array([values_of(minima, name, scale, s)[0] for name in (x, y)])
    known = np.isfinite(values).all(axis=0)
    architecture, algorithm = (np.array([getattr(m, n) for m in minima])[known] for n in ("architecture", "algorithm"))
    values = values[:, known]
    if len(set(architecture)) > 1:
        values, kind = [centred_ranks(each, architecture) for each in values], "pearson"
    groups = np.char.add(architecture, algorithm)
    return correlate(*values, groups, kind=kind, rng=np.random.default_rng(seed))


def noise_share(minima: Sequence[Minimum], measure: str, scale: str, s: int) -> float:
    """Fraction of the variance of a measure over minima that its standard errors explain; NaN for fewer than 2."""
    values, errors = values_of(minima, measure, scale, s)
    known = np.isfinite(values)
    if np.count_nonzero(known) < 2:
        return np.nan
    return float(np.mean(errors[known] ** 2) / values[known].var(ddof=1))


def draw(minima: Sequence[Minimum]) -> Figure:
    """Φ against δE and against test error at the largest σ, plain and with filter scales."""
    figure, panels = plt.subplots(2, len(SCALES), figsize=(7.0, 5.8))
    for column, scale in zip(panels.T, SCALES, strict=True):
        for axes, y in zip(column, (DELTA, TEST), strict=True):
            scatter(axes, minima, PHI, y, scale)
    add_letters(panels.flat)
    common = {"linestyle": "none", "color": "0.3", "marker": "o"}
    looks = [(ALGORITHMS[name], {"color": DEEP_LOOKS[name].color}) for name in algorithms_of(minima)]
    looks += [(text, {"marker": MARKERS[name]}) for name, text in names_of(minima).items()]
    handles = [plt.Line2D([], [], label=label, **(common | look)) for label, look in looks]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.5)
    return figure


def scatter(axes: Axes, minima: Sequence[Minimum], x: str, y: str, scale: str) -> None:
    """Draw a point for each minimum of which both measures are known, with standard errors; flatter is further left."""
    s = len(minima[0].sigma) - 1
    for name in architectures_of(minima):
        for algorithm in algorithms_of(minima):
            here = [m for m in minima if (m.architecture, m.algorithm) == (name, algorithm)]
            (a, a_error), (b, b_error) = (values_of(here, measure, scale, s) for measure in (x, y))
            percent = 100 if y == TEST else 1
            options = {"markersize": 3, "markeredgewidth": 0, "elinewidth": 0.5, "alpha": 0.7}
            look = {"color": DEEP_LOOKS[algorithm].color, "marker": MARKERS[name], "linestyle": "none"}
            axes.errorbar(-a, percent * b, percent * b_error, a_error, **look, **options)
    sigma = minima[0].sigma[s]
    axes.set(xlabel=AXIS[x].format(sigma), ylabel=AXIS[y].format(sigma), xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yscale("log" if y == DELTA else "linear")
    within = correlation(minima, x, y, scale, s)
    text = f"{NOISES[scale]}; Spearman within an architecture {signed(-within.value)}"  # −Φ is drawn
    axes.set_title(text, fontsize=7, loc="right")


def algorithms_of(minima: Sequence[Minimum]) -> list[str]:
    """Algorithms, each once."""
    return list(dict.fromkeys(m.algorithm for m in minima))


def architectures_of(minima: Sequence[Minimum]) -> list[str]:
    """Architectures, each once."""
    return list(dict.fromkeys(m.architecture for m in minima))


def names_of(minima: Sequence[Minimum]) -> dict[str, str]:
    """Architectures in words, with the factor by which their σ differ from those that labels give, the first's."""
    factors = {m.architecture: m.sigma[-1] / minima[0].sigma[-1] for m in minima}
    return {name: NAMES[name] + (f" ({factor:g} σ)" if factor != 1 else "") for name, factor in factors.items()}


def bridged(minima: Sequence[Minimum]) -> list[Minimum]:
    """The last minimum of each architecture and algorithm."""
    return list({(m.architecture, m.algorithm): m for m in minima}.values())


def draw_bridge(minima: Sequence[Minimum]) -> Figure:
    """The way from δE to Φ: ``−log ⟨e^{−βE}⟩`` at the largest σ of one minimum of each algorithm, by architecture."""
    names = names_of(minima)
    size = 0.5 + 2.5 * len(names), 3.0
    figure, (panels,) = plt.subplots(1, len(names), figsize=size, sharey=True, squeeze=False)
    for axes, name in zip(panels, names, strict=True):
        for minimum in bridged(minima):
            if minimum.architecture == name:
                bridge(axes, minimum)
        axes.set(xlabel=r"cost of an error $\beta$", xscale="log", yscale="log")
        axes.set_title(names[name], fontsize=7, loc="right")
    panels[0].set_ylabel(r"$-\log\,\langle e^{-\beta E}\rangle$ (nats)")
    add_letters(panels)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def table_of_bridge(minima: Sequence[Minimum]) -> Iterator[tuple]:
    """The curves of `draw_bridge`, after the names of the columns; log Z is that of all weights."""
    c, s = SCALES.index("multiplicative"), -1
    yield "architecture", "algorithm", "name", "sigma", "mean_errors", "log_z", "beta", "log_mean_exp", "std_error"
    for m in bridged(minima):
        first = m.sigma[s], mean_errors(m), m.log_z[c, s] * m.n_weights[c]
        for row in zip(m.beta, m.log_mean_exp[c, s], m.log_mean_exp_error[c, s], strict=True):
            yield m.architecture, m.algorithm, m.name, *(f"{value:.6g}" for value in (*first, *row))


def mean_errors(minimum: Minimum) -> float:
    """⟨E⟩ at β = 0 and the largest σ, plain, of a minimum without training errors."""
    return minimum.delta_error[SCALES.index("multiplicative"), -1] * json_object(minimum.setting)["n_train"]


def bridge(axes: Axes, minimum: Minimum) -> None:
    """One curve with its standard errors, its slope at β = 0 (dashed), and ``−log Z`` where it is known (dotted)."""
    c, s = SCALES.index("multiplicative"), -1
    color = DEEP_LOOKS[minimum.algorithm].color
    beta, curve = minimum.beta[1:], -minimum.log_mean_exp[c, s, 1:]
    error = minimum.log_mean_exp_error[c, s, 1:]
    axes.plot(beta, curve, color=color, label=ALGORITHMS[minimum.algorithm])
    axes.fill_between(beta, curve - error, curve + error, color=color, alpha=0.25, linewidth=0)
    mean = mean_errors(minimum)
    early = beta * mean < 3
    axes.plot(beta[early], beta[early] * mean, "--", color=color, linewidth=0.7)
    axes.axhline(-minimum.log_z[c, s] * minimum.n_weights[c], color=color, linestyle=":", linewidth=0.7)


def report(trained: Sequence[Minimum], minima: Sequence[Minimum]) -> str:
    """What the minima are like, and the rank correlations of their measures, in Markdown."""
    return f"{summary(trained, minima)}\n{agreement(minima)}"


def summary(trained: Sequence[Minimum], minima: Sequence[Minimum]) -> str:
    """Means over the minima of each architecture and algorithm, in Markdown."""
    sigmas = minima[0].sigma
    heads = [f"{text}({sigma:g}), {NOISES[scale]}" for scale in SCALES for sigma in sigmas for text in ("10³ Φ", "δE")]
    rows = [["architecture", "algorithm", "minima", "epochs", "test error, %", "balanced, %", *heads]]
    for name, text in names_of(trained).items():
        for algorithm in algorithms_of(trained):
            alike = [
                [m for m in some if (m.architecture, m.algorithm) == (name, algorithm)] for some in (trained, minima)
            ]
            here = alike[1]
            epochs = [m.epochs for m in here]
            cells = [
                text,
                ALGORITHMS[algorithm],
                f"{len(here)} of {len(alike[0])}",
                f"{min(epochs)}–{max(epochs)}" if epochs else "—",
            ]
            cells += [mean_and_error(100 * values_of(here, measure, SCALES[0], 0)[0]) for measure in (TEST, BALANCED)]
            for scale in SCALES:
                for s in range(len(sigmas)):
                    cells += [mean_and_error(1e3 * values_of(here, PHI, scale, s)[0])]
                    cells += [mean_and_error(values_of(here, DELTA, scale, s)[0])]
            rows.append(cells)
    unknown = np.isnan([m.phi for m in minima])
    hours = sum(m.seconds for m in trained) / 3600
    setting = json_object(minima[0].setting)
    late = sum(m.train_loss >= setting["stop_loss"] for m in minima)
    note = f"""Means ± standard errors over minima. Networks are trained until their loss is below
        {setting["stop_loss"]:g}, where none of their {setting["n_train"]} patterns can be wrong, or for
        {setting["recipe"]["epochs"]} epochs: {late} of these minima did not come to that loss. Left out with training
        errors: {len(trained) - len(minima)} of {len(trained)} networks. Φ in nats per weight; weights are perturbed by
        σ times the weight (plain), or σ times the scale of its filter. Points of Φ that did not converge, and are left
        out: {np.count_nonzero(unknown)} of {unknown.size}. All trainings and measurements took {hours:.2g} hours of one
        core."""
    return with_note(rows, note)


def agreement(minima: Sequence[Minimum]) -> str:
    """Rank correlations of the measures, architecture by architecture, in Markdown."""
    sigmas = minima[0].sigma
    coefficients = [f"{kind}, σ = {sigma:g}" for sigma in sigmas for kind in ("Spearman ρ", "Kendall τ")]
    rows = [["noise", "architecture", "between", "and", *coefficients]]
    parts = {text: [m for m in minima if m.architecture == name] for name, text in names_of(minima).items()}
    for scale in SCALES:
        for name, part in parts.items():
            for x, y in PAIRS:
                found = [
                    correlation(part, x, y, scale, s, kind=kind)
                    for s in range(len(sigmas))
                    for kind in ("spearman", "kendall")
                ]
                rows.append([NOISES[scale], name, x, y, *map(correlation_text, found)])
        for x, y in PAIRS:
            pooled = [correlation(minima, x, y, scale, s) for s in range(len(sigmas))]
            cells = [cell for text in map(correlation_text, pooled) for cell in (text, "—")]
            rows.append([NOISES[scale], "ranks within each", x, y, *cells])
    shares = {
        measure: [
            noise_share(part, measure, scale, s)
            for part in parts.values()
            for scale in SCALES
            for s in range(len(sigmas))
        ]
        for measure in (PHI, DELTA)
    }
    known = ([share for share in of_measure if np.isfinite(share)] for of_measure in shares.values())
    phi, rise = (f"{np.median(values):.0%}" if values else "an unknown part" for values in known)
    note = f"""Coefficients over the minima of which both measures are known, with a bootstrap interval ({INTERVAL};
        minima resampled within each algorithm) and a p-value that takes minima as independent. A flatter minimum has a
        larger Φ (closer to 0) and a smaller δE. Sampling errors make {phi} of the variance of Φ between the minima of
        an architecture, and {rise} of that of δE (medians over rows and σ)."""
    return with_note(rows, note)


def table(minima: Sequence[Minimum]) -> Iterator[tuple]:
    """Measures of every network, after the names of the columns."""
    head = ("architecture", "algorithm", "batch", "eta", "seed", "epochs")
    errors = ("train_error", "train_loss", "test_error", "balanced_error")
    measured = ("log_z", "phi", "phi_error", "distance", "delta_error", "delta_error_error", "rhat", "passes")
    yield *head, *errors, "scale", "sigma", *measured, "n_temperatures"
    for m in minima:
        first = (*(getattr(m, name) for name in head), *(f"{getattr(m, name):.6g}" for name in errors))
        for c, scale in enumerate(m.scale):
            for s, sigma in enumerate(m.sigma):
                numbers = (f"{getattr(m, name)[c, s]:.6g}" for name in measured)
                yield *first, scale, f"{sigma:g}", *numbers, m.n_temperatures[c, s]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument("--preset", choices=PLANS, default="full", help="how many minima, how well (default: full)")
    parser.add_argument(
        "--results", type=Path, help="folder of minima and pictures (default: any-model or any-model-quick)"
    )
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, help="(default: all)")
    for name, what in (
        ("seeds", "minima of each architecture and setting"),
        ("n-samples", "sweeps of each chain for Φ"),
        ("max-passes", "passes at each σ after which chains that disagree do not go on"),
        ("n-draws", "draws of the noise for δE"),
        ("n-train", "training patterns"),
        ("epochs", "the most epochs of a training"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{what} (default: the preset's)")
    parser.add_argument("--stop-loss", type=float, metavar="LOSS", help="training loss at which training ends")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")


def plan_from(arguments: argparse.Namespace) -> Plan:
    """Return the preset's plan with the options given on the command line put in."""
    names = (field.name for field in dataclasses.fields(Plan))
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    return dataclasses.replace(
        PLANS[arguments.preset], **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    )


def make(arguments: argparse.Namespace) -> Output:
    """Train and measure what is missing, and draw."""
    plan = plan_from(arguments)
    folder = arguments.results or (RESULTS if arguments.preset == "full" else RESULTS.with_name("any-model-quick"))
    measure_missing(plan, folder, n_jobs=arguments.jobs)
    trained = load_minima(folder, plan)
    minima = [minimum for minimum in trained if minimum.fitted]
    if not minima:
        raise ValueError(f"all {len(trained)} networks of {folder} make training errors; give them more --epochs")
    more = {"bridge": (draw_bridge(minima), table_of_bridge(minima))}
    return Output(folder, table(trained), draw(minima), report(trained, minima), more=more)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("any_model", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
