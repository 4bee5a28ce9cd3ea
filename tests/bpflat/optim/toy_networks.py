"""Small problems for the optimizers: quadratics of known spectrum, and a network with BatchNorm on fixed batches."""

from __future__ import annotations

import copy
import io

import numpy as np
import torch
from torch import nn

from bpflat.optim import EntropySGD, ReplicatedSGD

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


BATCHES = batches(24)
BASES = {
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, **SGD),
    "adam": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.002, momentum=0.9),
}


class Run:
    """Models, the optimizer around them and its schedulers; `step` takes the next batch, one for each model."""

    def __init__(self, algorithm, base="nesterov", seed=0, **options):
        make = BASES[base]
        if algorithm == "esgd":
            self.models = [network(seed)]
            inner, outer = (
                make(self.models[0].parameters()),
                torch.optim.SGD(self.models[0].parameters(), lr=0.5, **SGD),
            )
            self.optimizer = EntropySGD(inner, outer, **({"gamma": 0.5, "L": 5, "epsilon": 1e-3, "seed": 0} | options))
            scheduled = [self.optimizer, inner]
        else:
            self.models = [network(seed + a) for a in range(3)]
            replicas = [make(model.parameters()) for model in self.models]
            self.optimizer = ReplicatedSGD(replicas, **({"gamma": 0.5, "K": 3} | options))
            scheduled = [self.optimizer]
        self.schedulers = [torch.optim.lr_scheduler.StepLR(o, 4, gamma=0.5) for o in scheduled]
        self.time = 0

    def step(self):
        self.optimizer.zero_grad()
        for a, model in enumerate(self.models):
            loss_of(model, BATCHES[(self.time + 7 * a) % len(BATCHES)]).backward()
        self.optimizer.step()
        self.time += 1
        if self.time % 3 == 0:
            for scheduler in self.schedulers:
                scheduler.step()
            self.optimizer.gamma *= 1.5

    def state(self):
        return {
            "models": [model.state_dict() for model in self.models],
            "optimizer": self.optimizer.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "time": self.time,
        }

    def load(self, state):
        for model, saved in zip(self.models, state["models"], strict=True):
            model.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        self.time = state["time"]


def weights(run):
    """Copies of the state of every model of a `Run`."""
    return [copy.deepcopy(model.state_dict()) for model in run.models]
