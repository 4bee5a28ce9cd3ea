"""Train, measure and draw: what Figs. 1 and 6 have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from figures.measures import Series, measure
from figures.panels import draw, save_figure, save_table, save_text, table
from figures.style import Look, use_style
from figures.summary import report
from training.committee import add_worker_options
from training.progress import StatusLine
from training.protocols import Protocol
from training.sweep import Training, run_all
from training.workers import SweepError, tidy

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
    protocols: Sequence[Protocol],
    restarts: int,
    folder: Path,
    *,
    n_ep: int = 0,
    device: str = "cpu",
    n_jobs: int = -1,
    scheduler: str | None = None,
    chunk: int | None = None,
) -> list[Series]:
    """Train and measure what `folder` does not hold yet, and read the rest.

    Parameters
    ----------
    protocols : sequence of Protocol
        The longest last.
    restarts : int
        Of each.
    folder : Path
        Of all results.
    n_ep : int
        Restarts of each whose local entropy is measured by expectation propagation too.
    device : str
        "cpu" or "cuda".
    n_jobs, scheduler, chunk
        Who does the work, and how many restarts are a task; see `training.sweep.run_all`.

    Raises
    ------
    ValueError
        When `folder` holds results of another configuration or damaged files.
    SweepError
        When tasks or workers fail; see `training.workers.carry_out`.
    OSError
        When it cannot be written.
    """
    # Small matrices: one thread for each of several tasks is faster than several threads for one after another.
    minima = run_all(
        [Training(p, folder, restarts, device=device) for p in reversed(protocols)],
        chunk=chunk,
        n_jobs=1 if device == "cuda" else n_jobs,
        scheduler=scheduler,
        progress=StatusLine(interval=5.0, rewrite=False),  # several processes share stderr: a line now and then
        threads=1,
    )
    for one in minima:
        if not np.any(one.train_error == 0):
            raise ValueError(
                f"{one.protocol.name}: no restart reached zero training errors; train longer or leave the protocol out"
            )
    return measure(minima[::-1], folder, n_ep=n_ep, n_jobs=n_jobs, scheduler=scheduler, device=device)


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> int:
    """Entry point of a figure; returns the exit status."""
    name, presets = experiment.name, experiment.presets
    parser = argparse.ArgumentParser(prog=f"python -m figures.{name}", description=experiment.description)
    parser.add_argument("--preset", choices=presets, default=next(iter(presets)), help="how much of the paper is run")
    parser.add_argument("--results", type=Path, help=f"folder of results and pictures (default: runs/{name}-PRESET)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--drop-weights", action="store_true", help="keep no weights once everything is measured: small files to share"
    )
    add_worker_options(parser, jobs=os.cpu_count())
    arguments = parser.parse_args(argv)
    preset = presets[arguments.preset]
    folder = arguments.results or Path("runs") / f"{name}-{arguments.preset}"
    use_style()
    try:
        protocols = preset.apply(experiment.protocols)
        series = collect(
            protocols,
            preset.restarts,
            folder,
            n_ep=preset.n_ep,
            device=arguments.device,
            n_jobs=arguments.jobs,
            scheduler=arguments.scheduler,
            chunk=arguments.chunk,
        )
        figure = draw(series, experiment.looks, preset.note(experiment.protocols))
        paths = [*save_figure(figure, folder, name), save_table(table(series), folder, name)]
        paths.append(save_text(report(series), folder / f"{name}.md"))
        tidy(paths)
    except (ValueError, OSError, SweepError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plt.close(figure)
    for one in series:
        print(one.minima.summary())
        if arguments.drop_weights:
            one.minima.without_weights().save(folder / f"{one.name}.npz")
    print("picture and numbers:", *paths, sep="\n  ")
    return 0
