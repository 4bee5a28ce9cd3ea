"""A small sweep that the tests run in processes of their own, to kill them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
from joblib.externals.loky import get_reusable_executor

from figures.measure.measures import Series, measure
from tests.training.committee.toy_training import small
from training.committee import __main__ as command
from training.committee.sweep import Training, run_all

OPERATIONS = ("fsync", "replace", "unlink")

# K = 3 machines on 60 pictures; they run to their cap, so that every sweep has the same number of epochs.
_COMMON = {"stop": "mean-loss", "tolerance": 1e-30, "max_epochs": 40, "eta": 1e-3}
PROTOCOLS = [small("sgd-fast", **_COMMON), small("sgd-slow", **_COMMON | {"beta0": 2.0, "omega0": 5.0, "dropout": 0.2})]


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def trainings(folder: Path, **changes) -> list[Training]:
    """Two protocols, four restarts each."""
    return [Training(protocol, folder, **({"restarts": 4, "n_train": 60} | changes)) for protocol in PROTOCOLS]


def sweep(folder: Path, *, chunk: int | None = 2, n_jobs: int = 1, scheduler: str | None = None) -> list[Series]:
    """Train and measure in `folder`, with a checkpoint after every epoch."""
    workers = {"n_jobs": n_jobs, "scheduler": scheduler}
    minima = run_all(trainings(folder), chunk=chunk, checkpoint_every=0.0, threads=1, **workers)
    assert all(np.any(m.train_error == 0) for m in minima)
    return measure(minima, folder, **workers)


def sweep_in_processes(folder: Path) -> None:
    """Sweep with two worker processes, and end them, as only a main program does by itself."""
    sweep(folder, n_jobs=2)
    get_reusable_executor().shutdown()


def sweep_until(operations, folder: Path) -> None:
    """Sweep in a process group of its own, and SIGKILL it before so many file operations, a shared integer."""
    os.setpgrp()

    def counted(operation):
        def call(*arguments, **options):
            operations.value -= 1
            if operations.value < 0:
                os.killpg(0, signal.SIGKILL)
            return operation(*arguments, **options)

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    sweep(folder)


def endless(folder: Path) -> None:
    """Train for ever in two worker processes."""
    os.setpgrp()
    protocol = small("sgd-fast", stop="mean-loss", tolerance=1e-30, max_epochs=10**9)
    run_all([Training(protocol, folder, restarts=2, n_train=60)], chunk=1, n_jobs=2, checkpoint_every=0.0)


def program(log: Path, *line: str) -> None:
    """``python -m training.committee LINE`` in a process group of its own; stderr goes to `log`."""
    os.setpgrp()
    with open(log, "w") as file:
        os.dup2(file.fileno(), 2)
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    status = command.main(list(line))
    get_reusable_executor().shutdown()
    sys.exit(status)
