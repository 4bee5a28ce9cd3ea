"""What the local energy of torch models refuses, and that its results can be stored."""

import contextlib
import copy
import socket

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn
from torch.nn import functional as F

import bpflat
from bpflat import LocalEnergyProfile
from bpflat.flatness import local_energy
from tests.bpflat.flatness.toy_models import SIGMAS, untouched
from tests.instances import random_instance


class Sized(nn.Module):
    """Gives outputs of any form."""

    def __init__(self, form):
        super().__init__()
        self.form, self.layer = form, nn.Linear(5, 3)

    def forward(self, x):
        return self.form(self.layer(x))


def test_bad_input(small):
    model, inputs, targets = small
    data = (inputs, targets)
    flat, classes = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    nan = copy.deepcopy(model)
    with torch.no_grad():
        nan.norm.bias[2] = torch.nan
    frozen = copy.deepcopy(model).requires_grad_(False)
    locked = copy.deepcopy(model)
    locked.sock = socket.socket()
    complex_ = nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    cases = [
        (frozen, data, {}, "no trainable parameters"),
        (nn.ReLU(), data, {}, "no trainable parameters"),
        (nan, data, {}, r"parameter norm.bias has NaN or infinite"),
        (nn.LazyLinear(3), data, {}, "parameter weight has no values yet"),
        (nn.Linear(5, 3, device="meta"), data, {}, "parameter weight has no values yet"),
        (locked, data, {}, "the model cannot be copied"),
        (complex_, data, {}, "only real floating-point"),
        (lambda x: x, data, {}, "must be a torch.nn.Module, not function"),
        (model, (inputs[:0], targets[:0]), {}, "the data set is empty"),
        (model, [], {}, "the data set is empty"),
        (model, [], {"resident": False}, "the data set is empty"),
        (model, [(inputs[:0], targets[:0])], {}, "the data set is empty"),
        (model, (inputs, targets[:5]), {}, r"inputs have shape \(90, 2, 4, 4\), targets \(5,\)"),
        (model, (inputs, F.one_hot(targets)), {}, r"targets must have shape \(N,\)"),
        (model, inputs, {}, "batches of such, not batches of Tensor"),
        (model, 3, {}, "an iterable of such batches, not int"),
        (model, [(inputs, "cats")], {}, "must be tensors or arrays"),
        (model, [data, (inputs[:, :1], targets)], {}, r"cannot be applied to inputs of shape \(90, 1, 4, 4\)"),
        (model, iter([data]), {"resident": False}, "can be read only once"),
        (model, (inputs, targets + 1), {}, "class indices from 0 to 3; found 4"),
        (model, (inputs, targets - 1), {}, "class indices from 0 to 3; found -1"),
        (model, (inputs, targets.float()), {}, "class indices"),
        (Sized(lambda x: x[:, 0]), (flat, classes), {}, r"with one output, targets must be 0 and 1 or -1 and 1"),
        (Sized(lambda x: x[:-1]), (flat, classes), {}, r"outputs of shape \(6, C\).*not \(5, 3\)"),
        (Sized(lambda x: x[..., None]), (flat, classes), {}, r"outputs of shape \(6, C\).*not \(6, 3, 1\)"),
        (Sized(lambda x: (x,)), (flat, classes), {}, r"outputs of shape \(6, C\).*not tuple"),
        (Sized(lambda x: x[:, :0]), (flat, classes), {}, r"outputs of shape \(6, C\).*not \(6, 0\)"),
        (Sized(lambda x: x.long()), (flat, classes), {}, "floating-point outputs, not torch.int64"),
        (model, (inputs[:, 0], targets), {}, r"cannot be applied to inputs of shape \(90, 4, 4\) and torch.float32"),
        (model, data, {"sigmas": [-0.1, 0.2]}, "sigmas must be at least 0"),
        (model, data, {"sigmas": [0.2, 0.1]}, "sigmas must rise"),
        (model, data, {"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        (model, data, {"device": "hal9000"}, "device 'hal9000' cannot be used"),
        (model, data, {"device": "meta"}, "it holds no numbers"),
        (model, data, {"parameters": "biases"}, "not 'biases'"),
        (model, data, {"parameters": ["conv.wait"]}, r"no parameters \['conv.wait'\]; it has conv.weight"),
        (model, data, {"parameters": []}, "chooses none of conv.weight"),
        (model, data, {"parameters": lambda name: False}, "chooses none of conv.weight"),
        (model, data, {"n_samples": 1}, "n_samples must be a whole number, at least 2"),
        (model, data, {"n_samples": 2, "antithetic": True}, "even and at least 4"),
        (model, data, {"n_samples": 7, "antithetic": True}, "even and at least 4"),
        (model, data, {"tolerance": 0}, "tolerance must be finite and greater than 0"),
        (model, data, {"batch_norm": "train"}, "batch_norm .* is unknown"),
        (model, data, {"precision": "int8"}, "precision .* is unknown"),
        (model, data, {"batch_size": 0}, "batch_size must be a whole number, at least 1"),
        (model, data, {"block_size": -1}, "block_size must be a whole number, at least 1"),
        (model, data, {"seed": -1}, "seed must be"),
        (model, data, {"subset": 0}, "subset must be a whole number, at least 1"),
        (model, data, {"subset": 91}, "subset is 91, but there are 90 patterns"),
        (model, data, {"subset": 9, "batch_norm": "recompute"}, "set batch_norm='frozen'"),
        (model, [data], {"subset": 9, "resident": False}, "cannot be drawn from data that are streamed"),
    ]
    for bad, given, options, message in cases:
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.raises(ValueError, match=message))
            if bad is model:
                stack.enter_context(untouched(model, inputs, targets))
            local_energy(bad, given, **{"sigmas": [0.1], "n_samples": 4, **options})
            pytest.fail(message)
    locked.sock.close()


def test_not_a_number_is_wrong():
    """Weights that overflow under noise make NaN outputs: errors, not class 0."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1e30)
        model[1].weight.fill_(1e-30)
    inputs = torch.ones(8, 4)
    profile = local_energy(model, (inputs, torch.zeros(8, dtype=torch.long)), [1e20], n_samples=4, seed=0)
    assert profile.train_error == 0 and profile.delta_error[0] == 1


class TestStored:
    def test_round_trip(self, small, tmp_path):
        profile = local_energy(small[0], small[1:], SIGMAS, n_samples=20, seed=0, tolerance=1e-9)
        profile.save(tmp_path / "profile.npz")
        back = LocalEnergyProfile.load(tmp_path / "profile.npz")
        assert list(vars(back)) == list(vars(profile))
        for name, value in vars(profile).items():
            assert_array_equal(getattr(back, name), value)

    def test_files_of_committee_machines(self, tmp_path):
        """Files without losses, as stored before there were any."""
        weights, patterns, labels = random_instance(21, 3, 10)
        profile = bpflat.local_energy(weights, patterns, labels, [0.5], seed=0)
        profile.save(tmp_path / "profile.npz")
        assert "delta_loss" not in np.load(tmp_path / "profile.npz").files
        assert LocalEnergyProfile.load(tmp_path / "profile.npz").delta_loss is None
