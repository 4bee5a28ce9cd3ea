"""The call of `local_entropy`: what it leaves alone, what it refuses, and what it says of points that fail."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.nn import functional as F

from bpflat import LocalEntropyCurve
from bpflat.flatness import local_entropy
from bpflat.flatness.passes import Passes
from tests.bpflat.flatness.toy_models import Fails, surest, untouched

LARGE = 2.0  # a σ that takes a ladder
FEW = {"n_samples": 100, "n_chains": 2, "seed": 0}


def network(double=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(200, 6)
    if double:
        model, inputs = model.double(), inputs.double()
    inputs = surest(model, inputs, 40)
    return model, (inputs, model(inputs).argmax(1))


class Recurrent(nn.Module):
    """What vmap cannot do."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(x.view(len(x), 2, 3))[0][:, -1]


class TestSameNumbers:
    def test_together_or_not(self):
        """One after the other, some at once, or all; batches of any size; dtype to rounding."""
        model, data = network()
        alone, some, most = (local_entropy(model, data, [0.2, LARGE], together=n, **FEW) for n in (1, 3, None))
        assert_array_equal(alone.n_temperatures > 1, [False, True])
        small = local_entropy(model, data, [0.2, LARGE], together=1, batch_size=5, **FEW)
        for other in (some, most, small):
            assert_array_equal(alone.rhat, other.rhat)  # of all energies
            assert_array_equal(alone.log_z, other.log_z)
            assert_allclose(alone.distance, other.distance, rtol=1e-12)

    def test_rejection_is_exact(self):
        """Small batches save passes; without sorted patterns fewer of them; the numbers are the same."""
        model, data = network()
        whole, small = (local_entropy(model, data, [LARGE], batch_size=n, **FEW) for n in (40, 4))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Passes, "sort_patterns", lambda self, states: list(states))
            plain = local_entropy(model, data, [LARGE], batch_size=4, **FEW)
        assert whole.n_temperatures[0] > 1 and whole.rhat == small.rhat == plain.rhat
        assert small.passes[0] < plain.passes[0] < whole.passes[0]

    def test_seeds(self):
        model, data = network()
        curve, longer = (local_entropy(model, data, sigmas, **FEW) for sigmas in ([0.5], [0.5, 0.6]))
        assert curve.log_z[0] == longer.log_z[0] < 0
        assert curve.log_z != local_entropy(model, data, [0.5], **FEW | {"seed": 1}).log_z

    def test_what_vmap_cannot_do(self):
        """Recurrent networks, one after the other; asked for together, a message."""
        data = torch.randn(10, 6), torch.arange(10) % 3
        curve = local_entropy(Recurrent(), data, [0.01], **FEW)
        assert curve.passes[0] >= 200
        with pytest.raises(ValueError, match=r"cannot be made together .*; set together=1"):
            local_entropy(Recurrent(), data, [0.01], together=4, **FEW)


class TestUntouched:
    @pytest.mark.parametrize("options", [{}, {"together": 1}, {"batch_norm": "recompute", "block_size": 45}])
    def test_model(self, small, options):
        """BatchNorm, dropout, shared and frozen parameters, flags, gradients, random numbers."""
        model, inputs, targets = small
        with untouched(model, inputs, targets):
            curve = local_entropy(model, (inputs, targets), [0.02], **FEW, **options)
        assert curve.n_weights == sum(p.numel() for p in model.parameters() if p.requires_grad)

    def test_after_a_failure(self, small, fails):
        model, inputs, targets = small
        fails(lambda n_call, n_rows: KeyboardInterrupt() if n_call > 60 else None)
        model = Fails(model)
        with untouched(model, inputs, targets), pytest.raises(KeyboardInterrupt):
            local_entropy(model, (inputs, targets), [0.1], together=1, **FEW)
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


class TestNotConverged:
    def test_sigma_too_large(self):
        """NaN, converged False and a message; the other points stand."""
        model, data = network()
        curve = local_entropy(model, data, [0.05, 1e4], max_temperatures=3, **FEW)
        assert_array_equal(curve.converged, [True, False])
        assert np.isnan([curve.phi[1], curve.log_z[1], curve.std_error[1], curve.distance[1]]).all()
        assert curve.message[0] == "" and np.isfinite(curve.phi[0])
        assert "the ladder ends after 3 inverse temperatures" in curve.message[1] and "smaller σ" in curve.message[1]

    def test_chains_that_disagree(self, monkeypatch):
        model, data = network()
        monkeypatch.setattr("bpflat.estimators.tempering.RHAT", 1.0)
        curve = local_entropy(model, data, [LARGE], max_passes=2500, **FEW)
        assert curve.n_temperatures[0] > 1 and curve.n_iter[0] > 100 * 2 and curve.passes[0] <= 2500
        assert not curve.converged[0] and np.isnan(curve.phi[0]) and "R-hat" in curve.message[0]
        assert "beyond 2,500" in curve.message[0]
        once = local_entropy(model, data, [LARGE], max_passes=0, **FEW)
        assert once.n_iter[0] == 100 * 2 and once.passes[0] < curve.passes[0]
        assert np.isnan(curve.cumulants().log_mean_exp).all()


def test_counting():
    """Little noise: a single temperature, whose samples are independent; nothing happens, and that is no certainty."""
    model, data = network()
    curve = local_entropy(model, data, [1e-9], **FEW)
    assert curve.n_temperatures[0] == 1 and np.isnan(curve.swap_rate[0])
    assert curve.log_z[0] == 0 and curve.std_error[0] == pytest.approx(1 / (200 * curve.n_weights))


def test_round_trip(tmp_path):
    model, data = network()
    curve = local_entropy(model, data, [0.05, 0.5], **FEW)
    curve.save(tmp_path / "curve.npz")
    back = LocalEntropyCurve.load(tmp_path / "curve.npz")
    assert back == curve and list(back.message) == list(curve.message) and back.scale == "multiplicative"
    assert_array_equal(back.cumulants().mean_errors, curve.cumulants().mean_errors)


def test_progress(capsys):
    """A bar over all sweeps, with the time that is left, on stderr; by default nothing."""
    model, data = network()
    local_entropy(model, data, [0.1, 0.2], **FEW)
    assert capsys.readouterr().err == ""
    local_entropy(model, data, [0.1, 0.2], progress=True, **FEW)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("Φ: 100%") and "240/240" in last and "sigma=0.2" in last


def test_other_precision():
    model, data = network(double=False)
    curve = local_entropy(model, data, [0.1], precision="bfloat16", **FEW)
    assert np.isfinite(curve.rhat[0])


class Wrong:
    """Random errors of a model that does repeat itself."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, outputs, batch):
        return (torch.rand(len(outputs), generator=self.generator) < 0.5).float()


def infinite(outputs, batch):
    return torch.full((len(outputs),), torch.inf) + outputs[:, 0]


def test_bad_input():
    model, data = network()
    zero = nn.Linear(6, 3).double()
    nn.init.zeros_(zero.weight)
    nn.init.zeros_(zero.bias)
    cross_entropy = {"loss": lambda outputs, batch: F.cross_entropy(outputs, batch[1], reduction="none")}
    forward = {"forward": lambda model, batch: model(batch[0])}
    dropout = nn.Sequential(model, nn.Module())
    dropout[1].forward = F.dropout
    cases = [
        (model, {"sigmas": [0.0, 0.1]}, "sigmas must be positive"),
        (model, {"scale": "layer"}, "scale 'layer' is unknown"),
        (model, {"beta": 0.0}, "beta must be finite and greater than 0"),
        (model, {"n_samples": 99}, "n_samples must be a whole number, at least 100"),
        (model, {"n_chains": 1}, "n_chains must be a whole number, at least 2"),
        (model, {"together": 0}, "together must be a whole number, at least 1"),
        (model, {"max_temperatures": 1}, "max_temperatures must be a whole number, at least 2"),
        (model, {"max_passes": -1}, "max_passes must be a whole number, at least 0"),
        (model, {"betas": [-1.0, 0.0]}, "betas must be at least 0"),
        (model, {"batch_norm": "train"}, "batch_norm .* is unknown"),
        (model, {"together": 2, "batch_norm": "recompute"}, None),
        (model, cross_entropy | forward, "beta must be given with a loss and no error"),
        (model, {"loss": infinite, "beta": 1.0} | forward, "loss of the model is infinite"),
        (model, {"error": Wrong()}, "two passes over the same batch do not agree.*`error`"),
        (dropout, {}, "two passes over the same batch do not agree"),
        (zero, {}, "scale 'multiplicative' leaves all parameters as they are"),
        (model, {"parameters": []}, "chooses none"),
        (nn.ReLU(), {}, "no trainable parameters"),
    ]
    for bad, options, message in cases:
        arguments = {"sigmas": [0.1], **FEW, **options}
        if message is None:  # there is no BatchNorm to estimate
            local_entropy(bad, data, **arguments)
            continue
        with pytest.raises(ValueError, match=message):
            local_entropy(bad, data, **arguments)
            pytest.fail(message)
