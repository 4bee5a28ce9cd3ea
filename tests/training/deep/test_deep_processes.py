"""Replicas of a recipe over processes: the curves of one process; a dead process ends the job, and the job resumes."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from numpy.testing import assert_allclose, assert_array_equal

from tests.gloo_processes import launcher
from tests.stored import ROOT
from tests.training.deep import deep_processes
from tests.training.deep.toy_deep import coloured_images, read_events, short, stable
from training.deep.__main__ import main
from training.deep.processes import first_decides, gather_states, is_first, own_replicas, process_group
from training.deep.results import DeepRun

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
NAME = "resnet18-cifar10-rsgd-seed0"


@pytest.fixture(scope="module")
def launch():
    return launcher("tests.training.deep.deep_processes")


@pytest.fixture(scope="module")
def three(launch, data, tmp_path_factory):
    """Folder of a run of three processes that nothing happened to."""
    out = tmp_path_factory.mktemp("three") / "run"
    assert launch(3, out.parent, "whole", deep_processes.train, out, data, 3) == [0, 0, 0]
    return out


def load(out):
    return DeepRun.load(out / f"{NAME}.npz")


def centre_of(out):
    return torch.load(out / f"{NAME}.pt", weights_only=True)


def assert_close(out, other):
    """Curves and centres that differ by what rounding of the mean makes of itself in 20 steps."""
    first, second = load(out), load(other)
    assert first.configuration == second.configuration
    assert_allclose(stable(first), stable(second), rtol=2e-4)
    assert first.gamma0 == pytest.approx(second.gamma0, rel=1e-5)
    ours, theirs = centre_of(out), centre_of(other)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


def test_three_processes_agree_with_one(three, data, tmp_path):
    single = short(deep_processes.replicas(), tmp_path, data)
    assert_close(three, tmp_path)
    assert single.curve("distance")[0] > 0 and single.curve("passes")[-1] == pytest.approx(12 * 100 / 110)
    for rank in range(3):  # all processes return the same
        assert_array_equal(stable(DeepRun.load(three.parent / f"run-{rank}.npz")), stable(load(three)))


def test_the_first_process_alone_writes(three):
    assert {path.name for path in three.iterdir()} == {f"{NAME}.{end}" for end in ("npz", "pt", "csv", "events")}
    assert len(list((three / f"{NAME}.events").iterdir())) == 1
    assert read_events(three / f"{NAME}.events")["loss/train"][0].tolist() == [1, 2, 3, 4]


def test_two_replicas_in_each_of_two_processes(launch, data, tmp_path):
    assert launch(2, tmp_path, "four", deep_processes.train, tmp_path / "two", data, 4) == [0, 0]
    short(deep_processes.replicas(4), tmp_path / "one", data)
    assert_close(tmp_path / "two", tmp_path / "one")


def test_a_killed_process_ends_the_job_which_resumes_from_its_checkpoint(launch, three, data, tmp_path):
    """Three processes go on bit for bit as if never stopped; one process, too, but for rounding."""
    out = tmp_path / "run"
    arguments = (out, data, 3)
    assert launch(3, tmp_path, "killed", deep_processes.train_until_killed, *arguments) == [1, 1, -signal.SIGKILL]
    assert "RuntimeError" in (tmp_path / "killed-0.error").read_text(encoding="utf-8")
    checkpoint = torch.load(out / f"{NAME}.checkpoint.pt", weights_only=True)
    assert checkpoint["epoch"] == 2 and len(checkpoint["models"]) == len(checkpoint["optimizer"]["replicas"]) == 3
    assert not (out / f"{NAME}.npz").exists()
    shutil.copytree(out, tmp_path / "one")
    assert launch(3, tmp_path, "resumed", deep_processes.train, *arguments) == [0, 0, 0]
    assert_array_equal(stable(load(out)), stable(load(three)))
    ours, whole = centre_of(out), centre_of(three)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)
    assert read_events(out / f"{NAME}.events")["loss/train"][0].tolist() == [1, 2, 3, 4]
    short(deep_processes.replicas(), tmp_path / "one", data)
    assert_close(tmp_path / "one", three)


def test_three_processes_go_on_where_one_stopped(launch, three, data, tmp_path):
    def stop(report):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        short(deep_processes.replicas(), out, data, checkpoint_every=0, progress=stop)
    shutil.copytree(out, tmp_path / "split" / "0")
    assert launch(3, tmp_path, "resumed", deep_processes.train, out, data, 3) == [0, 0, 0]
    assert_close(out, three)
    split = (tmp_path / "split", data, 3)
    assert 1 in launch(3, tmp_path, "split", deep_processes.train_in_two_folders, *split)
    errors = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("split-*.error"))
    assert "must all reach the same folder" in errors


def test_replicas_are_shared_equally(monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda group: 3)
    monkeypatch.setattr(dist, "get_rank", lambda group: 2)
    group = object()
    assert own_replicas(6, group) == range(4, 6) and own_replicas(3, group) == range(2, 3)
    with pytest.raises(ValueError, match="4 replicas cannot be shared equally by 3 processes"):
        own_replicas(4, group)
    with pytest.raises(ValueError, match="one network, without replicas, cannot use 3 processes"):
        own_replicas(1, group)
    assert not is_first(group)


def test_one_process_needs_no_others():
    with process_group("cpu") as (group, device):
        assert (group, device) == (None, "cpu")
    assert own_replicas(3, None) == range(3) and is_first(None)
    assert first_decides(7, None) == 7 and gather_states({"a": 1}, None) == [{"a": 1}]


def test_under_torchrun(tmp_path):
    data = coloured_images(tmp_path / "toy.npz", n_train=130)
    program = ["smallconvnet-cifar10", "--algorithm", "rsgd", "--data", str(data), "--device", "cpu"]
    program += ["--epochs-scale", "0.12", "--threads", "1", "--out"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    command += ["-m", "training.deep", *program, str(tmp_path / "three")]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("smallconvnet-cifar10 rsgd seed 0: 12 epochs") == 1
    threads = torch.get_num_threads()
    try:
        assert main([*program, str(tmp_path / "one")]) == 0
    finally:
        torch.set_num_threads(threads)
    three, single = (DeepRun.load(tmp_path / n / "smallconvnet-cifar10-rsgd-seed0.npz") for n in ("three", "one"))
    assert_allclose(stable(three), stable(single), rtol=1e-3)
