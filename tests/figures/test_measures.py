"""Measures are computed once, by one process."""

import numpy as np
import pytest

from bpflat import LocalEnergyProfile
from bpflat.locks import claimed, lock_path
from figures.measure.measures import stored


def test_what_another_process_measures_is_left_to_it(tmp_path):
    path, calls = tmp_path / "x-energy.npz", []

    def compute():
        calls.append(len(calls))
        return LocalEnergyProfile(*[np.array([0.1])] * 3, 0.0, 10, "fingerprint")

    def measured():
        return stored(path, LocalEnergyProfile, "fingerprint", compute)

    with claimed(path), pytest.raises(BlockingIOError, match=r"is in use: process .* is making x-energy\.npz"):
        measured()
    assert calls == []
    assert measured().n_samples == 10 and calls == [0]
    lock_path(path).write_text("process 1 on this machine")  # killed once the result was there
    assert measured() == measured() and calls == [0]
    assert list(tmp_path.iterdir()) == [path]
