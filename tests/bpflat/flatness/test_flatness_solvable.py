"""The local energy of torch models against a plain twin and closed forms."""

import copy
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from torch import nn

import bpflat
from bpflat.flatness import local_energy
from bpflat.randomness import stream
from tests.bpflat.flatness.toy_models import SIGMAS, noise_of, same, untouched
from tests.instances import random_instance
from tests.naive import flatness as naive_flatness


class TestNaive:
    """SmallNet: BatchNorm, dropout, shared and frozen parameters."""

    @pytest.mark.parametrize("parameters", [None, "weights", ["last.bias", "third.weight"], lambda n: "norm" in n])
    def test_same_noise(self, small, parameters):
        model, inputs, targets = small
        with untouched(model, inputs, targets):
            profile = local_energy(model, (inputs, targets), SIGMAS, n_samples=6, seed=5, parameters=parameters)
        error, loss = naive_flatness.error_and_loss(copy.deepcopy(model), inputs, targets)
        assert profile.train_error == error
        assert_allclose(profile.train_loss, loss, rtol=1e-6, atol=1e-7)
        for s, sigma in enumerate(SIGMAS):
            noise = noise_of(model, 5, 6, parameters=parameters)
            rises = naive_flatness.rises(copy.deepcopy(model), inputs, targets, sigma, noise).numpy()
            assert_allclose([profile.delta_error[s], profile.delta_loss[s]], rises.mean(0), rtol=1e-4, atol=1e-6)
            expected = rises.std(0, ddof=1) / math.sqrt(6)
            assert_allclose([profile.std_error[s], profile.loss_std_error[s]], expected, rtol=1e-4, atol=1e-6)
        assert profile.delta_loss[-1] > 1e-5

    def test_other_noise(self, small):
        """Equal within 3 standard errors of their difference."""
        model, inputs, targets = small
        profile = local_energy(model, (inputs, targets), SIGMAS, n_samples=200, seed=0)
        rng = torch.Generator().manual_seed(1)
        for s, sigma in enumerate(SIGMAS):
            noise = (
                {n: torch.randn(p.shape, generator=rng) for n, p in model.named_parameters() if p.requires_grad}
                for _ in range(30)
            )
            rises = naive_flatness.rises(copy.deepcopy(model), inputs, targets, sigma, noise).numpy()
            error = np.hypot(rises.std(0, ddof=1) / math.sqrt(30), [profile.std_error[s], profile.loss_std_error[s]])
            assert (abs(rises.mean(0) - [profile.delta_error[s], profile.delta_loss[s]]) < 3 * error).all()

    def test_recomputed_statistics(self, small):
        """Those of torch's own update of BatchNorm over the same shuffled blocks, before each measurement."""
        model, inputs, targets = small
        order = np.random.default_rng(stream(np.random.SeedSequence(2), 3)).permutation(90)
        blocks = inputs[order].tensor_split(3)

        def measure(twin, inputs, targets):
            torch.optim.swa_utils.update_bn(blocks, twin.eval())
            return naive_flatness.error_and_loss(twin, inputs, targets)

        twin = copy.deepcopy(model)
        twin.dropout = nn.Identity()  # update_bn switches everything to training
        noise = noise_of(model, 2, 4)
        rises = naive_flatness.rises(twin, inputs, targets, 0.5, noise, measure).mean(0)
        with untouched(model, inputs):
            options = {"n_samples": 4, "seed": 2, "batch_norm": "recompute", "block_size": 40}
            profile = local_energy(model, (inputs, targets), [0.5], **options)
            again = local_energy(model, (inputs, targets), [0.5], batch_size=7, **options)
        assert_allclose([profile.delta_error[0], profile.delta_loss[0]], rises, rtol=1e-4, atol=1e-6)
        same(profile, again)
        frozen = local_energy(model, (inputs, targets), [0.5], n_samples=4, seed=2)
        assert frozen.delta_loss[0] != profile.delta_loss[0]


class TestSolvable:
    def test_linear_classifier(self):
        """Two logits: the margin is Gaussian, of variance σ² Σ (w x)² over all weights and biases."""
        rng = torch.Generator().manual_seed(0)
        inputs = torch.randn(400, 30, generator=rng)
        model = nn.Linear(30, 2)
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 30, generator=rng))
            model.bias.copy_(torch.tensor([0.5, -0.3]))
            w, b = model.weight.double().numpy(), model.bias.double().numpy()
        x = inputs.double().numpy()
        targets = (x @ (w[1] - w[0]) + b[1] - b[0] > 0).astype(np.int64)
        targets[:40] = 1 - targets[:40]
        margin = (2 * targets - 1) * (x @ (w[1] - w[0]) + b[1] - b[0])
        spread = np.sqrt(x**2 @ (w**2).sum(0) + (b**2).sum())
        sigmas = np.array([0.05, 0.3, 1.0, 3.0])
        expected = norm.cdf(-margin / spread / sigmas[:, None]).mean(1) - 0.1
        data = (inputs, torch.from_numpy(targets))
        for n_samples, options in ((1000, {}), (300, {"antithetic": True}), (300, {"common": False})):
            profile = local_energy(model, data, sigmas, n_samples=n_samples, seed=1, **options)
            assert profile.train_error == 0.1
            assert (profile.std_error < 0.13 / math.sqrt(n_samples)).all() and (profile.std_error > 0).all()
            assert (abs(profile.delta_error - expected) < 3 * profile.std_error).all(), options

    @pytest.mark.parametrize("column", [False, True])
    def test_committee_machine(self, column):
        """Sign outputs of one unit: `bpflat.local_energy`, exact, within 3 standard errors."""
        weights, patterns, labels = random_instance(101, 5, 60)

        class Committee(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.from_numpy(weights))

            def forward(self, x):
                votes = torch.where(x @ self.w.T >= 0, 1.0, -1.0).sum(1).sign().double()
                return votes[:, None] if column else votes

        sigmas = [0.2, 1.0, 2.0]
        profile = local_energy(Committee(), (patterns, labels), sigmas, n_samples=1000, seed=1)
        exact = bpflat.local_energy(weights, patterns, labels, sigmas, method="exact")
        assert profile.train_error == exact.train_error
        assert (abs(profile.delta_error - exact.delta_error) < 3 * profile.std_error).all()
        zero_one = local_energy(Committee(), (patterns, (labels > 0).astype(int)), sigmas, n_samples=1000, seed=1)
        same(profile, zero_one)

    def test_no_noise(self, small):
        model, inputs, targets = small
        profile = local_energy(model, (inputs, targets), [0.0, 1e-9], n_samples=2, seed=0)
        assert_array_equal(profile.delta_error, [0, 0])
        assert profile.delta_loss[0] == 0 and abs(profile.delta_loss[1]) < 1e-7
