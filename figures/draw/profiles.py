"""Local energy profiles of deep networks, along the training (Figs. 3 and 5) or at its end (Fig. 4)."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from figures.draw.style import DEEP_LOOKS, EPOCH_MAP
from figures.draw.tables import counted, difference_text, markdown, plus_minus, verdict
from figures.measure.profiles import OF_CENTRE, Profiles, conditions
from figures.measure.statistics import Sample, difference

LEGEND_LINES = 8
"""Most epochs that the legend of a panel names; all are drawn."""
EQUAL = 1.0
"""Percent of training errors by which minima may differ before a comparison is called into question."""

ByNetwork = Mapping[str, Sequence[Profiles]]


def draw_evolutions(by_network: ByNetwork) -> Figure:
    """The evolution of each algorithm of one network on common axes, then all final configurations."""
    (algorithms,) = by_network.values()
    n = len(algorithms)
    figure, panels = plt.subplots(1, n + 1, figsize=(2.4 * (n + 1), 3.6))
    for axes in panels[1:-1]:
        axes.sharey(panels[0])
    for axes, profiles in zip(panels[:-1], algorithms, strict=True):
        _evolution(axes, profiles)
    _final(panels[-1], algorithms, "final configurations")
    _write_note(figure, by_network)
    return figure


def draw_finals(by_network: ByNetwork) -> Figure:
    """One panel per network, one line per algorithm."""
    figure, panels = plt.subplots(1, len(by_network), figsize=(max(4.0, 2.6 * len(by_network)), 3.1), squeeze=False)
    for axes, (network, algorithms) in zip(panels[0], by_network.items(), strict=True):
        _final(axes, algorithms, network)
    _write_note(figure, by_network)
    return figure


def _evolution(axes: Axes, profiles: Profiles) -> None:
    """One algorithm: a line for each stored epoch, from light to dark, in a band of its 95 % interval."""
    last = len(profiles.epoch) - 1
    named = set(np.linspace(0, last, min(last + 1, LEGEND_LINES)).round().astype(int))
    for e, epoch in enumerate(profiles.epoch):
        shade = EPOCH_MAP(0.1 + 0.9 * (e / last if last else 1.0))
        label = f"{epoch}: {_errors(profiles, e)}" if e in named else None
        sigma, delta, half = _from_zero(profiles, e)
        axes.plot(sigma, delta, color=shade, label=label)
        axes.fill_between(sigma, delta - half, delta + half, color=shade, alpha=0.2, linewidth=0)
    axes.set_title(profiles.name)
    _finish(axes, "epoch: train / test error (%)")


def _final(axes: Axes, algorithms: Sequence[Profiles], title: str) -> None:
    """The last configurations of all algorithms, with 95 % intervals."""
    for profiles in algorithms:
        sigma, delta, half = _from_zero(profiles, -1)
        label = f"{profiles.name}: {_errors(profiles, -1)}"
        axes.errorbar(sigma, delta, half, **DEEP_LOOKS[profiles.column]._asdict(), capsize=2, label=label)
    axes.set_title(title)
    _finish(axes, "train / test error (%)")


def _errors(profiles: Profiles, e: int) -> str:
    """Train and test error (%) at the e-th stored epoch."""
    return f"{profiles.train_error[e]:.2f} / {profiles.test_error[e]:.2f}"


def _from_zero(profiles: Profiles, e: int) -> tuple[NDArray, NDArray, NDArray]:
    """Noise σ, δE and half of its interval at the e-th stored epoch, from σ = 0 on, where δE = 0 without error."""
    columns = profiles.sigma, profiles.delta_error[e], profiles.half_width[e]
    return tuple(np.concatenate([[0], values]) for values in columns)


def _finish(axes: Axes, legend: str) -> None:
    axes.set(xlabel=r"noise amplitude $\sigma$", xlim=(0, None), ylabel=r"$\delta E_{\mathrm{train}}$ (%)")
    axes.axhline(0, color="0.8", linewidth=0.6, zorder=0)
    below = axes.transAxes + ScaledTranslation(0, -0.36, axes.figure.dpi_scale_trans)  # inches: under the axis' label
    axes.legend(title=legend, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, handlelength=3)


def _write_note(figure: Figure, by_network: ByNetwork) -> None:
    """Say in small print under the panels what was run, and make room for it."""
    width = round(20 * figure.get_figwidth())  # characters
    lines = [line for text in note(by_network) for line in textwrap.wrap(text, width)]
    figure.set_figheight(figure.get_figheight() + 0.11 * len(lines))
    figure.supxlabel("\n".join(lines), fontsize=6, color="0.35")


def note(by_network: ByNetwork) -> Iterator[str]:
    """What the picture rests on, and whether it compares what can be compared."""
    for network, algorithms in by_network.items():
        yield f"{network}: {_what_was_run(algorithms)}"
    has_one = [len(profiles.runs) == 1 for algorithms in by_network.values() for profiles in algorithms]
    over_seeds = "95 % intervals by Student's t over seeds, which hold the variance over draws of the noise"
    over_draws = "over draws of the noise alone, not over seeds"
    bars = f"{over_seeds}; of single seeds, {over_draws}" if any(has_one) else over_seeds
    if all(has_one):
        bars = f"95 % intervals {over_draws}"
    yield (
        f"Bars and bands: {bars}. Errors in the legends: of the unperturbed centre, on images that are not augmented. "
        "Flatness tells of the test error at equal training errors only (B.2)."
    )
    for network, algorithms in by_network.items():
        last = [profiles.train_error[-1] for profiles in algorithms]
        if max(last) - min(last) > EQUAL:
            shown = ", ".join(f"{p.name} {error:.2f} %" for p, error in zip(algorithms, last, strict=True))
            yield f"NOT COMPARABLE: the final training errors of {network} differ by more than {EQUAL:g} % ({shown})."
        stop_loss = conditions(algorithms[0].runs[0])["stop_loss"]
        above = [p for p in algorithms if stop_loss is not None and max(_last_losses(p)) >= stop_loss]
        if above:
            shown = ", ".join(f"{p.name} {max(_last_losses(p)):.2g}" for p in above)
            yield f"NOT AT THE SAME LOSS: schedules of {network} ended above {stop_loss:g} ({shown})."


def _last_losses(profiles: Profiles) -> list[float]:
    """Training losses of all seeds at their ends."""
    return [run.flatness.train_loss[-1] for run in profiles.runs]


def _what_was_run(algorithms: Sequence[Profiles]) -> str:
    shared = conditions(algorithms[0].runs[0])
    augmented = "augmented, also where δE is measured" if shared["augment"] else "not augmented"
    until = "" if shared["stop_loss"] is None else f", until the training loss was below {shared['stop_loss']:g}"
    lengths, measured = [], []
    for profiles in algorithms:
        run, n_seeds = profiles.runs[0], len(profiles.runs)
        gamma = run.configuration.get("gamma_scale", 1.0)
        subset = run.configuration.get("flatness", {}).get("subset")
        strength = f", γ × {gamma:g}" if gamma != 1 else ""
        lengths.append(f"{profiles.name}: {profiles.epoch[-1]} epochs, {counted(n_seeds, 'seed')}{strength}")
        draws = counted(run.flatness.n_samples, "draw")
        measured.append(f"{draws} of the noise at each σ" + (f", each on {subset:,} images" if subset else ""))
    if len(set(measured)) > 1:
        measured = [f"{profiles.name}: {how}" for profiles, how in zip(algorithms, measured, strict=True)]
    return (
        f"{shared['network']} on {shared['images']:,} training images, {augmented}, {shared['precision']}, "
        f"{shared['epochs_scale']:.3g} times the recipe's epochs{until} ({'; '.join(lengths)}); "
        f"δE from {'; '.join(dict.fromkeys(measured))}."
    )


def report(by_network: ByNetwork) -> str:
    """The ends of all algorithms in Markdown, and which are flatter or have smaller test errors."""
    ends: list[tuple] = [
        ("network", "algorithm", "seeds", "epochs", "train error (%)", "train loss", "test error (%)", "σ", "δE(σ) (%)")
    ]
    pairs: list[tuple] = [("network", "difference", "δE(σ), points [95 %]", "", "test error, points [95 %]", "")]
    for network, algorithms in by_network.items():
        for p in algorithms:
            half, sigma = p.half_width[-1, -1], p.sigma[-1]
            errors = f"{p.train_error[-1]:.3f}", f"{p.train_loss[-1]:.2g}", plus_minus(_at_end(p, "test_error"))
            delta = f"{p.delta_error[-1, -1]:.2f} ± {half:.2f}"
            ends.append((network, p.name, len(p.runs), p.epoch[-1], *errors, f"{sigma:g}", delta))
        for first, second in itertools.combinations(algorithms, 2):
            cells: list[str] = []
            for what in ("delta_error", "test_error"):
                interval = difference(_at_end(second, what), _at_end(first, what))
                cells += [difference_text(interval), verdict(interval)]
            pairs.append((network, f"{second.name} − {first.name}", *cells))
    tables = [ends, pairs] if len(pairs) > 1 else [ends]
    return "\n".join([*map(markdown, tables), "\n\n".join(textwrap.fill(text, 120) for text in note(by_network)), ""])


def _at_end(profiles: Profiles, name: str) -> Sample:
    """Percent of a measure of all seeds at their ends; δE at the largest σ."""
    return Sample.of([100 * np.ravel(getattr(run.flatness, name)[-1])[-1] for run in profiles.runs])


def table(by_network: ByNetwork, *, final: bool) -> Iterator[tuple]:
    """Every plotted number, after the names of the columns; those of the last epochs alone if `final`."""
    yield (
        *("row", "column", "seeds", "epoch", "sigma", "delta_error (%)", "standard error (%)", "half interval (%)"),
        *("train error (%)", "test error (%)", "train loss", "draws"),
    )
    for network, algorithms in by_network.items():
        for profiles in algorithms:
            seeds, draws = len(profiles.runs), profiles.runs[0].flatness.n_samples
            for e in range(len(profiles.epoch))[-1 if final else 0 :]:
                of_centre = [getattr(profiles, name)[e] for name in OF_CENTRE]
                profile = (values[e] for values in (profiles.delta_error, profiles.std_error, profiles.half_width))
                for values in zip(profiles.sigma, *profile, strict=True):
                    numbers = (f"{value:.6g}" for value in (*values, *of_centre))
                    yield network, profiles.column, seeds, profiles.epoch[e], *numbers, draws
