"""Calls over the processes of this machine, the one place that sets their threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from joblib import Parallel, delayed, parallel_config

Result = TypeVar("Result")


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
    """
    with parallel_config("loky", inner_max_num_threads=1):
        parallel = Parallel(**{"n_jobs": n_jobs, "return_as": "generator"} | options)
    return parallel(delayed(function)(*call) for call in calls)
