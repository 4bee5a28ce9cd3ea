"""Train, measure and draw: what Figs. 1 and 6 have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib.pyplot as plt
from joblib import Parallel, delayed, parallel_config

from figures.measures import Series, measure
from figures.panels import draw, save_figure, save_table, save_text, table
from figures.style import Look, use_style
from figures.summary import report
from training.committee import run
from training.progress import StatusLine
from training.protocols import Protocol
from training.results import TrainedMinima

CHANGES = {"gamma1": "γ₁ = {:g} instead of {:g}", "schedule_speed": "β, ω, γ growing {:g} times as fast"}


@dataclass(frozen=True)
class Preset:
    """How much of a published experiment is run.

    Attributes
    ----------
    restarts : int
        Of each protocol.
    changes : dict
        Fields of a protocol that differ from the paper, by the protocol's name.
    n_ep : int
        Restarts of each whose local entropy is measured by expectation propagation too, for the table.
    """

    restarts: int
    changes: dict[str, dict[str, float]] = field(default_factory=dict)
    n_ep: int = 0

    def apply(self, protocols: Sequence[Protocol]) -> list[Protocol]:
        """Return the protocols with the preset's changes."""
        return [replace(p, **self.changes.get(p.name, {})) for p in protocols]

    def shortened(self, protocols: Sequence[Protocol]) -> str:
        """What differs from the paper, in a phrase; `protocols` without the changes."""
        changes = ", ".join(
            f"{p.label} with {CHANGES[key].format(value, getattr(p, key))}"
            for p in protocols
            for key, value in self.changes.get(p.name, {}).items()
        )
        return f"schedules shortened: {changes}" if changes else "schedules of the paper"

    def note(self, protocols: Sequence[Protocol]) -> str:
        """What was run, in one line; `protocols` without the changes."""
        bands = "Lines: means over restarts; bands: their central 68 %."
        return f"{self.restarts} restarts of each algorithm; {self.shortened(protocols)}.  {bands}"


@dataclass(frozen=True)
class Experiment:
    """Several protocols, how each is drawn, and how much of it can be run.

    Attributes
    ----------
    name : str
        Of the pictures.
    description : str
        For ``--help``.
    protocols : tuple of Protocol
        As published.
    looks : mapping
        By the names of the protocols.
    presets : mapping
        The first is the default.
    """

    name: str
    description: str
    protocols: tuple[Protocol, ...]
    looks: Mapping[str, Look]
    presets: Mapping[str, Preset]


def collect(
    protocols: Sequence[Protocol], restarts: int, folder: Path, *, n_ep: int = 0, device: str = "cpu", n_jobs: int = -1
) -> list[Series]:
    """Train and measure what `folder` does not hold yet, and read the rest.

    Raises
    ------
    ValueError
        When `folder` holds results of another configuration or damaged files.
    OSError
        When it cannot be written.
    """
    missing = [p for p in protocols if not (folder / f"{p.name}.npz").exists()]
    # Small matrices: one thread for each of several protocols is faster than several threads for one after another.
    with parallel_config("loky", inner_max_num_threads=1):
        train = Parallel(n_jobs=1 if device == "cuda" else n_jobs)
        train(delayed(_train)(p, folder, restarts, device) for p in reversed(missing))  # the longest first
    return [
        measure(_train(p, folder, restarts, device), folder, p.name, label=p.label, n_ep=n_ep, n_jobs=n_jobs)
        for p in protocols
    ]


def _train(protocol: Protocol, folder: Path, restarts: int, device: str) -> TrainedMinima:
    """Train one protocol, or read its result; several processes share stderr, hence a line now and then."""
    status = StatusLine(interval=5.0, rewrite=False)
    try:
        return run(protocol, folder, restarts=restarts, device=device, threads=1, progress=status)
    finally:
        status.close()


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> int:
    """Entry point of a figure; returns the exit status."""
    name, presets = experiment.name, experiment.presets
    parser = argparse.ArgumentParser(prog=f"python -m figures.{name}", description=experiment.description)
    parser.add_argument("--preset", choices=presets, default=next(iter(presets)), help="how much of the paper is run")
    parser.add_argument("--results", type=Path, help=f"folder of results and pictures (default: runs/{name}-PRESET)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for training")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument(
        "--drop-weights", action="store_true", help="keep no weights once everything is measured: small files to share"
    )
    arguments = parser.parse_args(argv)
    preset = presets[arguments.preset]
    folder = arguments.results or Path("runs") / f"{name}-{arguments.preset}"
    use_style()
    try:
        protocols = preset.apply(experiment.protocols)
        options = {"n_ep": preset.n_ep, "device": arguments.device, "n_jobs": arguments.jobs}
        series = collect(protocols, preset.restarts, folder, **options)
        figure = draw(series, experiment.looks, preset.note(experiment.protocols))
        paths = [*save_figure(figure, folder, name), save_table(table(series), folder, name)]
        paths.append(save_text(report(series), folder / f"{name}.md"))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plt.close(figure)
    for one in series:
        print(one.minima.summary())
        if arguments.drop_weights:
            one.minima.without_weights().save(folder / f"{one.name}.npz")
    print("picture and numbers:", *paths, sep="\n  ")
    return 0
