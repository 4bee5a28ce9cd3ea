"""Small models and their draws that the tests of flatness share, and a check that a model is left as it was."""

import contextlib
import copy
import functools

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.nn import functional as F

from bpflat.flatness.models import choose
from bpflat.flatness.noise import Perturbation
from bpflat.randomness import stream

SIGMAS = [0.2, 0.5]


class SmallNet(nn.Module):
    """Convolutions with BatchNorm and dropout; the last two layers share their weights."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.first = nn.Linear(6 * 4, 24)
        self.second = nn.Linear(24, 24)
        self.second.weight = nn.Parameter(torch.randn(24, 24) / 5)
        self.third = nn.Linear(24, 24)
        self.third.weight = self.second.weight
        self.last = nn.Linear(24, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1)
        x = self.dropout(F.relu(self.first(x)))
        return self.last(F.relu(self.third(F.relu(self.second(x)))))


@functools.cache
def trained():
    """A small net after a short training on four noisy classes, and 90 patterns."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, centres = SmallNet(), torch.randn(4, 2, 4, 4)
        targets = torch.randint(4, (90,))
        inputs = centres[targets] + torch.randn(90, 2, 4, 4)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    model.dropout.eval()  # mixed flags, to be found as they were, and gradients
    model.last.bias.requires_grad_(False)
    return model, inputs, targets


def copy_with_gradients(model):
    twin = copy.deepcopy(model)
    for p, old in zip(twin.parameters(), model.parameters(), strict=True):
        p.grad = None if old.grad is None else old.grad.clone()
    return twin


@contextlib.contextmanager
def untouched(model, *tensors):
    """The same objects, bits, flags, gradients and random numbers after as before."""
    before = copy_with_gradients(model)
    kept = [t.clone() for t in tensors]
    own = [(id(t), t.data_ptr(), t._version) for t in (*model.parameters(), *model.buffers())]
    numbers = torch.get_rng_state()
    try:
        yield
    finally:
        assert own == [(id(t), t.data_ptr(), t._version) for t in (*model.parameters(), *model.buffers())]
        for (name, t), (_, old) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
            assert torch.equal(t, old) and t.device == old.device, name
        for p, old in zip(model.parameters(), before.parameters(), strict=True):
            assert p.requires_grad == old.requires_grad and (p.grad is None) == (old.grad is None)
            assert p.grad is None or torch.equal(p.grad, old.grad)
        assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
        assert all(torch.equal(t, old) for t, old in zip(tensors, kept, strict=True))
        assert torch.equal(torch.get_rng_state(), numbers)


def noise_of(model, seed, n_samples, key=0, parameters=None):
    """The draws z of `local_energy`, by parameter name."""
    chosen = choose(model, parameters)
    w = list(chosen.values())
    perturbation = Perturbation(w, w, stream(np.random.SeedSequence(seed), 0))
    for i in range(n_samples):
        yield {name: z.clone() for name, z in zip(chosen, perturbation.draw(key, i), strict=True)}


def same(a, b, **tolerance):
    """Equal errors, and equal losses to rounding."""
    assert_array_equal(a.delta_error, b.delta_error)
    assert_array_equal(a.std_error, b.std_error)
    assert a.train_error == b.train_error
    for name in ("delta_loss", "loss_std_error", "train_loss"):
        assert_allclose(getattr(a, name), getattr(b, name), **{"rtol": 1e-5, "atol": 1e-7, **tolerance})


class Fails(nn.Module):
    """A model whose forward fails at some calls, as the list `calls` and `when` say."""

    calls: list = []  # noqa: RUF012  (shared with copies of the model, on purpose)
    when = staticmethod(lambda n_call, n_rows: None)

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        self.calls.append(len(x))
        error = Fails.when(len(self.calls), len(x))
        if error is not None:
            raise error
        return self.net(x)


def surest(model, inputs, n):
    """The n inputs whose two best outputs differ most, for minima that some noise leaves without errors."""
    best = model(inputs).topk(2).values
    return inputs[(best[:, 0] - best[:, 1]).argsort(descending=True)[:n]].detach()
