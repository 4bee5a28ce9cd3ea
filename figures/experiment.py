"""Train, measure and draw: what Figs. 1 and 6 have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
from joblib import Parallel, delayed, parallel_config

from figures.measures import Series, measure
from figures.panels import draw, save_figure, save_table, save_text, table
from figures.style import Look, use_style
from figures.summary import report
from training.committee import add_worker_options
from training.progress import StatusLine
from training.protocols import Protocol
from training.sweep import Training, run_all
from training.workers import SweepError, tidy

Measured = TypeVar("Measured")
N_TRAIN = 500  # the paper's training patterns
SAMPLINGS = ("natural", "balanced")  # of the training patterns


@dataclass(frozen=True)
class Preset:
    """How much of a published experiment is run.

    Attributes
    ----------
    restarts : int
        Of each protocol.
    ep : bool
        Whether the local entropy is measured by expectation propagation too, for the table.
    n_train : int
        Training patterns.
    max_epochs : int, optional
        Cap on the epochs of every protocol; by default each has its own.
    """

    restarts: int
    ep: bool = False
    n_train: int = N_TRAIN
    max_epochs: int | None = None

    def resized(
        self, *, restarts: int | None = None, n_train: int | None = None, max_epochs: int | None = None
    ) -> Preset:
        """Return the preset with the given sizes; None leaves its own."""
        sizes = {"restarts": restarts, "n_train": n_train, "max_epochs": max_epochs}
        return replace(self, **{name: size for name, size in sizes.items() if size is not None})

    def apply(self, protocols: Sequence[Protocol]) -> list[Protocol]:
        """Return the protocols with the preset's cap on the epochs."""
        if self.max_epochs is None:
            return list(protocols)
        return [replace(p, max_epochs=min(p.max_epochs, self.max_epochs)) for p in protocols]

    @property
    def schedules(self) -> str:
        """What is run of each protocol, in a phrase."""
        capped = "" if self.max_epochs is None else f"; at most {self.max_epochs:,} epochs"
        return f"schedules of the paper{capped}"

    @property
    def note(self) -> str:
        """What was run, in one line."""
        bands = "Lines: means over restarts; bands: their central 68 %."
        patterns = "" if self.n_train == N_TRAIN else f" on {self.n_train:,} patterns"
        return f"{self.restarts} restarts of each algorithm{patterns}; {self.schedules}.  {bands}"


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
    ep: bool = False,
    n_train: int = N_TRAIN,
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
    ep : bool
        Whether the local entropy is measured by expectation propagation too.
    n_train : int
        Training patterns.
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
        [Training(p, folder, restarts, device=device, n_train=n_train) for p in reversed(protocols)],
        chunk=chunk,
        n_jobs=1 if device == "cuda" else n_jobs,
        scheduler=scheduler,
        progress=StatusLine(interval=5.0, rewrite=False),  # several processes share stderr: a line now and then
        threads=1,
    )
    return measure(minima[::-1], folder, ep=ep, n_jobs=n_jobs, scheduler=scheduler, device=device)


def on_each_draw(measure_one: Callable[[str, int], Measured], n_draws: int, n_jobs: int) -> dict[str, list[Measured]]:
    """Call a function of (sampling, draw) for so many draws of every sampling, over processes; results by sampling."""
    keys = [(sampling, draw) for draw in range(n_draws) for sampling in SAMPLINGS]
    with parallel_config("loky", inner_max_num_threads=1):
        found = Parallel(n_jobs=n_jobs)(delayed(measure_one)(*key) for key in keys)
    by_key = dict(zip(keys, found, strict=True))
    return {sampling: [by_key[sampling, draw] for draw in range(n_draws)] for sampling in SAMPLINGS}


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are the arguments of `Preset.resized`."""
    for name, what in (
        ("restarts", "of each algorithm"),
        ("n-train", "training patterns"),
        ("max-epochs", "cap on the epochs of a restart"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{what} (default: the preset's)")


def sizes_from(arguments: argparse.Namespace) -> dict[str, int | None]:
    """Arguments of `Preset.resized` from the command line."""
    return {name: getattr(arguments, name) for name in ("restarts", "n_train", "max_epochs")}


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
    add_size_options(parser)
    add_worker_options(parser, jobs=os.cpu_count())
    arguments = parser.parse_args(argv)
    preset = presets[arguments.preset].resized(**sizes_from(arguments))
    folder = arguments.results or Path("runs") / f"{name}-{arguments.preset}"
    use_style()
    try:
        protocols = preset.apply(experiment.protocols)
        series = collect(
            protocols,
            preset.restarts,
            folder,
            ep=preset.ep,
            n_train=preset.n_train,
            device=arguments.device,
            n_jobs=arguments.jobs,
            scheduler=arguments.scheduler,
            chunk=arguments.chunk,
        )
        figure = draw(series, experiment.looks, preset.note)
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
