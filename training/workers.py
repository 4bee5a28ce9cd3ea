"""Independent tasks on the processes of this machine or on a Dask cluster; each result is stored once it is there.

The driver alone writes results, so workers need no disk in common with it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar
from typing import Protocol as Interface

from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from bpflat.locks import claimed, lock_path
from bpflat.parallel import over_processes
from bpflat.storage import discard_temporaries, kind_of

_BAR_SECONDS = 1  # before which there is no bar: nor where the first thing is an error
_ON_CLUSTER = "Does the scheduler still run, and do workers have memory for the task?"


class SweepError(RuntimeError):
    """Some tasks of a sweep failed, or its workers cannot be reached; what was finished is stored."""


class Storable(Interface):
    """A result that knows how to write itself."""

    def save(self, path: Path) -> None: ...


Result = TypeVar("Result", bound=Storable)


@dataclass(frozen=True)
class Task:
    """One piece of a sweep.

    Attributes
    ----------
    path : Path
        Where the driver stores the result.
    label : str
        Its name in messages, such as "rsgd-fast, restarts 10 to 19".
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
        Processes of this machine, as in joblib: 1 is this process, -1 one per core; several have one BLAS thread each.
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
        When tasks fail, naming them, after the last of the others has been stored; at once when a process of this
        machine dies, when the scheduler does not answer or all of its workers have other code, or without
        dask.distributed.
    OSError
        When a result cannot be written.

    Notes
    -----
    A task whose Dask worker dies starts again on another one.  Processes of this machine end with their driver.
    """
    tasks, failures = list(tasks), defaultdict(list)
    if not tasks:
        return
    outcomes = _here(tasks, n_jobs) if scheduler is None else _on_cluster(tasks, scheduler)
    for i, result in tqdm(outcomes, bar, len(tasks), unit="task", disable=bar is None, delay=_BAR_SECONDS):
        if isinstance(result, _Failure):
            failures[result.message].append(tasks[i].label)
        else:
            result.save(tasks[i].path)
            yield tasks[i]
    if failures:
        raise SweepError("\n".join(f"{'; '.join(labels)}: {message}" for message, labels in failures.items()))


@dataclass(frozen=True)
class _Failure:
    message: str


def _attempt(i: int, task: Task) -> tuple[int, Storable | _Failure]:
    """Carry out task i; a failure is returned, so that it cannot stop the other tasks."""
    options = {} if task.checkpoint is None else {"checkpoint": task.checkpoint}
    try:
        return i, task.compute(**options)
    except (ValueError, OSError) as error:  # these say what to do
        return i, _Failure(str(error))
    except Exception:
        return i, _Failure(traceback.format_exc())


def _here(tasks: list[Task], n_jobs: int) -> Iterator[tuple[int, Storable | _Failure]]:
    """Results of processes on this machine, as they come."""
    unfinished = dict(enumerate(tasks))
    options = {"return_as": "generator_unordered", "batch_size": 1, "pre_dispatch": "all"}
    try:
        for i, result in over_processes(_attempt, enumerate(tasks), n_jobs, **options):
            del unfinished[i]
            yield i, result
    except TerminatedWorkerError as error:
        labels = "; ".join(task.label for task in unfinished.values())
        raise SweepError(
            f"a worker process died, perhaps for want of memory ({error}). Not finished: {labels}. "
            "The same command goes on with these; --jobs sets the number of processes"
        ) from error


def _on_cluster(tasks: list[Task], scheduler: str) -> Iterator[tuple[int, Storable | _Failure]]:
    """Results of the workers of a Dask scheduler, as they come."""
    from training.cluster import over_cluster  # which not everybody needs

    calls = [(i, replace(task, checkpoint=None)) for i, task in enumerate(tasks)]
    packages = sorted({"bpflat", "training"} | {_package(task.compute) for task in tasks})
    for i, outcome in over_cluster(_attempt, calls, scheduler, packages):
        yield (i, _Failure(f"{outcome}\n{_ON_CLUSTER}")) if isinstance(outcome, Exception) else outcome


def _package(function: Callable) -> str:
    """Name of the package that a function is of."""
    while isinstance(function, partial):
        function = function.func
    return function.__module__.partition(".")[0]


def add_worker_options(p: argparse.ArgumentParser, jobs: int | None) -> None:
    """Add --jobs, --chunk and --scheduler, which say who does the work of a sweep."""
    p.add_argument(
        "--jobs", type=int, default=jobs, help=f"processes of this machine (default: {jobs}; -1: one per core)"
    )
    p.add_argument("--chunk", type=int, metavar="N", help="train N restarts per task, to spread them (default: all)")
    p.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="let the workers of a Dask scheduler, tcp://HOST:PORT, do the work instead",
    )


def workers_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments n_jobs, chunk and scheduler of a sweep, as the command line has them."""
    return {"n_jobs": arguments.jobs, "chunk": arguments.chunk, "scheduler": arguments.scheduler}


# Files of a sweep: RESULT.npz, its parts RESULT.part-FIRST-LAST.npz while it is not whole, and their checkpoints.


@dataclass(frozen=True, eq=False)
class Assembly(Generic[Result]):
    """One result file and how to make it in parts, each of some of its entries 0, 1, ..., size - 1.

    Attributes
    ----------
    path : Path
        The result file.
    size : int
        Entries of the result.
    chunk : int
        Most entries of a task.  Chunks begin at its multiples.
    describe : callable
        ``describe(entries)`` names a range of entries in messages.
    prepare : callable
        ``prepare(entries)`` returns the computation of a range of entries: picklable, see `Task`.
    read : callable
        ``read(path, entries)`` returns the stored result of these entries; None where it is of something else and must
        be made again.
    join : callable
        ``join(parts)`` makes the whole result from parts that hold every entry once.
    resumable : bool
        Whether a computation takes a ``checkpoint``.
    """

    path: Path
    size: int
    chunk: int
    describe: Callable[[range], str]
    prepare: Callable[[range], Callable[..., Result]]
    read: Callable[[Path, range], Result | None]
    join: Callable[[Sequence[Result]], Result]
    resumable: bool = False

    def stored(self) -> Result | None:
        """Read the whole result; None where it must be made."""
        return self.read(self.path, range(self.size)) if self.path.exists() else None

    def parts(self) -> dict[range, Result]:
        """Read disjoint parts that are there, by their entries."""
        parts: dict[range, Result] = {}
        for path, entries in part_files(self.path):
            part = self.read(path, entries)
            if part is not None and all(set(entries).isdisjoint(others) for others in parts):
                parts[entries] = part
        return parts

    def tasks(self) -> list[Task]:
        """Tasks for the entries that no part holds."""
        done = set(itertools.chain(*self.parts()))
        tasks = []
        for entries in _runs(self.size, self.chunk, done):
            path = self.path if len(entries) == self.size else part_path(self.path, entries[0], entries[-1])
            checkpoint = checkpoint_path(path) if self.resumable else None
            tasks.append(Task(path, self.describe(entries), self.prepare(entries), checkpoint))
        return tasks

    def join_parts(self) -> None:
        """Store the whole result once all of its parts are there."""
        parts = self.parts()
        if sum(map(len, parts)) == self.size:
            self.join(list(parts.values())).save(self.path)


def complete(
    assemblies: Sequence[Assembly[Result]], *, n_jobs: int = 1, scheduler: str | None = None, bar: str | None = None
) -> list[Result]:
    """Make what is not stored, in parts and by workers, and read all results; for options and errors see `carry_out`.

    Results that come first are begun first.  What helped to make them is deleted in the end.  Another process that
    makes one of them is left alone: BlockingIOError, see `bpflat.locks.claimed`.
    """
    results = [assembly.stored() for assembly in assemblies]
    unfinished = [assembly for assembly, result in zip(assemblies, results, strict=True) if result is None]
    with contextlib.ExitStack() as claims:
        for assembly in unfinished:
            claims.enter_context(claimed(assembly.path))
        missing = [assembly for assembly in unfinished if assembly.stored() is None]  # one may just have been made
        for assembly in missing:
            assembly.join_parts()  # where it was killed between its last part and the whole
        owners = {task: assembly for assembly in missing for task in assembly.tasks()}
        for task in carry_out(owners, n_jobs=n_jobs, scheduler=scheduler, bar=bar):
            owners[task].join_parts()
    for assembly in assemblies:
        tidy(assembly.path)
    return [
        assembly.stored() if result is None else result for assembly, result in zip(assemblies, results, strict=True)
    ]


def _runs(size: int, chunk: int, done: set[int]) -> Iterator[range]:
    """Ranges of entries that are not `done`, none of which crosses a multiple of `chunk`."""
    missing = (entry for entry in range(size) if entry not in done)
    for _, run in itertools.groupby(enumerate(missing), key=lambda at: (at[1] // chunk, at[1] - at[0])):
        entries = [entry for _, entry in run]
        yield range(entries[0], entries[-1] + 1)


def part_path(path: Path, first: int, last: int) -> Path:
    """Where the entries `first` to `last` of the result at `path` wait for the others."""
    return path.with_name(f"{path.stem}.part-{first}-{last}.npz")


def part_files(path: Path) -> list[tuple[Path, range]]:
    """Finished parts of the result at `path` and their entries."""
    name = re.compile(rf"{re.escape(path.stem)}\.part-(\d+)-(\d+)\.npz")
    matches = ((file, name.fullmatch(file.name)) for file in sorted(path.parent.glob("*.npz")))
    return [(file, range(int(match[1]), int(match[2]) + 1)) for file, match in matches if match]


def checkpoint_path(path: Path) -> Path:
    """Where the task that will write `path` keeps its state."""
    return path.with_suffix(".checkpoint.npz")


def tidy(path: Path) -> None:
    """Delete what helped to make the result at `path`: its parts, its checkpoints, what killed processes have left.

    Files with such names that are not this program's stay, and all of them where another process makes the result.
    """
    helpers = rf"{re.escape(path.stem)}(\.part-\d+-\d+|(\.part-\d+-\d+)?\.checkpoint)\.npz"
    left = [file for file in path.parent.iterdir() if re.fullmatch(helpers, file.name) and kind_of(file) is not None]
    if left or lock_path(path).exists():
        with contextlib.suppress(OSError), claimed(path):
            for file in left:
                file.unlink(missing_ok=True)
    discard_temporaries(path.parent, rf"{helpers}|{re.escape(path.name)}")
