"""Workers of a cluster that have no checkout, or that of another revision: refused by name, never waited for."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.stored import ROOT
from tests.training.committee.toy_sweep import contents, trainings
from training import cluster
from training.cluster import identity
from training.committee import __main__ as command
from training.committee.sweep import run_all
from training.workers import SweepError

# A worker that does not find the checkout where it is installed from, only where PYTHONPATH says.
WORKER = """
import os, runpy, sys
installed = sys.argv.pop(1)
if os.environ.get("PYTHONPATH") != installed:
    sys.path[:] = [folder for folder in sys.path if folder != installed]
runpy.run_module("distributed.cli.dask_worker", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def scheduler():
    """Address of a scheduler without workers."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def start(scheduler, tmp_path):
    """A function that starts a worker with the checkout in a folder, or with none; returns its process."""
    with contextlib.ExitStack() as stack:

        def worker(name, checkout=None):
            environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            environment |= {} if checkout is None else {"PYTHONPATH": str(checkout)}
            line = [sys.executable, "-c", WORKER, str(ROOT), scheduler, "--name", name, "--no-nanny"]
            line += ["--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
            process = subprocess.Popen(line, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield worker


def wait_for(n_workers, scheduler):
    from distributed import Client

    with Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(n_workers, timeout=120)


@pytest.fixture
def other_revision(tmp_path):
    """A checkout in which one line was changed."""
    for package in ("bpflat", "training", "data"):
        shutil.copytree(ROOT / package, tmp_path / "other" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "other" / "training" / "committee" / "loss.py", "a") as file:
        file.write("\nANOTHER_REVISION = True\n")
    return tmp_path / "other"


def test_a_worker_of_another_revision_is_refused_and_the_other_finishes(
    scheduler, start, other_revision, tmp_path, capsys
):
    start("old", other_revision)
    start("same", ROOT)
    wait_for(2, scheduler)
    run_all(trainings(tmp_path / "cluster"), chunk=2, scheduler=scheduler)
    run_all(trainings(tmp_path / "serial"), threads=1)
    assert contents(tmp_path / "cluster") == contents(tmp_path / "serial")
    own = identity(("training",))["code of training"]
    (refusal,) = [line for line in capsys.readouterr().err.splitlines() if "refused" in line]
    assert refusal.startswith("the Dask worker tcp://") and refusal.endswith(f", not {own}")
    assert "is refused: its code of training is" in refusal and "code of bpflat" not in refusal


def test_a_worker_without_the_checkout_fails_soon_with_its_own_message(scheduler, start, tmp_path):
    start("bare")
    wait_for(1, scheduler)
    began = time.monotonic()
    with pytest.raises(SweepError, match=r"tcp://\S+ is refused: ModuleNotFoundError: No module named 'training'"):
        run_all(trainings(tmp_path / "cluster"), scheduler=scheduler)
    assert time.monotonic() - began < 60
    assert list((tmp_path / "cluster").iterdir()) == []


def test_a_result_that_cannot_be_fetched_is_lost_with_its_worker(scheduler, start, monkeypatch):
    """A worker that stops once it has finished, and dies: nothing waits for what it has, and the call is made again."""
    from distributed import Client

    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 0.2)
    worker = start("one", ROOT)
    wait_for(1, scheduler)
    with Client(scheduler, set_as_default=False) as client:
        crew = cluster._Crew(client, ("training",))

        def wait(happened):
            deadline = time.monotonic() + 60
            while not happened():
                assert time.monotonic() < deadline
                lost.extend(crew.look_around())
                assert list(crew.results()) == []

        lost = []
        wait(lambda: crew.accepted)
        crew.give(*crew.accepted, 7, bytes, (10_000_000,))  # too large to travel with the news that it is there
        (future,) = crew.at_work
        while future.status != "finished":
            time.sleep(0.01)
        worker.send_signal(signal.SIGSTOP)
        for _ in range(3):
            assert list(crew.results()) == [] and future in crew.at_work
        worker.kill()
        wait(lambda: lost)
        assert lost == [7] and not crew.at_work


@pytest.mark.parametrize(
    "address", ["localhost", "tcp://localhost", "tcp://", "x:y", "tcp://127.0.0.1:99999", "nonsense://host"]
)
def test_addresses_that_are_none(address, tmp_path, capsys):
    pytest.importorskip("distributed")
    assert command.main(["sgd-fast", "--out", str(tmp_path), "--scheduler", address]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: no Dask scheduler answers at {address}: an address is tcp://HOST:PORT")
