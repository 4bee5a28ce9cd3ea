"""The command line that all figures share: collect, draw, save, report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bpflat.programs import run_command
from figures.draw import panels, profiles, summary
from figures.draw.files import save_figure, save_table, save_text
from figures.draw.style import use_style
from figures.measure.experiment import Preset, collect
from figures.measure.profiles import load_profiles
from training.committee.protocols import Protocol
from training.deep.recipes import RECIPES
from training.workers import SweepError, add_worker_options, workers_from

EXPECTED = (ImportError, FloatingPointError, SweepError)
"""Errors that a user can mend, beside those of every program; anything else is a fault of the program."""


@dataclass(frozen=True)
class Output:
    """What a program has made, as NAME.pdf, NAME.png, NAME.csv and NAME.md in one folder.

    Attributes
    ----------
    folder : Path
    table : iterable of tuple
        Every plotted number, after the names of the columns.
    figure : Figure, optional
    text : str
        Tables in Markdown and how to read them, if there are any.
    report : str, optional
        What is printed; by default `text`.
    more : mapping
        Further pictures with their tables, by what their names end in: NAME-END.pdf, NAME-END.png and NAME-END.csv.
    """

    folder: Path
    table: Iterable[tuple]
    figure: Figure | None = None
    text: str = ""
    report: str | None = None
    more: Mapping[str, tuple[Figure, Iterable[tuple]]] = field(default_factory=dict)

    def save(self, name: str) -> list[Path]:
        """Write all files, each whole or not at all; returns their paths."""
        paths = [] if self.figure is None else save_figure(self.figure, self.folder, name)
        paths.append(save_table(self.table, self.folder, name))
        for end, (figure, table) in self.more.items():
            paths += save_figure(figure, self.folder, f"{name}-{end}")
            paths.append(save_table(table, self.folder, f"{name}-{end}"))
        if self.text:
            paths.append(save_text(self.text, self.folder / f"{name}.md"))
        return paths


def run_program(
    name: str,
    description: str,
    add_options: Callable[[argparse.ArgumentParser], None],
    make: Callable[[argparse.Namespace], Output],
    argv: Sequence[str] | None = None,
) -> int:
    """Entry point of ``python -m figures.NAME``; returns the exit status.

    Parameters
    ----------
    name : str
        The module; its files have hyphens for underscores.
    description : str
        Text of ``--help``.
    add_options : callable
        Adds the program's own options to a parser.
    make : callable
        Collects and draws what the arguments ask for; raises ValueError, OSError or one of `EXPECTED`.
    argv : sequence of str, optional
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m figures.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)

    def make_and_save(arguments: argparse.Namespace) -> None:
        use_style()
        try:
            output = make(arguments)
            paths = output.save(name.replace("_", "-"))
        finally:
            plt.close("all")
        report = output.text if output.report is None else output.report
        if report:
            print(report)
        print("numbers:" if output.figure is None else "picture and numbers:", *paths, sep="\n  ")

    resume = "give the same command again to go on with what is not stored"
    return run_command(parser, make_and_save, argv, expected=EXPECTED, resume=resume)


def add_runs_option(parser: argparse.ArgumentParser) -> None:
    """Add the folder of the runs of deep networks."""
    parser.add_argument("--results", type=Path, default=Path("runs/table1"), help="folder of the runs and the picture")


def add_rows_option(parser: argparse.ArgumentParser) -> None:
    """Add the networks of which runs are drawn, rows of Table 1."""
    parser.add_argument(
        "--rows", nargs="+", choices=RECIPES, metavar="ROW", help="(default: the paper's, else all saved)"
    )


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


@dataclass(frozen=True)
class Experiment:
    """A figure of minima of the committee machine: local entropy, local energy and test error.

    Attributes
    ----------
    name : str
        The program and its files.
    description : str
        Text of ``--help``.
    protocols : tuple of Protocol
        Published protocols.
    presets : mapping
        How much is run, by name; the first is the default.
    """

    name: str
    description: str
    protocols: tuple[Protocol, ...]
    presets: Mapping[str, Preset]


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> int:
    """Entry point of an experiment's figure; returns the exit status."""
    own = (partial(of, experiment) for of in (_add_options, _make))
    return run_program(experiment.name, experiment.description, *own, argv)


def _add_options(experiment: Experiment, parser: argparse.ArgumentParser) -> None:
    name, presets = experiment.name, experiment.presets
    parser.add_argument("--preset", choices=presets, default=next(iter(presets)), help="how much of the paper is run")
    parser.add_argument("--results", type=Path, help=f"folder of results and pictures (default: runs/{name}-PRESET)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--drop-weights", action="store_true", help="keep no weights once everything is measured: small files to share"
    )
    add_size_options(parser)
    add_worker_options(parser, jobs=os.cpu_count())


def _make(experiment: Experiment, arguments: argparse.Namespace) -> Output:
    preset = experiment.presets[arguments.preset].resized(**sizes_from(arguments))
    folder = arguments.results or Path("runs") / f"{experiment.name}-{arguments.preset}"
    series = collect(
        preset.apply(experiment.protocols),
        preset.restarts,
        folder,
        ep=preset.ep,
        n_train=preset.n_train,
        device=arguments.device,
        **workers_from(arguments),
    )
    if arguments.drop_weights:
        for measured in series:
            measured.minima.without_weights().save(folder / f"{measured.name}.npz")
    return Output(
        folder,
        panels.table(series),
        panels.draw(series, preset.note),
        summary.report(series),
        report="\n".join(measured.minima.summary() for measured in series),
    )


def evolution(name: str, description: str, row: str, argv: Sequence[str] | None = None) -> int:
    """Entry point of a figure of the local energy along the training of one network; returns the exit status.

    Parameters
    ----------
    name, description, argv
        See `run_program`.
    row : str
        The network of the paper's figure, a row of Table 1.
    """

    def add_options(parser: argparse.ArgumentParser) -> None:
        add_runs_option(parser)
        parser.add_argument(
            "--row", choices=RECIPES, metavar="ROW", default=row, help=f"row of Table 1 (default: {row})"
        )

    def make(arguments: argparse.Namespace) -> Output:
        by_network = load_profiles(arguments.results, [arguments.row])
        table = profiles.table(by_network, final=False)
        return Output(arguments.results, table, profiles.draw_evolutions(by_network), profiles.report(by_network))

    return run_program(name, description, add_options, make, argv)
