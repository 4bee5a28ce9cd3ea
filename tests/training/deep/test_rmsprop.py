"""RMSprop in TensorFlow's form against a plain loop over numbers."""

import copy
import math

import numpy as np
import pytest
import torch

from bpflat.optim import ReplicatedSGD
from training.deep.rmsprop import TensorFlowRMSprop


def by_hand(w, gradients, rates, decay, momentum, eps, weight_decay):
    """Weights after each step, one number at a time."""
    w, square, velocity = w.copy(), np.ones_like(w), np.zeros_like(w)
    for gradient, eta in zip(gradients, rates, strict=True):
        for i in range(len(w)):
            g = gradient[i] + weight_decay * w[i]
            square[i] = decay * square[i] + (1 - decay) * g * g
            velocity[i] = momentum * velocity[i] + eta * g / math.sqrt(square[i] + eps)
            w[i] -= velocity[i]
        yield w.copy()


@pytest.mark.parametrize("momentum, weight_decay", [(0.9, 0.01), (0.0, 0.0)])
def test_steps_are_those_of_a_plain_loop(momentum, weight_decay):
    """Gradients of all sizes, and a learning rate that drops: what is in the momentum keeps the old one."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=6)
    gradients, rates = rng.normal(size=(40, 6)) * 10.0 ** np.arange(-4, 2), np.repeat([0.1, 0.01], 20)
    first, second = (torch.nn.Parameter(torch.tensor(part)) for part in np.split(start, 2))
    settings = {"decay": 0.8, "momentum": momentum, "eps": 1e-3, "weight_decay": weight_decay}
    optimizer = TensorFlowRMSprop([first, second], 1.0, **settings)
    for gradient, eta, expected in zip(gradients, rates, by_hand(start, gradients, rates, **settings), strict=True):
        optimizer.param_groups[0]["lr"] = eta
        first.grad, second.grad = (torch.tensor(part) for part in np.split(gradient, 2))
        optimizer.step()
        np.testing.assert_allclose(torch.cat([first, second]).detach(), expected, rtol=1e-12)


def test_small_gradients_make_small_steps():
    """√ε = 0.03 bounds them; torch's form, with ε beside the root, steps 20 times as far."""
    ours, theirs = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizers = TensorFlowRMSprop([ours], 0.01), torch.optim.RMSprop([theirs], 0.01, alpha=0.9, eps=1e-3, momentum=0.9)
    for _ in range(200):
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = torch.full_like(weight, 1e-4)
            optimizer.step()
    assert 20 < theirs.item() / ours.item() < 60


def test_what_was_saved_goes_on():
    def run(optimizer, weight, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()

    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = TensorFlowRMSprop([weight], 0.01)
    run(optimizer, weight, 3)
    twin = torch.nn.Parameter(weight.detach().clone())
    loaded = TensorFlowRMSprop([twin], 0.5)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, weight, 3)
    run(loaded, twin, 3)
    assert torch.equal(weight, twin) and not torch.equal(weight, torch.ones(3))


def test_replicas_are_attracted_through_it():
    weights = [torch.nn.Parameter(torch.full((2,), value)) for value in (-1.0, 1.0)]
    optimizer = ReplicatedSGD([TensorFlowRMSprop([w], 0.01) for w in weights], gamma=0.1, K=1)
    before = optimizer.distance()
    for _ in range(50):
        for w in weights:
            w.grad = torch.zeros_like(w)
        optimizer.step()
    assert optimizer.distance() < 0.1 * before


def test_a_closure_is_evaluated_and_missing_gradients_are_left_out():
    weight, idle = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))

    def closure():
        loss = weight.sum()
        loss.backward()
        return loss

    optimizer = TensorFlowRMSprop([{"params": [weight]}, {"params": [idle]}], 0.1)
    assert optimizer.step(closure) == 2 and (weight < 1).all() and (idle == 1).all()


@pytest.mark.parametrize(
    "name, value", [("lr", -1), ("eps", math.nan), ("weight_decay", -1), ("decay", 1), ("momentum", 2)]
)
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        TensorFlowRMSprop([torch.nn.Parameter(torch.ones(1))], **{"lr": 0.1} | {name: value})
