"""Replicas over gloo processes: the same as in one process; a dead process ends the job, and the job resumes."""

import signal

import pytest
import torch

from bpflat.optim import ReplicatedSGD
from tests.bpflat.optim import replica_processes
from tests.bpflat.optim.replica_processes import Replicas
from tests.bpflat.optim.toy_networks import same_bits
from tests.gloo_processes import launcher

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")

LAYOUTS = {2: [[0, 1], [2]], 3: [[0], [1], [2]]}  # replicas of every rank


@pytest.fixture(scope="module")
def launch():
    """Run jobs in one process a rank; returns the exit codes."""
    start = launcher("tests.bpflat.optim.replica_processes")

    def launch(folder, *jobs, n_processes=2):
        return start(n_processes, folder, jobs[0], replica_processes.run, LAYOUTS[n_processes], folder, *jobs)

    return launch


def outcomes(folder, job, n_processes=2):
    return [torch.load(folder / f"{job}-{rank}.pt", weights_only=True) for rank in range(n_processes)]


@pytest.fixture(scope="module")
def two(launch, tmp_path_factory):
    """Folder of what two processes left that nothing happened to."""
    folder = tmp_path_factory.mktemp("two")
    assert launch(folder, "undisturbed", "overflow", "skipped", "mismatch") == [0, 0]
    return folder


def assert_same_as_one_process(results):
    single = Replicas(range(3))
    for _ in range(10):
        single.step()
    expected = single.outcome()
    models = [model for result in results for model in result["models"]]
    for ours, theirs in zip(expected["models"], models, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for result in results:
        assert result["y"] == 3
        torch.testing.assert_close(expected["centre"]["0.weight"], result["centre"]["0.weight"], rtol=0, atol=1e-12)
        torch.testing.assert_close(expected["centre"]["1.running_var"], result["centre"]["1.running_var"])
        assert abs(result["distance"] / expected["distance"] - 1) < 1e-9
        assert abs(result["gamma0"] / expected["gamma0"] - 1) < 1e-9


def test_two_processes_agree_with_one(two):
    assert_same_as_one_process(outcomes(two, "undisturbed"))


def test_three_processes_agree_with_one(launch, tmp_path):
    assert launch(tmp_path, "undisturbed", n_processes=3) == [0, 0, 0]
    assert_same_as_one_process(outcomes(tmp_path, "undisturbed", 3))


def test_two_processes_stopped_and_resumed_are_never_stopped(launch, two):
    assert launch(two, "resumed") == [0, 0]
    assert same_bits(outcomes(two, "undisturbed"), outcomes(two, "resumed"))


def test_a_killed_process_ends_the_job_which_resumes_from_its_checkpoint(launch, two, tmp_path):
    assert launch(tmp_path, "killed") == [1, -signal.SIGKILL]
    assert not list(tmp_path.glob("*.finished"))
    error = (tmp_path / "killed-0.error").read_text(encoding="utf-8")
    assert "all_reduce" in error
    assert launch(tmp_path, "resumed") == [0, 0]
    assert same_bits(outcomes(two, "undisturbed"), outcomes(tmp_path, "resumed"))


def test_overflow_in_one_process_keeps_all_in_step(two):
    results = outcomes(two, "overflow")
    assert [r["scale"] for r in results] == [512.0, 1024.0]
    assert [r["optimizer"]["steps"] for r in results] == [6, 6]
    assert same_bits(results[0]["centre"]["0.weight"], results[1]["centre"]["0.weight"])
    single = Replicas(range(3), dtype=torch.float32)
    for t in range(6):
        single.optimizer.zero_grad()
        sum(single.losses()).backward()
        kept = [{n: p.detach().clone() for n, p in m.named_parameters()} for m in single.models[:2]]
        skipping = single.optimizer.replicas[:2] if t == 1 else []
        steps = [base.step for base in skipping]
        for base in skipping:
            base.step = lambda: None
        single.optimizer.step()
        for base, step in zip(skipping, steps, strict=True):
            base.step = step
        assert (t == 1) == all(torch.equal(kept[0][n], p) for n, p in single.models[0].named_parameters())
        single.time += 1
    models = [model for result in results for model in result["models"]]
    for ours, theirs in zip(single.outcome()["models"], models, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_step_without_a_loss_in_one_process_keeps_all_in_step(two):
    """It is the step of the interaction, of which that process leaves out its own part only."""
    results = outcomes(two, "skipped")
    assert [r["optimizer"]["steps"] for r in results] == [6, 6]
    assert same_bits(results[0]["centre"]["0.weight"], results[1]["centre"]["0.weight"])


def test_processes_with_different_networks_refuse(two):
    for rank in range(2):
        message = (two / f"mismatch-{rank}.refused").read_text(encoding="utf-8")
        assert "replicas of processes 0 and 1 differ" in message


def test_without_a_group_nothing_is_communicated():
    assert ReplicatedSGD([torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)], gamma=1.0).y == 1
