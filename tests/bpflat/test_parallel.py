"""Calls over processes: in order, and with one thread each."""

import os
import signal

import pytest

from bpflat.parallel import over_processes


def threads_and_process(number):
    return number, os.environ.get("OPENBLAS_NUM_THREADS"), os.getpid()


def fail_at(number):
    if number == 2:
        raise ValueError(f"no {number}")
    return number


def test_processes_have_one_thread_each_and_results_come_in_order():
    numbers, threads, processes = zip(*over_processes(threads_and_process, ((n,) for n in range(6)), 2), strict=True)
    assert numbers == tuple(range(6)) and set(threads) == {"1"}
    assert os.getpid() not in processes


def test_one_job_is_this_process_and_takes_one_call_after_the_other():
    results = over_processes(fail_at, [(1,), (2,)], 1)
    assert next(results) == 1
    with pytest.raises(ValueError, match="no 2"):
        next(results)


def blocked_signals(number):
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_processes_leave_interruptions_to_their_driver():
    for blocked in over_processes(blocked_signals, [(1,), (2,)], 2):
        assert {signal.SIGINT, signal.SIGTERM} <= blocked
    assert not {signal.SIGINT, signal.SIGTERM} & blocked_signals(0)


def folder(number):
    return os.getcwd()


def test_processes_work_in_the_folder_of_their_driver(tmp_path, monkeypatch):
    for name in ("a", "b"):  # the second time in processes that are there already
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert set(over_processes(folder, [(1,), (2,)], 2)) == {str(tmp_path / name)}


@pytest.mark.parametrize("n_jobs", [0, -5000, 4097, 10**20])
def test_bad_numbers_of_processes(n_jobs):
    with pytest.raises(ValueError, match="n_jobs must be a whole number other than 0"):
        over_processes(fail_at, [(1,)], n_jobs)
