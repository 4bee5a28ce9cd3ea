"""Independent tasks on the processes of this machine or on a Dask cluster; each result is stored once it is there.

The driver alone writes results, so workers need no disk in common with it.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol as Interface

from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from bpflat.storage import discard_temporaries

_ANSWER_SECONDS = 10  # within which a scheduler must answer
_WATCH_SECONDS = 0.1


class SweepError(RuntimeError):
    """Some tasks of a sweep failed, or its workers cannot be reached; what was finished is stored."""


class Storable(Interface):
    """A result that knows how to write itself."""

    def save(self, path: Path) -> None: ...


@dataclass(frozen=True)
class Task:
    """One piece of a sweep.

    Attributes
    ----------
    path : Path
        Where the driver stores the result.
    label : str
        For messages, such as "rsgd-fast, restarts 10 to 19".
    compute : callable
        Makes the result; picklable.
    checkpoint : Path, optional
        Handed to `compute` as ``checkpoint`` by workers on this machine.  A task on a cluster has none: it may start
        again on another machine.
    """

    path: Path
    label: str
    compute: Callable[..., Storable]
    checkpoint: Path | None = None


def carry_out(
    tasks: Iterable[Task], *, n_jobs: int = 1, scheduler: str | None = None, bar: str | None = None
) -> Iterator[Task]:
    """Compute and store the result of every task.

    Parameters
    ----------
    tasks : iterable of Task
        Those that come first are started first.
    n_jobs : int
        Processes of this machine, as in joblib (-1: one a core; 1: this process), each with one BLAS thread.
    scheduler : str, optional
        Address of a Dask scheduler, such as ``tcp://host:8786``, whose workers take the tasks instead.
    bar : str, optional
        Title of a progress bar on stderr.

    Yields
    ------
    Task
        Each one once its file is there, in the order in which they end.

    Raises
    ------
    SweepError
        After the last of the others has been stored when tasks raise (it names them); at once when the scheduler
        does not answer, when workers are lost for good, or without dask.distributed.
    OSError
        When a result cannot be written.

    Notes
    -----
    A task whose Dask worker dies starts again on another one.  A process of this machine whose driver dies, however,
    ends within a fraction of a second, so that nobody else writes when the same command is given again.
    """
    tasks, failures = list(tasks), {}
    if not tasks:
        return
    unfinished = dict(enumerate(tasks))
    with _workers(n_jobs, scheduler) as parallel:
        calls = (delayed(_attempt)(i, task, None if scheduler else os.getpid()) for i, task in enumerate(tasks))
        outcomes = _outcomes(parallel(calls), unfinished)
        for i, result in tqdm(outcomes, bar, len(tasks), unit="task", disable=bar is None):
            task = unfinished.pop(i)
            if isinstance(result, _Failure):
                failures[task.label] = result.message
            else:
                result.save(task.path)
                yield task
    if failures:
        raise SweepError("\n".join(f"{label}: {message}" for label, message in failures.items()))


@dataclass(frozen=True)
class _Failure:
    message: str


def _attempt(i: int, task: Task, driver: int | None) -> tuple[int, Storable | _Failure]:
    """Carry out task i; a failure is returned, so that it cannot stop the other tasks."""
    # Arrays travel inside of `task` on purpose: joblib would leave a large argument on a single Dask worker, and with
    # that worker it would be lost.
    if driver is not None and driver != os.getpid():
        _end_with(driver)
    options = {} if driver is None or task.checkpoint is None else {"checkpoint": task.checkpoint}
    try:
        return i, task.compute(**options)
    except (ValueError, OSError) as error:  # these say what to do
        return i, _Failure(str(error))
    except Exception:
        return i, _Failure(traceback.format_exc())


@functools.cache  # once a process
def _end_with(driver: int) -> None:
    """Let this process end when its parent, the process `driver`, is gone."""

    def watch():
        while os.getppid() == driver:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _outcomes(outcomes: Iterator, unfinished: dict[int, Task]) -> Iterator:
    """Hand on what workers return; what they die of becomes a SweepError."""
    try:
        yield from outcomes
    except Exception as error:
        labels = [task.label for task in unfinished.values()]
        raise SweepError(
            f"workers failed for good ({type(error).__name__}: {error}). Not finished: {'; '.join(labels)}. They may "
            "have been out of memory, or, on a cluster, unable to import `training`: start Dask workers in a checkout "
            "of the same revision, with PYTHONPATH=. set. The same command goes on with what is not finished"
        ) from error


@contextlib.contextmanager
def _workers(n_jobs: int, scheduler: str | None) -> Iterator[Parallel]:
    options = {"return_as": "generator_unordered", "batch_size": 1, "pre_dispatch": "all"}
    if scheduler is None:
        with parallel_config("loky", inner_max_num_threads=1):
            yield Parallel(n_jobs=n_jobs, **options)
    else:
        with _connect(scheduler) as client, parallel_config("dask", client=client):
            yield Parallel(n_jobs=-1, **options)


def _connect(address: str):
    """Return a client of the Dask scheduler at `address` once that has a worker."""
    try:
        from distributed import Client
    except ImportError as error:
        raise SweepError(
            f"a sweep on a cluster needs dask.distributed ({error}); install it: pip install 'bpflat[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=_ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SweepError(
            f"no Dask scheduler answers at {address} ({error}). Check that `dask scheduler` runs there, that address "
            "and port are those it printed (tcp://HOST:8786 by default), and that no firewall is in between"
        ) from error
    if not client.nthreads():
        print(f"waiting for the first worker of {address}", file=sys.stderr, flush=True)
        client.wait_for_workers(1)
    if max(client.nthreads().values(), default=1) > 1:
        print(
            "some Dask workers run several tasks as threads of one process, which share one Python interpreter; "
            "`dask worker --nthreads 1 --nworkers -1` is faster",
            file=sys.stderr,
        )
    return client


# Files of a sweep: RESULT.npz, its parts RESULT.part-FIRST-LAST.npz while it is not whole, and their checkpoints.


def part_path(path: Path, first: int, last: int) -> Path:
    """Where the entries `first` to `last` of the result at `path` wait for the others."""
    return path.with_name(f"{path.stem}.part-{first}-{last}.npz")


def part_paths(path: Path) -> list[Path]:
    """Finished parts of the result at `path`."""
    parts = path.parent.glob(f"{glob.escape(path.stem)}.part-*.npz")
    return sorted(part for part in parts if not part.name.endswith(".checkpoint.npz"))


def checkpoint_path(path: Path) -> Path:
    """Where the training that will write `path` keeps its state."""
    return path.with_suffix(".checkpoint.npz")


def tidy(paths: Sequence[Path]) -> None:
    """Delete what helped to make the results at `paths`: parts, checkpoints, temporaries of killed writers."""
    for path in paths:
        stem = glob.escape(path.stem)
        for name in (f"{stem}.part-*.npz", f"{stem}.checkpoint.npz"):
            for file in path.parent.glob(name):
                file.unlink(missing_ok=True)
            discard_temporaries(path.parent, name)
        discard_temporaries(path.parent, glob.escape(path.name))
