"""Training runs as users meet them: checkpoints, kills, result files, bad input, the command line."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from bpflat.storage import load_npz, save_npz
from tests.stored import ROOT
from tests.training.committee.toy_training import small, toy
from training.committee import __main__ as command
from training.committee.checkpoints import KIND
from training.committee.protocols import PROTOCOLS, Protocol
from training.committee.results import TrainedMinima
from training.committee.trainer import train
from training.progress import StatusLine

# checkpoints


class Killed(Exception):
    pass


@pytest.mark.parametrize("n_inputs", [21, 81])  # fewer and more than patterns
@pytest.mark.parametrize("name", ["sgd-fast", "rsgd-fast", "esgd"])
def test_a_resumed_run_ends_with_the_same_bits(name, n_inputs, tmp_path):
    patterns, labels = toy(n_inputs=n_inputs)
    changes = {"sgd-fast": {"max_epochs": 400, "eta": 5e-3}, "rsgd-fast": {"y": 2}, "esgd": {"epsilon": 0.01}}[name]
    protocol = small(name, **changes)
    undisturbed = train(protocol, patterns, labels, restarts=3)
    kill_at = int(np.sort(undisturbed.epochs)[1]) + 2 if name == "sgd-fast" else 4  # one or two have ended
    path = tmp_path / "run.checkpoint.npz"

    def kill(report):
        if report.epoch == kill_at:
            raise Killed

    options = {"restarts": 3, "checkpoint": path, "checkpoint_every": 0.0}
    with pytest.raises(Killed):
        train(protocol, patterns, labels, progress=kill, **options)
    seen = []
    resumed = train(protocol, patterns, labels, progress=lambda report: seen.append(report.epoch), **options)
    assert seen[0] == kill_at
    assert np.array_equal(resumed.weights, undisturbed.weights)
    assert np.array_equal(resumed.epochs, undisturbed.epochs)
    assert np.array_equal(resumed.status, undisturbed.status)
    assert np.array_equal(resumed.distance, undisturbed.distance, equal_nan=True)
    assert path.exists()  # until the caller has stored the result; a run that finds it has nothing left to do
    again = train(protocol, patterns, labels, progress=lambda report: pytest.fail("trained"), **options)
    assert np.array_equal(again.weights, undisturbed.weights)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    patterns, labels = toy()
    path = tmp_path / "run.checkpoint.npz"
    train(small("sgd-slow"), patterns, labels, checkpoint=path)
    with pytest.raises(ValueError, match=r"run\.checkpoint\.npz is of another run: its protocol\.eta is"):
        train(small("sgd-slow", eta=1e-2), patterns, labels, checkpoint=path)
    with pytest.raises(ValueError, match="its seed is 0, not 1"):
        train(small("sgd-slow"), patterns, labels, seed=1, checkpoint=path)
    with pytest.raises(ValueError, match="its patterns is"):
        train(small("sgd-slow"), patterns, -labels, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="checkpoint"):
        train(small("sgd-slow"), patterns, labels, checkpoint=path)


def test_a_checkpoint_of_the_first_release_is_gone_on_from(tmp_path):
    """Its conventions had another name."""
    patterns, labels = toy()
    protocol = small("rsgd-fast", y=2)
    path = tmp_path / "run.checkpoint.npz"
    whole = train(protocol, patterns, labels, checkpoint=path)
    arrays = load_npz(path, KIND)
    configuration = json.loads(str(arrays["configuration"]))
    for name in ("start", "pull", "outer_step"):
        del configuration["protocol"][name]
    configuration["protocol"]["coupling"] = "batch"
    save_npz(path, KIND, **arrays | {"configuration": json.dumps(configuration)})
    again = train(protocol, patterns, labels, checkpoint=path, progress=lambda report: pytest.fail("trained"))
    assert np.array_equal(again.weights, whole.weights)
    with pytest.raises(ValueError, match=r"its protocol\.pull is 'eta B gamma', not 'gamma'"):
        train(dataclasses.replace(protocol, pull="gamma"), patterns, labels, checkpoint=path)


# results and the command line


def test_a_result_survives_its_file(tmp_path):
    patterns, labels = toy()
    result = train(small("rsgd-fast", y=2), patterns, labels, restarts=2, seed=5, data={"data_seed": 3})
    result.save(tmp_path / "rsgd-fast.npz")
    loaded = TrainedMinima.load(tmp_path / "rsgd-fast.npz")
    assert isinstance(loaded.protocol, Protocol)
    for field in dataclasses.fields(TrainedMinima):
        a, b = getattr(result, field.name), getattr(loaded, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b
    assert loaded.data == {"data_seed": 3, "n_train": 60}
    assert set(loaded.provenance.versions) == {"bpflat", "numpy", "torch", "python"}
    assert "rSGD fast" in loaded.summary()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restarts": 0}, "restarts must be a whole number, at least 1"),
        ({"restarts": 2**70}, "restarts must be a whole number, at most"),
        ({"restarts": 2.0}, "restarts must be a whole number"),
        ({"restarts": True}, "restarts must be a whole number"),
        ({"restarts": "2"}, "restarts must be a whole number"),
        ({"restarts": [0, 1.5]}, "restarts, as indices, must be a whole number"),
        ({"restarts": [-1]}, "restarts, as indices, must be a whole number, at least 0"),
        ({"restarts": []}, "restarts must be"),
        ({"restarts": [1, 1]}, "restarts must be"),
        ({"seed": -1}, "seed must be a whole number, at least 0"),
        ({"seed": 2**70}, "seed must be a whole number, at most"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"protocol": "sgd-fast"}, "protocol must be a Protocol"),
        ({"device": "tpu"}, "device 'tpu' cannot be used"),
        ({"labels": np.zeros(60)}, "labels must be -1 or \\+1"),
        ({"labels": np.ones(59)}, "labels must have shape"),
        ({"patterns": np.ones(60)}, "patterns must have shape"),
        ({"patterns": np.full((60, 21), np.nan)}, "patterns contain NaN"),
        ({"patterns": [[1.0], [1.0, 2.0]]}, "patterns must be an array of real numbers"),
        ({"patterns": 3.0}, "patterns must have shape"),
        ({"patterns": np.full((60, 21), 1e30)}, "patterns must be of sizes between 1e-15 and 1e.15"),
        ({"patterns": np.full((60, 21), 1e-30)}, "patterns must be of sizes between 1e-15 and 1e.15"),
        ({"test_labels": np.ones(60)}, "test_labels are given without test_patterns; give both or none"),
        ({"test_patterns": np.ones((60, 21))}, "test_patterns are given without test_labels; give both or none"),
        ({"test_patterns": np.ones((3, 20)), "test_labels": np.ones(3)}, "^test_patterns have N = 20 inputs"),
        ({"test_patterns": np.full((3, 21), np.nan), "test_labels": np.ones(3)}, "^test_patterns contain NaN"),
        ({"test_patterns": np.ones((3, 21)), "test_labels": np.zeros(3)}, "^test_labels must be -1 or"),
        ({"test_patterns": np.ones((3, 21)), "test_labels": np.ones(4)}, "^test_labels must have shape"),
        ({"data": {"seed": np.arange(3)}}, "data must be a dict of text, numbers and lists"),
        ({"progress": "yes"}, "progress must be a function"),
        ({"protocol": small("sgd-fast", B=61)}, "patterns are 60, fewer than one minibatch of B = 61"),
        ({"protocol": small("rsgd-fast", start="equal", B=60)}, "patterns are 60, as many as a minibatch holds"),
        ({"threads": 0}, "threads must be a whole number, at least 1"),
        ({"threads": 1.5}, "threads must be a whole number"),
        ({"checkpoint_every": -1.0}, "checkpoint_every"),
        ({"checkpoint_every": np.nan}, "checkpoint_every"),
    ],
)
def test_bad_input_names_the_argument_before_anything_is_trained(changes, message):
    patterns, labels = toy()
    arguments = {"protocol": small("sgd-fast"), "patterns": patterns, "labels": labels}
    arguments |= {"progress": lambda report: pytest.fail("trained")} | changes
    with pytest.raises(ValueError, match=message):
        train(**arguments)


def test_the_number_of_threads_is_set_back():
    before = torch.get_num_threads()
    train(small("sgd-fast"), *toy(), threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="use device='cpu'"):
        train(small("sgd-fast"), *toy(), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    patterns, labels = toy()
    protocol = small("rsgd-fast", y=3)
    a, b = (train(protocol, patterns, labels, restarts=2, device=d).weights for d in ("cpu", "cuda"))
    assert a == pytest.approx(b, abs=1e-4)


def test_unknown_protocols_are_named(capsys, tmp_path):
    assert command.main(["sgd", "--out", str(tmp_path)]) == 2
    assert "protocol must be one of sgd-fast, sgd-slow" in capsys.readouterr().err


def test_the_command_trains_stores_and_does_not_train_twice(tmp_path, capsys):
    arguments = ["sgd-slow", "--restarts", "2", "--max-epochs", "3", "--schedule-speed", "2", "--out", str(tmp_path)]
    assert command.main(arguments) == 0
    assert "reached the cap" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["sgd-slow.npz"]
    result = TrainedMinima.load(tmp_path / "sgd-slow.npz")
    assert result.weights.shape == (2, 9, 784)
    assert result.protocol.schedule_speed == 2.0
    assert result.data["n_train"] == 500
    assert len(result.data["train_indices"]) == 500
    assert np.all(result.test_error_balanced > result.test_error)  # the classes are unbalanced
    stamp = (tmp_path / "sgd-slow.npz").stat().st_mtime_ns
    assert command.main(arguments) == 0
    assert (tmp_path / "sgd-slow.npz").stat().st_mtime_ns == stamp
    assert command.main([*arguments, "--seed", "1"]) == 2
    assert "its seed is 0, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "fields"),
    [
        ("rsgd-fast", ["--start", "equal", "--pull", "gamma"], {"start": "equal", "pull": "gamma"}),
        ("esgd", ["--pull", "eta gamma", "--outer-step", "eta"], {"pull": "eta gamma", "outer_step": "eta"}),
        ("sgd-slow", ["--reduction", "mean"], {"reduction": "mean"}),
    ],
)
def test_conventions_are_options_and_stored_with_the_result(name, options, fields, tmp_path, capsys):
    arguments = [name, "--restarts", "1", "--max-epochs", "1", "--out", str(tmp_path)]
    assert command.main([*arguments, *options]) == 0
    stored = json.loads(str(load_npz(tmp_path / f"{name}.npz", "trained-minima")["protocol"]))
    assert {key: stored[key] for key in fields} == fields
    assert TrainedMinima.load(tmp_path / f"{name}.npz").protocol == dataclasses.replace(
        PROTOCOLS[name], max_epochs=1, **fields
    )
    assert command.main(arguments) == 2  # the default conventions are another configuration
    assert "is of another run: its protocol." in capsys.readouterr().err


def test_conventions_without_effect_are_refused_by_the_command(tmp_path, capsys):
    assert command.main(["sgd-fast", "--pull", "gamma", "--out", str(tmp_path)]) == 2
    assert "pull = 'gamma' needs algorithm='rsgd' or 'esgd'" in capsys.readouterr().err
    assert command.main(["esgd", "--pull", "gamma", "--restarts", "1", "--out", str(tmp_path)]) == 2
    assert "pull = 'gamma' is 10 in the first epoch" in capsys.readouterr().err


def test_a_killed_process_goes_on_where_it_was(tmp_path):
    arguments = [sys.executable, "-m", "training.committee", "sgd-slow", "--restarts", "2", "--max-epochs", "400"]
    arguments += ["--checkpoint-every", "0.2", "--threads", "1", "--out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    quiet = {"cwd": ROOT, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*arguments, str(tmp_path / "a")], check=True, **quiet)
    process = subprocess.Popen([*arguments, str(tmp_path / "b")], **quiet)
    checkpoint = tmp_path / "b" / "sgd-slow.checkpoint.npz"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b" / "sgd-slow.npz").exists()
    subprocess.run([*arguments, str(tmp_path / "b")], check=True, **quiet)
    a, b = (TrainedMinima.load(tmp_path / name / "sgd-slow.npz") for name in "ab")
    assert np.array_equal(a.weights, b.weights)
    assert not checkpoint.exists()


def test_the_status_line_says_what_is_going_on(capsys):
    patterns, labels = toy()
    status = StatusLine(interval=0.0)
    train(small("rsgd-fast", y=2), patterns, labels, restarts=2, progress=status)
    status.close()
    line = capsys.readouterr().err.splitlines()[-1]
    for word in ("rsgd-fast epoch 6/6", "β", "ω", "γ", "errors min", "distance", "2 running", "epochs/s"):
        assert word in line


def test_results_without_weights(tmp_path):
    """What is left after the weights still says whose it is."""
    protocol = small("sgd-fast", max_epochs=2)
    whole = command.run(protocol, tmp_path, restarts=2)
    whole.without_weights().save(tmp_path / "slim.npz")
    slim = TrainedMinima.load(tmp_path / "slim.npz")
    assert slim.weights.shape == (0, *whole.weights.shape[1:])
    assert list(slim.reference) == list(whole.reference) and len(set(whole.reference)) == 2
    assert list(slim.test_error) == list(whole.test_error)
    assert (tmp_path / "slim.npz").stat().st_size < (tmp_path / f"{protocol.name}.npz").stat().st_size / 2
