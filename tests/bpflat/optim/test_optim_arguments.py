"""What the optimizers refuse, and the focusing schedules."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from bpflat.optim import EntropySGD, ReplicatedSGD, focusing


def entropy_sgd(**options):
    p = [nn.Parameter(torch.zeros(2))]
    maximize = options.pop("maximize", False)
    bases = (torch.optim.SGD(p, lr=0.1, maximize=maximize) for _ in range(2))
    return EntropySGD(*bases, **({"gamma": 1.0} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1.0}, "gamma must be finite and at least 0; got -1.0"),
        ({"gamma": float("nan")}, "gamma must be finite"),
        ({"gamma": float("inf")}, "gamma must be finite"),
        ({"gamma": "big"}, "gamma must be a number"),
        ({"L": 0}, "L must be a whole number, at least 1; got 0"),
        ({"L": 2.5}, "L must be a whole number"),
        ({"epsilon": -1e-4}, "epsilon must be finite"),
        ({"alpha": 1.0}, "alpha must be finite and below 1"),
        ({"alpha": -0.1}, "alpha must be finite"),
        ({"project": "rows"}, "project must be callable"),
        ({"seed": -1}, "seed must be"),
        ({"maximize": True}, "repulsion"),
    ],
)
def test_entropy_sgd_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        entropy_sgd(**options)


def test_gamma_is_checked_whenever_it_is_set():
    opt = entropy_sgd()
    for bad in (-1e-9, float("nan")):
        with pytest.raises(ValueError, match="gamma must be finite"):
            opt.gamma = bad
    assert opt.gamma == 1.0


def test_inner_and_outer_must_be_of_one_model():
    one, other = (torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1) for _ in range(2))
    with pytest.raises(ValueError, match="same parameters"):
        EntropySGD(one, other, gamma=1.0)
    with pytest.raises(ValueError, match="outer must be a torch optimizer"):
        EntropySGD(one, nn.Linear(2, 2), gamma=1.0)


def replicas(*shapes):
    return [torch.optim.SGD([nn.Parameter(torch.zeros(s))], lr=0.1) for s in shapes]


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(2,), (3,)], {}, "replica 1 differs from replica 0"),
        ([], {}, "replicas are none"),
        ([(2,)], {"gamma": -0.5}, "gamma must be finite"),
        ([(2,)], {"gamma": float("nan")}, "gamma must be finite"),
        ([(2,)], {"K": 0}, "K must be a whole number, at least 1; got 0"),
        ([(2,)], {"coupling": "strong"}, "coupling 'strong' is unknown"),
    ],
)
def test_replicated_sgd_refuses(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        ReplicatedSGD(replicas(*shapes), **({"gamma": 1.0} | options))


def test_replicas_must_be_copies_and_not_shared():
    p = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="share parameters"):
        ReplicatedSGD([torch.optim.SGD([p], lr=0.1) for _ in range(2)], gamma=1.0)
    half = torch.optim.SGD([nn.Parameter(torch.zeros(2, dtype=torch.float16))], lr=0.1)
    with pytest.raises(ValueError, match="differs from replica 0"):
        ReplicatedSGD([*replicas((2,)), half], gamma=1.0)


def test_optimizers_are_not_pickled_and_half_copied():
    with pytest.raises(TypeError, match="save its state_dict"):
        pickle.dumps(entropy_sgd())
    with pytest.raises(TypeError, match="make project a method of the model"):
        copy.deepcopy(entropy_sgd(project=lambda: None))


def test_exponential_focusing_grows_by_its_factor():
    schedule = focusing.Exponential(0.5, 2e-5)
    assert schedule(0) == 0.5
    np.testing.assert_allclose(schedule(10), 0.5 * (1 + 2e-5) ** 10, rtol=1e-14)
    for factor in (10.0, 1e4):
        schedule = focusing.Exponential.over(2e-3, 300, factor=factor)
        values = [schedule(tau) for tau in (0, 75, 150, 300)]
        np.testing.assert_allclose(values, 2e-3 * factor ** np.array([0, 0.25, 0.5, 1]), rtol=1e-12)
    assert focusing.Exponential.over(0.0, 10)(5) == 0.0


def test_cosine_focusing_rises_from_zero_to_its_maximum():
    schedule = focusing.Cosine(0.1, 300)
    np.testing.assert_allclose([schedule(t) for t in (0, 100, 150, 200, 300, 310)], [0, 0.025, 0.05, 0.075, 0.1, 0.1])
    values = [schedule(tau) for tau in range(301)]
    assert (np.diff(values) > 0).all()


def test_constant_focusing():
    assert focusing.Constant(0.3)(0) == focusing.Constant(0.3)(1e6) == 0.3


def test_schedules_are_frozen_and_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        focusing.Constant(1.0).gamma = 2.0
    makers = [
        lambda bad: focusing.Constant(bad),
        lambda bad: focusing.Exponential(bad, 0.1),
        lambda bad: focusing.Exponential(0.1, bad),
        lambda bad: focusing.Exponential.over(0.1, bad),
        lambda bad: focusing.Exponential.over(0.1, 10, bad),
        lambda bad: focusing.Cosine(bad, 10),
        lambda bad: focusing.Cosine(0.1, bad),
    ]
    for make in makers:
        for bad in (-1.0, math.nan, math.inf, None):
            with pytest.raises(ValueError, match="must be"):
                make(bad)
    for make in (lambda: focusing.Exponential.over(0.1, 0), lambda: focusing.Cosine(0.1, 0)):
        with pytest.raises(ValueError, match="epochs must be finite and greater than 0; got 0"):
            make()
    with pytest.raises(ValueError, match=r"epochs must be finite and at least 1\.1.*to grow"):
        focusing.Exponential.over(0.1, 1.0, factor=1e99)
    with pytest.raises(ValueError, match=r"tau must be finite and at most 2.*beyond all floats"):
        focusing.Exponential(0.1, 1e40)(3)
    for schedule in (focusing.Constant(1.0), focusing.Exponential(1.0, 0.1), focusing.Cosine(1.0, 10)):
        with pytest.raises(ValueError, match="tau must be finite and at least 0; got -1"):
            schedule(-1)
    with pytest.raises(ValueError, match="factor must be finite and at least 1"):
        focusing.Exponential.over(0.1, 10, factor=0.5)
