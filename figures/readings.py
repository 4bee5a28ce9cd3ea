"""What the paper leaves open about η and γ, and what each reading of it gives.

``python -m figures.readings`` trains a few restarts with every reading that differs from the default, and writes a
table; what is there already is not trained again.  The default readings are those of Fig. 1's paper preset; the others
are trained on the same patterns.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed, parallel_config

from figures.draw.files import save_text
from figures.draw.tables import markdown
from training.committee import run
from training.progress import StatusLine
from training.protocols import PROTOCOLS, Protocol
from training.results import STOPPED, TrainedMinima
from training.workers import SweepError

RESULTS = Path(__file__).with_name("results")
ATTRACTIONS = {"eta gamma": "γ", "eta B gamma": "Bγ"}
# Readings that are not the default, and how many restarts of each are trained.
OTHERS: dict[Protocol, int] = {
    replace(PROTOCOLS["sgd-fast"], name="sgd-fast-mean", reduction="mean", max_epochs=10_000): 5,
    replace(PROTOCOLS["sgd-slow"], name="sgd-slow-mean", reduction="mean"): 5,
    replace(PROTOCOLS["rsgd-fast"], name="rsgd-fast-plain", pull="eta gamma"): 3,
}
# Its pull η'Bγ is 5: the first release held it at 1, and no later one trains it.
STORED_ONLY = "esgd-batch"


def row(minima: TrainedMinima) -> list[str]:
    """One line of the table."""
    protocol, epochs = minima.protocol, minima.epochs
    solved = np.count_nonzero(minima.train_error == 0)
    ended = np.count_nonzero(minima.status == STOPPED)
    attraction = ATTRACTIONS[protocol.pull] if protocol.algorithm != "sgd" else "—"
    return [
        protocol.label,
        protocol.reduction,
        attraction,
        f"{ended}/{len(epochs)}",
        f"{epochs.min():,}–{epochs.max():,}" if len(epochs) > 1 else f"{epochs[0]:,}",
        f"{solved}/{len(epochs)}",
        _range(minima.train_error),
        _range(minima.test_error),
    ]


def _range(errors: np.ndarray) -> str:
    low, high = 100 * errors.min(), 100 * errors.max()
    return f"{low:.1f} %" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}–{high:.1f} %"


def report(default: Sequence[TrainedMinima], others: Sequence[TrainedMinima]) -> str:
    """The table in Markdown: for each protocol the default reading first."""
    head = ["algorithm", "gradients of a minibatch", "attraction", "ended by their rule", "epochs", "zero errors"]
    rows = [[*head, "training errors", "test errors"]]
    for one in default:
        rows.append(row(one))
        rows += [row(other) for other in others if other.protocol.label == one.protocol.label]
    return markdown(rows)


def load_default(folder: Path) -> list[TrainedMinima]:
    """Read the minima of the default readings, a protocol each.

    Raises
    ------
    FileNotFoundError
        When one is not stored: they are not trained here.
    ValueError
        When a file is damaged.
    """
    paths = [folder / f"{name}.npz" for name in PROTOCOLS]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is not there; make it: python -m figures.fig1 --preset paper --results {folder}"
            )
    return [TrainedMinima.load(path) for path in paths]


def collect(
    folder: Path, data: dict, *, restarts: int | None = None, max_epochs: int | None = None, n_jobs: int = 1
) -> list[TrainedMinima]:
    """Train the other readings that `folder` does not hold; weights are not kept.

    Parameters
    ----------
    folder : Path
    data : dict
        Which patterns to train on, as `TrainedMinima.data`.
    restarts, max_epochs : int, optional
        The most of each reading; by default as many as `OTHERS` says.
    n_jobs : int
        Processes, one reading each.
    """
    patterns = {name: data[name] for name in ("n_train", "data_seed", "balanced")}

    def one(protocol: Protocol, most: int) -> TrainedMinima:
        if max_epochs is not None:
            protocol = replace(protocol, max_epochs=min(protocol.max_epochs, max_epochs))
        number = most if restarts is None else min(most, restarts)
        status = StatusLine(interval=5.0, rewrite=False)
        found = run(protocol, folder, restarts=number, threads=1, progress=status, **patterns)
        if len(found.weights):
            found = found.without_weights()
            found.save(folder / f"{protocol.name}.npz")
        return found

    with parallel_config("loky", inner_max_num_threads=1):
        found = Parallel(n_jobs=n_jobs)(delayed(one)(*item) for item in OTHERS.items())
    path = folder / f"{STORED_ONLY}.npz"
    return [*found, TrainedMinima.load(path)] if path.exists() else found


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.readings", description=__doc__)
    parser.add_argument("--default", type=Path, default=RESULTS / "fig1-paper", help="folder of the default readings")
    parser.add_argument("--results", type=Path, default=RESULTS / "readings", help="folder of the other readings")
    parser.add_argument("--restarts", type=int, metavar="N", help="the most of each (default: 2 to 5)")
    parser.add_argument("--max-epochs", type=int, metavar="N", help="cap on the epochs (default: each reading's own)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args(argv)
    try:
        default = load_default(arguments.default)
        sizes = {"restarts": arguments.restarts, "max_epochs": arguments.max_epochs}
        others = collect(arguments.results, default[0].data, **sizes, n_jobs=arguments.jobs)
        text = report(default, others)
        print(text, save_text(text, arguments.results / "readings.md"), sep="\n")
    except (ValueError, OSError, SweepError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
