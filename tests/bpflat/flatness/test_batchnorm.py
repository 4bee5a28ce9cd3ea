"""BatchNorm statistics in flatness profiles are those of the images that the profiles are measured on."""

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bpflat.flatness import local_energy

STRENGTH = 1.5  # of the augmentation


@functools.cache
def trained(strength=0.0):
    """A network with BatchNorm and 300 patterns of three classes far apart, sorted by class."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        targets = torch.arange(300) // 100
        inputs = 3 * torch.randn(3, 6)[targets] + torch.randn(300, 6)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(20):
            for rows in torch.randperm(300).split(50):
                optimizer.zero_grad()
                noisy = inputs[rows] + strength * torch.randn(50, 6)
                F.cross_entropy(model(noisy), targets[rows]).backward()
                optimizer.step()
    return model, inputs, targets


def measure(model, inputs, targets, **options):
    options = {"batch_norm": "recompute", "block_size": 50, "n_samples": 20, "seed": 0} | options
    return local_energy(model, (inputs, targets), [0.2], **options)


def augment(x):
    return x + STRENGTH * torch.randn_like(x)


@pytest.mark.parametrize(
    ("strength", "options"), [(0.0, {"block_size": 30}), (STRENGTH, {"block_size": 50, "augment": augment})]
)
def test_patterns_sorted_by_class(strength, options):
    """Blocks of one class each have variances that are too small (the loss was off by a third): they are shuffled."""
    model, inputs, targets = trained(strength)
    frozen = measure(model, inputs, targets, **options, batch_norm="frozen")
    by_class = measure(model, inputs, targets, **options)
    np.testing.assert_allclose(by_class.train_loss, frozen.train_loss, rtol=0.1)
    again = measure(model, inputs, targets, **options)
    assert by_class.train_loss == again.train_loss and by_class.delta_loss == again.delta_loss


def test_statistics_are_of_augmented_patterns():
    """Those of the images that are measured, as in training, with `augment`."""
    model, inputs, targets = trained(STRENGTH)
    of_seen, of_plain = (measure(model, inputs, targets, augment=a, block_size=300) for a in (augment, None))
    frozen = measure(model, inputs, targets, augment=augment, batch_norm="frozen")
    np.testing.assert_allclose(of_seen.train_loss, frozen.train_loss, rtol=0.1)
    assert of_plain.train_loss < 0.5 * of_seen.train_loss
