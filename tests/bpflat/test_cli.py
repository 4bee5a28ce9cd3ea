"""The ``bpflat`` command: its numbers, its files, its errors."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bpflat import LocalEntropyCurve, local_energy, local_entropy
from bpflat.cli import main
from tests.instances import random_instance
from tests.stored import STORED


@pytest.fixture
def problem():
    return random_instance(51, 3, 20)


@pytest.fixture
def mine(problem, tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, weights=problem[0], patterns=problem[1], labels=problem[2])
    return str(path)


@pytest.mark.parametrize("method", ["bp", "ep"])
def test_entropy_json(mine, problem, capsys, method):
    assert main(["entropy", mine, "--distances", "0.05", "0.25", "--method", method, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    expected = local_entropy(*problem, distances=[0.05, 0.25], method=method)
    assert_allclose(record["phi"], expected.phi, rtol=1e-9)
    assert record["converged"] == [True, True] and record["beta"] == [None, None] and record["method"] == method


@pytest.mark.parametrize(("options", "measure"), [([], "count"), (["--beta", "2.0"], "cost")])
def test_the_output_says_what_is_counted(mine, capsys, options, measure):
    assert main(["entropy", mine, "--deltas", "0.1", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["measure"] == measure
    assert main(["entropy", mine, "--deltas", "0.1", *options]) == 0
    assert ("at the cost beta" in capsys.readouterr().out) == (measure == "cost")


def test_energy_json(mine, problem, capsys):
    assert main(["energy", mine, "--sigmas", "0.1", "1.0", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert_allclose(record["delta_error"], local_energy(*problem, [0.1, 1.0], method="exact").delta_error)


def test_table_file_picture_and_info(mine, tmp_path, capsys):
    out, picture = tmp_path / "curve.npz", tmp_path / "curve.png"
    assert main(["entropy", mine, "--out", str(out), "--plot", str(picture)]) == 0
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 14 and picture.stat().st_size > 1000
    assert LocalEntropyCurve.load(out).phi.shape == (12,)
    assert main(["info", str(out)]) == 0
    assert capsys.readouterr().out == table


def test_trained_minima_bring_their_patterns(capsys):
    assert main(["energy", str(STORED / "sgd-slow.npz"), "--sigmas", "1.0", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["train_error"] == [0.0] * 3 and np.shape(record["delta_error"]) == (3, 1)


@pytest.mark.parametrize("data", ["anything", "[3]", 1.5])
def test_an_own_array_called_data(tmp_path, capsys, data):
    """It says nothing of patterns: the bundled ones are drawn."""
    np.savez(tmp_path / "mine.npz", weights=np.random.default_rng(0).normal(size=(3, 784)), data=data)
    assert main(["energy", str(tmp_path / "mine.npz"), "--n-train", "20", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sigma"]) == 10


def test_weights_of_no_shape(tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", weights=3.0)
    assert main(["energy", str(tmp_path / "mine.npz")]) == 2
    assert "weights must have shape" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["entropy", "nowhere.npz"], "nowhere.npz"),
        (["info", "MINE"], "of kind 'unmarked'"),
        (["entropy", "MINE", "--deltas", "1", "0.5"], "deltas must rise strictly"),
        (["energy", "MINE", "--sigmas", "-1"], "sigmas must be at least 0"),
        (["entropy", "MINE", "--data", "MINE", "--out", "/proc/nope/x.npz"], "cannot write /proc/nope/x.npz"),
        (["entropy", "ALONE"], "name them by --data"),
    ],
)
def test_errors(mine, problem, tmp_path, capsys, arguments, message):
    alone = tmp_path / "alone.npz"
    np.savez(alone, weights=problem[0])
    names = {"MINE": mine, "ALONE": str(alone)}
    assert main([names.get(a, a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bpflat: error:") and message in error


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_pipe_is_refused_before_the_work(tmp_path, capsys, option):
    """Whatever stands where a file should be written: known at once, and left there."""
    os.mkfifo(tmp_path / "pipe")
    assert main(["entropy", str(tmp_path / "no weights.npz"), option, str(tmp_path / "pipe")]) == 2
    assert f"cannot write {tmp_path / 'pipe'}" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert main(["info", str(tmp_path / "pipe")]) == 2
    assert "pipe is no regular file" in capsys.readouterr().err


def test_help_can_be_learned_from():
    text = subprocess.run(
        [sys.executable, "-m", "bpflat.cli", "entropy", "--help"], capture_output=True, text=True
    ).stdout
    for word in ("WEIGHTS.npz", "examples:", "--method", "--distances", "(R, K, N)"):
        assert word in text
