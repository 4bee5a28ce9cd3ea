"""Fig. 1: local entropy, local energy and test error of the minima of five algorithms.

``python -m figures.fig1`` trains what is not there yet, measures it and draws; a second call only draws.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib.pyplot as plt
from joblib import Parallel, delayed, parallel_config

from figures.measures import Series, measure
from figures.panels import draw, save_figure, save_table, table
from figures.style import LOOKS, use_style
from training.committee import run
from training.progress import StatusLine
from training.protocols import PROTOCOLS, Protocol
from training.results import TrainedMinima


@dataclass(frozen=True)
class Preset:
    """How much of the paper's experiment is run.

    Attributes
    ----------
    restarts : int
        Of each protocol.
    changes : dict
        Fields of a protocol that differ from the paper, by the protocol's name.
    """

    restarts: int
    changes: dict[str, dict[str, float]] = field(default_factory=dict)

    def protocols(self) -> list[Protocol]:
        """Return the five protocols of B.1 with the preset's changes."""
        return [replace(p, **self.changes.get(p.name, {})) for p in PROTOCOLS.values()]

    def note(self) -> str:
        """What was run, in one line."""
        shortened = ", ".join(
            f"{PROTOCOLS[name].label} with {CHANGES[key].format(value, getattr(PROTOCOLS[name], key))}"
            for name, changed in self.changes.items()
            for key, value in changed.items()
        )
        schedules = f"schedules shortened: {shortened}" if shortened else "schedules of the paper"
        bands = "Lines: means over restarts; bands: their central 68 %."
        return f"{self.restarts} restarts of each algorithm; {schedules}.  {bands}"


CHANGES = {"gamma1": "γ₁ = {:g} instead of {:g}", "schedule_speed": "β, ω, γ growing {:g} times as fast"}
PRESETS = {
    "quick": Preset(restarts=5, changes={"rsgd-slow": {"gamma1": 2e-3}, "esgd": {"schedule_speed": 2}}),
    "long": Preset(restarts=10),
    "paper": Preset(restarts=50),
}


def collect(preset: Preset, folder: Path, *, device: str = "cpu", n_jobs: int = -1) -> list[Series]:
    """Train and measure what `folder` does not hold yet, and read the rest.

    Raises
    ------
    ValueError
        When `folder` holds results of another configuration or damaged files.
    OSError
        When it cannot be written.
    """
    protocols = preset.protocols()
    missing = [p for p in protocols if not (folder / f"{p.name}.npz").exists()]
    # Small matrices: one thread for each of several protocols is faster than several threads for one after another.
    with parallel_config("loky", inner_max_num_threads=1):
        train = Parallel(n_jobs=1 if device == "cuda" else n_jobs)
        train(delayed(_train)(p, folder, preset.restarts, device) for p in reversed(missing))  # the longest first
    return [
        measure(_train(p, folder, preset.restarts, device), folder, p.name, label=p.label, n_jobs=n_jobs)
        for p in protocols
    ]


def _train(protocol: Protocol, folder: Path, restarts: int, device: str) -> TrainedMinima:
    """Train one protocol, or read its result; several processes share stderr, hence a line now and then."""
    status = StatusLine(interval=5.0, rewrite=False)
    try:
        return run(protocol, folder, restarts=restarts, device=device, progress=status)
    finally:
        status.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.fig1", description=__doc__)
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quick",
        help="quick: minutes; long: the paper's schedules, fewer restarts; paper: B.1 to the letter",
    )
    parser.add_argument("--results", type=Path, help="folder of results and pictures (default: runs/fig1-PRESET)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for training")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes for belief propagation")
    arguments = parser.parse_args(argv)
    preset = PRESETS[arguments.preset]
    folder = arguments.results or Path("runs") / f"fig1-{arguments.preset}"
    use_style()
    try:
        series = collect(preset, folder, device=arguments.device, n_jobs=arguments.jobs)
        figure = draw(series, LOOKS, preset.note())
        paths = [*save_figure(figure, folder, "fig1"), save_table(table(series), folder, "fig1")]
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plt.close(figure)
    for one in series:
        print(one.minima.summary())
    print("picture and numbers:", *paths, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
