"""Two processes that share the draws of the local energy come to what one finds."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bpflat.flatness import local_energy
from tests.bpflat.flatness import shared_draws
from tests.bpflat.flatness.shared_draws import CASES
from tests.bpflat.flatness.toy_models import trained
from tests.stored import ROOT


@pytest.fixture
def one_thread():
    """One thread, as the processes have: sums in float32 depend on their number, and so do trained weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_processes(tmp_path, one_thread):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", shared_draws.__name__]
    both = [subprocess.Popen([*command, str(rank), tmp_path], env=environment, cwd=ROOT) for rank in range(2)]
    try:
        assert [process.wait(timeout=600) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    found = {path.stem: dict(np.load(path)) for path in tmp_path.glob("*.npz")}
    model, *data = trained.__wrapped__()  # not the one that another test trained with more threads
    for name, options in CASES.items():
        one = vars(local_energy(model, tuple(data), [0.2, 0.5], seed=1, **options))
        for rank in range(2):
            for field in ("delta_error", "std_error", "delta_loss", "loss_std_error", "train_error", "train_loss"):
                assert_allclose(found[f"{name}-{rank}"][field], one[field], rtol=1e-5, err_msg=f"{name} {field}")
            assert (found[f"{name}-{rank}"]["n_samples"] == one["n_samples"]).all()
    assert (found["fresh-0"]["delta_loss"] == found["fresh-1"]["delta_loss"]).all()
    assert (found["fresh-0"]["delta_loss"] != found["plain-0"]["delta_loss"]).all()
    assert (found["alone-0"]["delta_loss"] != found["alone-1"]["delta_loss"]).all()
