"""The wall time of a run: kept over stops, in every file, and unknown of older ones."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.training.deep.toy_deep import short, toy
from training.deep import trainer
from training.deep.results import METRICS, DeepRun


def test_wall_time_holds_everything_but_the_pause(data, tmp_path, monkeypatch):
    """The clock moves by a second when it is read, and by 1000 after each epoch, as a slow disk would."""
    now = 0.0

    def read_clock():
        nonlocal now
        now += 1
        return now

    def after_epoch(report):
        nonlocal now
        now += 1000
        if report.epoch == 2 and not stopped:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=read_clock))
    options = {"epochs": 3, "checkpoint_every": 0, "progress": after_epoch}
    stopped = False
    with pytest.raises(KeyboardInterrupt):
        short(toy("baseline"), tmp_path, data, **options)
    stopped, now = True, 1e6
    result = short(toy("baseline"), tmp_path, data, **options)
    assert result.curve("seconds").tolist() == [3, 1003, 3]
    assert result.wall_time == 1009 and result.training_time == pytest.approx(3)


def test_runs_stored_before_wall_times_were(data, tmp_path):
    result = short(toy("rsgd"), tmp_path, data, epochs=2)
    path = tmp_path / "resnet18-cifar10-rsgd-seed0.npz"
    dataclasses.replace(result, curves=result.curves[:, : METRICS.index("seconds")]).save(path)
    old = DeepRun.load(path)
    assert_array_equal(old.curves, result.curves[:, : METRICS.index("seconds")])
    assert np.isnan(old.wall_time) and old.training_time == result.training_time
