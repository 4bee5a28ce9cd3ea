"""Calls over the processes of this machine, the one place that sets their threads, their signals and their end."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from typing import TypeVar

from joblib import Parallel, delayed, parallel_config

from bpflat.arguments import check_jobs

Result = TypeVar("Result")
_WATCH_SECONDS = 0.1


def over_processes(
    function: Callable[..., Result], calls: Iterable[tuple], n_jobs: int, **options: object
) -> Iterator[Result]:
    """Call `function` with each tuple of arguments, over processes that have one BLAS thread each.

    Parameters
    ----------
    function : callable
        Picklable where there is more than one process.
    calls : iterable of tuple
        Positional arguments of each call.
    n_jobs : int
        Processes, as in joblib: 1 is this process, -1 one per core.
    **options
        Options of `joblib.Parallel`, such as ``return_as="generator_unordered"``.

    Returns
    -------
    iterator
        What the calls return, in their order, as it comes.

    Raises
    ------
    ValueError
        For a bad number of processes.

    Notes
    -----
    The processes work in the folder of this one, leave interruptions (Ctrl-C, SIGTERM) to it, and end within a
    fraction of a second when it is gone, however it ended: nobody writes when the same command is given again.
    """
    with parallel_config("loky", inner_max_num_threads=1):
        parallel = Parallel(**{"n_jobs": check_jobs(n_jobs), "return_as": "generator"} | options)
    if n_jobs == 1:
        return parallel(delayed(function)(*call) for call in calls)
    call_in_folder = functools.partial(_call, os.getpid(), os.getcwd(), function)
    with _deaf_children():
        return parallel(delayed(call_in_folder)(*call) for call in calls)


def _call(driver: int, folder: str, function: Callable[..., Result], *arguments: object) -> Result:
    """Call `function` in the process `driver` or in a child of it, which works in its folder and ends with it."""
    if driver != os.getpid():  # not so where -1 means one
        os.chdir(folder)  # the child may have been started in another one
        _end_with(driver)
    return function(*arguments)


@functools.cache  # once per process
def _end_with(driver: int) -> None:
    """Let this process end when its parent, the process `driver`, is gone."""

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes that are started in the block never hear SIGINT and SIGTERM: they end with this one."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which joblib starts, and which ends the blocking when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
