"""Small problems for the optimizers: quadratics of known spectrum, and a network with BatchNorm on fixed batches."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import nn

SHAPES = ((2, 3), (4,), (1, 2))  # of the tensors that together are one vector of 12 weights
SGD = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}


def as_vector(tensors):
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


class Quadratic:
    """``L_t(w) = ½ wᵀ A w − b_t·w``, eigenvalues of A from 0.1 to 10; one b_t a minibatch."""

    def __init__(self, n_batches, spread=1.0, seed=0):
        rng = np.random.default_rng(seed)
        rotation, _ = np.linalg.qr(rng.normal(size=(12, 12)))
        self.A = rotation @ np.diag(np.logspace(-1, 1, 12)) @ rotation.T
        mean = rng.normal(size=12)
        self.b = mean + spread * rng.normal(size=(n_batches, 12))
        self.minimiser = np.linalg.solve(self.A, mean)
        self.start = rng.normal(size=12)

    def gradient(self, t):
        return lambda w: self.A @ w - self.b[t]

    def backward(self, params, t):
        """Gradients of `params` by autograd; returns the loss."""
        w = torch.cat([p.flatten() for p in params])
        loss = 0.5 * w @ torch.from_numpy(self.A).to(w) @ w - torch.from_numpy(self.b[t]).to(w) @ w
        for p in params:
            p.grad = None
        loss.backward()
        return loss.detach()

    def parameters(self, dtype, start=None):
        """Tensors of `SHAPES` that hold `start`."""
        pieces = np.split(self.start if start is None else start, np.cumsum([np.prod(s) for s in SHAPES])[:-1])
        return [nn.Parameter(torch.tensor(p.reshape(s), dtype=dtype)) for p, s in zip(pieces, SHAPES, strict=True)]


def network(seed=0):
    """Convolution, BatchNorm, dense: a few hundred weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3, bias=False)
        )


def batches(n, seed=0):
    """Minibatches (inputs (8, 1, 6, 6), labels (8,)) of a task that can be learnt: which third is brightest."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, 1, 6, 6, generator=generator)
    return [(b, b.view(8, 3, 12).sum(2).argmax(1)) for b in x]


def loss_of(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def through_file(state):
    """What torch.load gives back of a saved state, with its restrictions."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same_bits(one, other):
    """Whether two nests of containers and tensors are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_bits(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_bits, one, other))
    return one == other
