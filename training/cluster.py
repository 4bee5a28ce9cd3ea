"""Calls over the workers of a Dask cluster: those that run the same code and libraries as this process.

Not by joblib's backend for Dask, which waits for ever for a call whose workers die again and again.  A call travels as
bytes, so that neither the scheduler nor a worker has to know the code before it is asked whether it does.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib
import pickle
import platform
import queue
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.workers import SweepError

_ANSWER_SECONDS = 5  # within which a scheduler must answer
_LOOK_SECONDS = 0.5  # between two looks for workers that came or went
_MOST_DEATHS = 3  # of workers in the middle of a call
_ADDRESS = re.compile(r"(\w+://)?[^/\s]+:(?P<port>[0-9]{1,5})")
_LIBRARIES = ("numpy", "scipy", "numba", "torch")
_MEND = "Start them in this revision of the checkout with PYTHONPATH=. set, and with the same libraries"


def over_cluster(
    function: Callable, calls: Sequence[tuple], address: str, packages: Sequence[str]
) -> Iterator[tuple[int, Any]]:
    """Call `function` with each tuple of arguments on the workers of a Dask scheduler.

    Parameters
    ----------
    function : callable
        Picklable, like its arguments and results.
    calls : sequence of tuple
        Positional arguments of each call; those that come first are made first.
    address : str
        Address of the scheduler.
    packages : sequence of str
        Python packages whose code a worker must have as this process has it; others are refused, by name, on stderr.

    Yields
    ------
    tuple
        Number of a call, and what it returned, or raised.

    Raises
    ------
    SweepError
        When the scheduler does not answer, or each of its workers is refused; without dask.distributed.
    """
    waiting, deaths = deque(range(len(calls))), Counter()
    with _connect(address) as client:
        crew = _Crew(client, packages)
        while waiting or crew.at_work:
            for i in crew.look_around():
                deaths[i] += 1
                if deaths[i] < _MOST_DEATHS:
                    waiting.appendleft(i)
                else:
                    yield i, RuntimeError(f"{_MOST_DEATHS} workers died of it, perhaps for want of memory")
            for worker in crew.free():
                if waiting:
                    i = waiting.popleft()
                    crew.give(worker, i, function, calls[i])
            yield from crew.results()


class _Crew:
    """The accepted workers, and the calls that they work on."""

    def __init__(self, client, packages: Sequence[str]):
        self.client, self.packages = client, tuple(packages)
        self.own = identity(self.packages)
        self.ended: queue.SimpleQueue = queue.SimpleQueue()
        self.threads: dict[str, int] = {}
        self.asked: dict[Any, str] = {}  # futures of their identities
        self.accepted: set[str] = set()
        self.refused: dict[str, str] = {}
        self.at_work: dict[Any, tuple[int, str]] = {}  # number and worker of the future of a call

    def look_around(self) -> list[int]:
        """Ask new workers for their identity; returns the numbers of the calls lost with workers that left."""
        try:
            self.threads = self.client.nthreads()
        except Exception as error:  # of whatever lies between
            raise SweepError(f"the Dask scheduler does not answer any more ({error}); does it still run?") from error
        for worker in self.threads.keys() - self.accepted - self.refused.keys() - set(self.asked.values()):
            self.asked[self._send(worker, identity, (self.packages,))] = worker
        if self.threads and self.threads.keys() <= self.refused.keys():
            raise SweepError("\n".join([*(self.refused[worker] for worker in self.threads), _MEND]))
        self.accepted &= self.threads.keys()
        self.asked = {future: worker for future, worker in self.asked.items() if worker in self.threads}
        lost = {future: i for future, (i, worker) in self.at_work.items() if worker not in self.threads}
        for future in lost:
            del self.at_work[future]
        if lost:
            self.client.cancel(list(lost))
        return list(lost.values())

    def free(self) -> Iterator[str]:
        """Accepted workers, once for each thread that has nothing to do."""
        busy = Counter(worker for _, worker in self.at_work.values())
        for worker in sorted(self.accepted):
            yield from [worker] * (self.threads[worker] - busy[worker])

    def give(self, worker: str, i: int, function: Callable, arguments: tuple) -> None:
        """Let `worker` make call `i`."""
        self.at_work[self._send(worker, function, arguments)] = i, worker

    def results(self) -> Iterator[tuple[int, Any]]:
        """Results of the calls that have ended, after a while if there is none."""
        try:
            futures = [self.ended.get(timeout=_LOOK_SECONDS)]
        except queue.Empty:
            return
        while not self.ended.empty():
            futures.append(self.ended.get())
        for future in futures:
            if (future not in self.asked and future not in self.at_work) or future.status not in ("finished", "error"):
                continue
            try:
                answer = future.exception() if future.status == "error" else future.result(timeout=_ANSWER_SECONDS)
            except (TimeoutError, asyncio.TimeoutError):  # on its way, or gone with its worker, as `look_around` sees
                self.ended.put(future)
                continue
            if future in self.asked:
                self._judge(self.asked.pop(future), answer)
            else:
                yield self.at_work.pop(future)[0], answer

    def _judge(self, worker: str, theirs: dict[str, str] | BaseException) -> None:
        """Accept or refuse a worker, as its identity, or what asking for it raised, says."""
        if isinstance(theirs, BaseException):
            reason = f"{type(theirs).__name__}: {theirs}"
        else:
            reason = "; ".join(
                f"its {name} is {theirs[name]}, not {own}" for name, own in self.own.items() if theirs[name] != own
            )
        if reason:
            self.refused[worker] = f"the Dask worker {worker} is refused: {reason}"
            tqdm.write(self.refused[worker], file=sys.stderr)  # around a progress bar
        else:
            self.accepted.add(worker)

    def _send(self, worker: str, function: Callable, arguments: tuple):
        call = pickle.dumps(_Call(function, arguments))
        future = self.client.submit(pickle.loads, call, workers=[worker], allow_other_workers=False, pure=False)
        future.add_done_callback(self.ended.put)
        return future


@dataclass(frozen=True)
class _Call:
    """A call that is made where it is unpickled."""

    function: Callable
    arguments: tuple

    def __reduce__(self):
        return self.function, self.arguments


def identity(packages: tuple[str, ...]) -> dict[str, str]:
    """What decides the results of this process: versions of libraries and a digest of the code of `packages`."""
    versions = {name: metadata.version(name) for name in _LIBRARIES} | {"python": platform.python_version()}
    return versions | {f"code of {package}": _digest(package) for package in packages}


@functools.cache  # what changes later is not what this process has imported
def _digest(package: str) -> str:
    """First digits of the SHA-256 of the modules of a package, and of their names."""
    digest = hashlib.sha256()
    for folder in map(Path, importlib.import_module(package).__path__):
        for path in sorted(folder.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def _connect(address: str):
    """Return a client of the Dask scheduler at `address` once that has a worker."""
    try:
        from distributed import Client
    except ImportError as error:
        raise SweepError(
            f"a sweep on a cluster needs dask.distributed ({error}); install it: pip install 'bpflat[cluster]'"
        ) from error
    parts = _ADDRESS.fullmatch(address)
    if not parts or not 0 < int(parts["port"]) < 2**16:
        raise SweepError(
            f"no Dask scheduler answers at {address}: an address is tcp://HOST:PORT, as `dask scheduler` prints it"
        )
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
