"""Stored results of every kind: one base, one record of provenance, and files from before there was one."""

import dataclasses
import json

import numpy as np
import pytest

from bpflat.provenance import Provenance
from bpflat.storage import StoredResult, read_npz
from figures.measure.networks import Network
from figures.measure.study import Draw
from tests.stored import RESULTS
from training.committee.results import TrainedMinima
from training.deep.results import DeepRun

EARLIER = {
    TrainedMinima: "fig1-quick/sgd-fast.npz",
    DeepRun: "fig3/smallconvnet-cifar10-rsgd-seed0.npz",
    Network: "fig7/vgg-p0-b16-wd0-seed0.npz",
    Draw: "conventions/natural-0.npz",
}


@pytest.fixture(params=EARLIER, ids=lambda cls: cls.__name__)
def earlier(request):
    """A committed result and the arrays of its file."""
    path = RESULTS / EARLIER[request.param]
    return request.param.load(path), read_npz(path)


def test_one_base(earlier):
    result, arrays = earlier
    assert isinstance(result, StoredResult) and result.kind == arrays["kind"]
    names = {field.name for field in dataclasses.fields(result)}
    assert "provenance" in names and not names & {"versions", "git_revision"}


def test_earlier_record(earlier):
    """Versions and revision stood apart, and draws had no versions."""
    result, arrays = earlier
    assert result.provenance.git_revision == arrays["git_revision"] != "unknown"
    assert result.provenance.versions == json.loads(str(arrays.get("versions", "{}")))
    assert bool(result.provenance.versions) == (type(result) is not Draw)


def test_numbers_of_earlier_files(earlier):
    result, arrays = earlier
    same = [name for name in vars(result) if name in arrays and isinstance(getattr(result, name), np.ndarray)]
    assert same
    for name in same:
        np.testing.assert_array_equal(getattr(result, name), arrays[name], strict=True)


def test_stored_again(earlier, tmp_path):
    result, _ = earlier
    result.save(tmp_path / "again.npz")
    again = type(result).load(tmp_path / "again.npz")
    assert again == result and again.provenance == result.provenance
    for name, value in vars(result).items():
        assert type(getattr(again, name)) is type(value), name
    arrays = read_npz(tmp_path / "again.npz")
    assert json.loads(str(arrays["provenance"]))["git_revision"] == result.provenance.git_revision
    assert not arrays.keys() & {"versions", "git_revision"}


def test_every_field_is_compared(earlier):
    result, _ = earlier
    assert result == dataclasses.replace(result) and result != 3
    assert result == dataclasses.replace(result, provenance=Provenance({}, "another"))
    for name, value in vars(result).items():
        if isinstance(value, str | int | float | dict):
            changed = {"other": 1} if isinstance(value, dict) else "other" if isinstance(value, str) else value + 1
            assert result != dataclasses.replace(result, **{name: changed}), name


def test_flatness_is_compared_and_may_be_absent(tmp_path):
    run = DeepRun.load(RESULTS / EARLIER[DeepRun])
    flatter = dataclasses.replace(run.flatness, delta_error=run.flatness.delta_error / 2)
    assert run != dataclasses.replace(run, flatness=flatter)
    without = dataclasses.replace(run, flatness=None)
    without.save(tmp_path / "run.npz")
    assert DeepRun.load(tmp_path / "run.npz") == without != run


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        *((cls, "versions") for cls in (TrainedMinima, DeepRun, Network)),
        *((cls, "provenance") for cls in EARLIER),
        (TrainedMinima, "protocol"),
        (TrainedMinima, "data"),
        (DeepRun, "configuration"),
    ],
)
@pytest.mark.parametrize("text", ["", "[]", "3", '{"nothing": '])
def test_damaged_text_is_refused(cls, name, text, tmp_path):
    np.savez_compressed(tmp_path / "damaged.npz", **(read_npz(RESULTS / EARLIER[cls]) | {name: text}))
    with pytest.raises(ValueError, match=r"damaged\.npz .*make it again"):
        cls.load(tmp_path / "damaged.npz")
