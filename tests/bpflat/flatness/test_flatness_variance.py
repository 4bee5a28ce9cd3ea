"""Draws of the local energy that save evaluations: pairs, common noise, subsets, a tolerance."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from bpflat import LocalEnergyProfile
from bpflat.flatness import local_energy
from bpflat.randomness import stream
from tests.bpflat.flatness.toy_models import noise_of, same
from tests.naive import flatness as naive_flatness


class TestVariance:
    """What the options save, as ratios of variances over many draws."""

    @pytest.fixture
    def linear(self):
        """A linear classifier at 20 % errors: no minimum, so the loss has a slope."""
        rng = torch.Generator().manual_seed(0)
        inputs = torch.randn(300, 50, generator=rng)
        model = nn.Linear(50, 2)
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 50, generator=rng))
            model.bias.zero_()
            targets = model(inputs).argmax(1)
        targets[:60] = 1 - targets[:60]
        return model, (inputs, targets)

    def test_antithetic(self, linear):
        """The loss is odd in z at small σ, and its variance falls at least 20-fold; that of the error by a little."""
        plain = local_energy(*linear, [0.05], n_samples=1000, seed=0)
        pairs = local_energy(*linear, [0.05], n_samples=1000, seed=0, antithetic=True)
        assert (plain.loss_std_error / pairs.loss_std_error)[0] ** 2 > 20
        assert (plain.std_error / pairs.std_error)[0] ** 2 > 1.2
        error = np.hypot(plain.std_error, pairs.std_error)
        assert (abs(plain.delta_error - pairs.delta_error) < 3 * error).all()

    def test_antithetic_pairs(self, linear):
        """Draws 2i and 2i + 1 are z and −z; the standard error is over their means."""
        model, data = linear
        pairs = local_energy(model, data, [0.3], n_samples=6, seed=4, antithetic=True)
        noise = noise_of(model, 4, 3)
        rises = naive_flatness.rises(
            model, *data, 0.3, [{n: s * v for n, v in z.items()} for z in noise for s in (1, -1)]
        ).numpy()
        assert_allclose(pairs.delta_error[0], rises[:, 0].mean(), rtol=1e-6)
        means = rises[:, 0].reshape(3, 2).mean(1)
        assert_allclose(pairs.std_error[0], means.std(ddof=1) / math.sqrt(3), rtol=1e-6)

    def test_common(self, small):
        """The difference between neighbouring σ: its variance over seeds falls at least 3-fold."""

        def variance(common):
            options = {"n_samples": 8, "common": common}
            profiles = [local_energy(small[0], small[1:], [0.4, 0.5], seed=seed, **options) for seed in range(40)]
            return np.var([np.diff(p.delta_error) for p in profiles])

        assert variance(False) / variance(True) > 3

    def test_subset(self, linear):
        """Each draw on its own patterns, against w on the same ones; all patterns for E_train(w)."""
        model, (inputs, targets) = linear
        options = {"n_samples": 3, "seed": 4, "subset": 40}
        profile = local_energy(model, (inputs, targets), [0.3], **options)
        rises = []
        for i, z in enumerate(noise_of(model, 4, 3)):
            rng = np.random.default_rng(stream(np.random.SeedSequence(4), 2, i))
            rows = np.sort(rng.choice(300, 40, replace=False, shuffle=False))
            assert len(set(rows)) == 40
            rises.append(naive_flatness.rises(model, inputs[rows], targets[rows], 0.3, [z])[0].numpy())
        assert_allclose([profile.delta_error[0], profile.delta_loss[0]], np.mean(rises, axis=0), rtol=1e-5)
        assert_allclose(profile.std_error[0], np.std(rises, axis=0, ddof=1)[0] / math.sqrt(3), rtol=1e-5)
        assert profile.train_error == 0.2
        same(local_energy(model, (inputs, targets), [0.3], batch_size=7, **options), profile)
        augmented = local_energy(model, (inputs, targets), [0.3], augment=lambda x: x, **options)
        assert augmented.delta_error == profile.delta_error and augmented.train_loss != profile.train_loss
        whole = local_energy(model, (inputs, targets), [0.3], n_samples=3, seed=4)
        same(local_energy(model, (inputs, targets), [0.3], n_samples=3, seed=4, subset=300), whole)

    def test_subset_saves_evaluations(self, small):
        """Patterns times draws for a given variance: a quarter of the patterns at least halves them; no bias."""
        model, inputs, targets = small
        whole = local_energy(model, (inputs, targets), [0.5], n_samples=300, seed=0)
        part = local_energy(model, (inputs, targets), [0.5], n_samples=300, seed=1, subset=22)
        assert (whole.std_error / part.std_error)[0] ** 2 * 90 / 22 > 2
        error = np.hypot(whole.std_error, part.std_error)
        assert (abs(whole.delta_error - part.delta_error) < 3 * error).all()

    def test_tolerance(self, linear):
        profile = local_energy(*linear, [0.0, 0.01, 0.3, 1.0], n_samples=400, seed=0, tolerance=0.003)
        whole = local_energy(*linear, [0.0, 0.01, 0.3, 1.0], n_samples=400, seed=0)
        assert profile.n_samples[0] == 0 and profile.n_samples[1] < profile.n_samples[2] < 400
        assert (profile.n_samples % 16 == 0).all()
        assert (profile.std_error <= 0.003).all()
        same(local_energy(*linear, [0.3], n_samples=int(profile.n_samples[2]), seed=0), _point(profile, 2))
        capped = local_energy(*linear, [0.3], n_samples=33, seed=0, tolerance=1e-9)
        assert capped.n_samples == [33] and capped.std_error[0] > 1e-9
        assert (abs(whole.delta_error - profile.delta_error) <= 4 * profile.std_error).all()


def _point(profile, s):
    """The profile at its s-th σ alone."""
    arrays = {k: v[s : s + 1] for k, v in vars(profile).items() if isinstance(v, np.ndarray)}
    return LocalEnergyProfile(**{**vars(profile), **arrays})
