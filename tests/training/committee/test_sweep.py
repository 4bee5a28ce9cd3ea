"""Sweeps: chunks, workers that die, drivers that are killed, clusters that do not answer."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import re
import signal
import sys
import threading
import time

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

from bpflat.provenance import Provenance
from tests.training.committee import toy_sweep
from tests.training.committee.toy_sweep import (
    PROTOCOLS,
    contents,
    endless,
    sweep,
    sweep_in_processes,
    sweep_until,
    trainings,
)
from training import cluster as cluster_of_dask
from training import workers
from training.committee import __main__ as command
from training.committee.results import TrainedMinima
from training.committee.sweep import run_all
from training.workers import SweepError, Task, carry_out

ALL = 10**9


@pytest.fixture(scope="module")
def forks():
    """Makes processes from one that has imported everything already, with one BLAS thread, and has run nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.training.committee.toy_sweep"])
        yield context


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory):
    """Files of a serial sweep, and the number of file operations that it took."""
    for name in ("compiling", "undisturbed"):  # the first may write compiled kernels to their cache, too
        folder = tmp_path_factory.mktemp(name)
        operations = forks.Value("i", ALL)
        process = forks.Process(target=sweep_until, args=(operations, folder))
        process.start()
        process.join()
        assert process.exitcode == 0
    return contents(folder), ALL - operations.value


# chunks


def test_files_of_a_sweep(undisturbed):
    names = {f"{p.name}{suffix}.npz" for p in PROTOCOLS for suffix in ("", "-entropy", "-energy")}
    assert undisturbed[0].keys() == names


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_chunks_do_not_change_a_bit(chunk, undisturbed, tmp_path):
    run_all(trainings(tmp_path), chunk=chunk, threads=1)
    made = contents(tmp_path)
    assert made == {name: undisturbed[0][name] for name in made} and len(made) == len(PROTOCOLS)


def test_what_is_finished_is_not_trained_again(monkeypatch, undisturbed, tmp_path):
    """Also where the chunks are others; what failed is named, and stops nothing else."""
    (training, _), train, trained = trainings(tmp_path), run_all.__globals__["train"], []

    def fail_at_2(protocol, *arguments, restarts, **options):
        if 2 in restarts:
            raise ValueError("no luck")
        return train(protocol, *arguments, restarts=restarts, **options)

    monkeypatch.setattr("training.committee.sweep.train", fail_at_2)
    with pytest.raises(SweepError, match=r"^sgd-fast, restarts 2 to 2: no luck$"):
        run_all([training], chunk=1, threads=1)
    assert not training.path.exists() and len(training.assembly().parts()) == 3

    def note(*arguments, restarts, **options):
        trained.append(restarts)
        return train(*arguments, restarts=restarts, **options)

    monkeypatch.setattr("training.committee.sweep.train", note)
    run_all([training], chunk=3, threads=1)
    assert trained == [[2]]
    assert contents(tmp_path) == {"sgd-fast.npz": undisturbed[0]["sgd-fast.npz"]}
    run_all([training])
    assert trained == [[2]]


def test_parts_of_another_run_are_refused(tmp_path):
    training = trainings(tmp_path)[0]
    training.run([0, 1], threads=1).save(workers.part_path(training.path, 0, 1))
    for changes, message in (
        ({"seed": 1}, "its seed is 0, not 1"),
        ({"data_seed": 2}, "its data_seed is 0, not 2"),
        ({"restarts": 1}, "its restarts is 2, not 1"),
        ({"protocol": dataclasses.replace(training.protocol, eta=1.0)}, "its protocol.eta is"),
    ):
        with pytest.raises(ValueError, match=rf"part-0-1\.npz is of another run: {message}"):
            run_all([dataclasses.replace(training, **changes)])


def test_parts_are_joined_honestly(tmp_path):
    training = trainings(tmp_path)[0]
    a, b = training.run([1], threads=1), training.run([0], threads=1)
    made = a.provenance
    b = dataclasses.replace(b, provenance=Provenance(made.versions | {"numpy": "0"}, "!other"))
    joined = TrainedMinima.joined([a, b])
    assert joined.restart.tolist() == [0, 1] and np.array_equal(joined.weights, [b.weights[0], a.weights[0]])
    assert joined.provenance.git_revision == f"!other, {made.git_revision}"  # sorted, before any hash
    assert joined.provenance.versions == made.versions | {"numpy": f"0, {made.versions['numpy']}"}
    with pytest.raises(ValueError, match="not distinct"):
        TrainedMinima.joined([a, a])
    with pytest.raises(ValueError, match="seed differs"):
        TrainedMinima.joined([a, dataclasses.replace(b, seed=1)])


# SIGKILL


def test_a_sweep_killed_five_times_ends_with_the_same_files(forks, undisturbed, tmp_path):
    files, total = undisturbed
    moments = np.sort(np.random.default_rng(8).choice(np.arange(1, total - 5), 5, replace=False))
    left = set()
    for allowed in np.diff(moments, prepend=0):
        operations = forks.Value("i", int(allowed))
        process = forks.Process(target=sweep_until, args=(operations, tmp_path))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        left |= contents(tmp_path).keys() - files.keys()
    for trace in (r"\..*\.part", r".*\.part-\d-\d\.npz", r".*\.part-\d-\d\.checkpoint\.npz"):
        assert any(re.fullmatch(trace, name) for name in left), trace
    process = forks.Process(target=sweep_in_processes, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert contents(tmp_path) == files


def test_workers_end_with_their_driver(forks, tmp_path):
    """A driver killed alone leaves nobody behind who writes."""
    process = forks.Process(target=endless, args=(tmp_path,))
    process.start()
    try:
        wait(lambda: len(list(tmp_path.glob("*.checkpoint.npz"))) == 2)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        stamps = {}

        def quiet():
            before = dict(stamps)
            stamps.update((path, path.stat().st_mtime_ns) for path in tmp_path.glob("*.npz"))
            return stamps == before

        wait(quiet, every=0.5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "jobs", "to_group", "status"),
    [(signal.SIGINT, 1, False, 130), (signal.SIGINT, 2, True, 130), (signal.SIGTERM, 2, False, 143)],
)
def test_an_interrupted_program_says_so_and_leaves_its_checkpoints(forks, tmp_path, number, jobs, to_group, status):
    """One line, also where the terminal interrupts the workers too; nobody goes on, and the folder is free."""
    out, log = tmp_path / "out", tmp_path / "log"
    options = ("--restarts", "2", "--chunk", "1", "--max-epochs", "1000000", "--schedule-speed", "1e-6")
    line = ("sgd-slow", "--out", str(out), *options, "--checkpoint-every", "0", "--jobs", str(jobs))
    process = forks.Process(target=toy_sweep.program, args=(log, *line))
    process.start()
    try:
        wait(lambda: len(list(out.glob("*.checkpoint.npz"))) == jobs)
        (os.killpg if to_group else os.kill)(process.pid, number)
        process.join(60)
        assert process.exitcode == status
        lines = [line for line in log.read_text().splitlines() if "epoch" not in line]
        assert lines == ["interrupted; give the same command again to go on from the last checkpoint"]
        wait(lambda: not alive(process.pid))
        assert {path.suffix for path in out.iterdir()} <= {".npz", ".part"}  # a worker dies as it writes; no claim
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def alive(group):
    """Whether a process group has members."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait(condition, *, every=0.01, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(every)


# a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    distributed = pytest.importorskip("distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        local = distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=tmp_path_factory.mktemp("dask"),
        )
        with local:
            yield local


def test_a_cluster_that_loses_a_worker_ends_with_the_same_files(cluster, undisturbed, tmp_path):
    with cluster.get_client() as client:
        pids = client.run(os.getpid)
        assert len(pids) == 2
        killed = []

        def kill_one():
            """Once there is a first result, kill a worker in the middle of a task."""
            wait(lambda: any(tmp_path.glob("*.part-*.npz")))
            wait(lambda: killed or kill([address for address, tasks in client.processing().items() if tasks]))

        def kill(busy):
            for address in busy[:1]:
                os.kill(pids[address], signal.SIGKILL)
                killed.append(address)
            return killed

        thread = threading.Thread(target=kill_one)
        thread.start()
        sweep(tmp_path, chunk=1, scheduler=cluster.scheduler_address)
        thread.join()
    assert len(killed) == 1
    assert contents(tmp_path) == undisturbed[0]


def test_a_task_that_fails_on_a_cluster_is_named(cluster, tmp_path):
    training = trainings(tmp_path, n_train=10)[0]
    with pytest.raises(SweepError, match=r"sgd-fast, restarts 0 to 3: patterns are 10, fewer than one minibatch"):
        run_all([training], scheduler=cluster.scheduler_address)


def test_a_scheduler_that_does_not_answer(monkeypatch, tmp_path, capsys):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster_of_dask, "_ANSWER_SECONDS", 0.2)
    arguments = ["sgd-fast", "--out", str(tmp_path), "--scheduler"]
    assert command.main([*arguments, "tcp://127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert "no Dask scheduler answers at tcp://127.0.0.1:9 (" in error and "dask scheduler" in error
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert command.main([*arguments, "tcp://127.0.0.1:9"]) == 2
    assert "pip install 'bpflat[cluster]'" in capsys.readouterr().err


# workers


def give_up():
    os.kill(os.getpid(), signal.SIGKILL)


def divide_by_zero():
    return 1 / 0


def test_a_process_that_dies_is_reported_with_what_is_not_finished(tmp_path):
    get_reusable_executor().shutdown()  # joblib's watches processes that it adds late, to an idle pool, only later
    with pytest.raises(SweepError, match=r"Not finished: hopeless.*The same command goes on"):
        list(carry_out([Task(tmp_path / "x.npz", "hopeless", give_up)], n_jobs=2))


def test_a_defect_shows_its_traceback(tmp_path):
    with pytest.raises(SweepError, match=r"(?s)^odd: Traceback.*divide_by_zero.*ZeroDivisionError"):
        list(carry_out([Task(tmp_path / "x.npz", "odd", divide_by_zero)]))


def test_bad_numbers_of_restarts(tmp_path):
    with pytest.raises(ValueError, match="restarts must be a whole number, at least 1; got 0"):
        toy_sweep.trainings(tmp_path, restarts=0)
    with pytest.raises(ValueError, match="chunk must be a whole number, at least 1"):
        run_all(trainings(tmp_path), chunk=0)
