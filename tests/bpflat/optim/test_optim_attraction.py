"""The attraction of eq. 6 through any base optimizer: against autograd, in processes, and where it overshoots."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from bpflat.optim import ReplicatedSGD, attraction_limit
from tests.bpflat.optim import replica_processes
from tests.bpflat.optim.toy_networks import BASES, BATCHES, Quadratic, loss_of, network
from tests.gloo_processes import launcher

ALL_BASES = {"sgd": lambda p: torch.optim.SGD(p, lr=0.05)} | BASES | {"adam": lambda p: torch.optim.Adam(p, lr=0.01)}


@pytest.mark.parametrize("base", ALL_BASES)
def test_is_the_gradient_of_the_replicated_loss(base):
    """Autograd of ``L(w^a) + K γ ½ |w^a − w̄|²``, w̄ held fixed, at every K-th step is what base optimizers get."""
    K, gamma, y = 3, 0.5, 3
    models, twins = ([network(a).double() for a in range(y)] for _ in range(2))
    optimizer = ReplicatedSGD([ALL_BASES[base](m.parameters()) for m in models], gamma=gamma, K=K)
    plain = [ALL_BASES[base](m.parameters()) for m in twins]
    for t in range(1, 13):
        batches = [(x.double(), label) for x, label in (BATCHES[(t + 7 * a) % len(BATCHES)] for a in range(y))]
        optimizer.zero_grad()
        for model, batch in zip(models, batches, strict=True):
            loss_of(model, batch).backward()
        optimizer.step()
        centre = [sum(copies).detach() / y for copies in zip(*(m.parameters() for m in twins), strict=True)]
        for twin, batch, own in zip(twins, batches, plain, strict=True):
            loss = loss_of(twin, batch)
            if t % K == 0:
                loss = loss + K * gamma * sum(
                    0.5 * (w - c).square().sum() for w, c in zip(twin.parameters(), centre, strict=True)
                )
            own.zero_grad()
            loss.backward()
        for own in plain:
            own.step()
    for model, twin in zip(models, twins, strict=True):
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.parametrize("base", ["adam", "rmsprop"])
def test_adaptive_optimizers_in_processes_as_in_one(base, tmp_path):
    launch = launcher("tests.bpflat.optim.replica_processes")
    layout = [[0, 1], [2]]
    assert launch(2, tmp_path, base, replica_processes.run, layout, tmp_path, base) == [0, 0]
    results = [torch.load(tmp_path / f"{base}-{rank}.pt", weights_only=True) for rank in range(2)]
    single = replica_processes.Replicas(range(3), base=BASES[base])
    for _ in range(10):
        single.step()
    models = [model for result in results for model in result["models"]]
    for ours, theirs in zip(single.outcome()["models"], models, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_weights_that_the_loss_does_not_see_are_attracted_too():
    models = [nn.ParameterDict({"seen": torch.ones(2) * a, "unseen": torch.ones(3) * a}) for a in (0.0, 2.0)]
    optimizer = ReplicatedSGD([torch.optim.SGD(m.parameters(), lr=0.1) for m in models], gamma=0.5, K=2)
    for _ in range(2):
        optimizer.zero_grad()
        for model in models:
            (0 * model["seen"]).sum().backward()
        optimizer.step()
    for name in ("seen", "unseen"):
        np.testing.assert_allclose(models[0][name].detach(), 0.1 * 2 * 0.5 * 1.0, rtol=1e-6)


SCHEMES = {
    "plain": {},
    "heavy ball": {"momentum": 0.9},
    "damped": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize(("options", "K"), list(itertools.product(SCHEMES.values(), (1, 3, 10))))
def test_replicas_meet_below_the_limit_and_fly_apart_above(options, K):
    """No loss; the limit itself is where the distance neither grows nor shrinks."""
    limit = attraction_limit(K, **options)
    for factor in (0.97, 1.03):
        models = [nn.Parameter(torch.tensor([w], dtype=torch.float64)) for w in (0.0, 1.0)]
        bases = [torch.optim.SGD([w], lr=1.0, **options) for w in models]
        for base in bases:  # as learning rates that are tensors, which are not refused
            base.param_groups[0]["lr"] = torch.tensor(1.0, dtype=torch.float64)
        optimizer = ReplicatedSGD(bases, gamma=factor * limit / K, K=K)
        for _ in range(400 * K):
            for w in models:
                w.grad = torch.zeros_like(w)
            optimizer.step()
        assert (optimizer.distance() > 1e3) == (factor > 1)
        if factor < 1:
            assert optimizer.distance() < 1e-3


def test_limits_of_known_cases():
    assert attraction_limit(1) == attraction_limit(10) == 2.0
    assert attraction_limit(1, momentum=0.9) == pytest.approx(2 * 1.9)
    assert attraction_limit(1, momentum=0.9, nesterov=True) == pytest.approx(2 * 1.9 / 2.8)
    assert attraction_limit(10, momentum=0.9, nesterov=True) == pytest.approx(0.374, abs=5e-4)


def test_an_attraction_beyond_the_limit_is_refused_and_nothing_changed():
    problem = Quadratic(2)
    models = [problem.parameters(torch.float64, problem.start + a) for a in range(2)]
    bases = [torch.optim.SGD(m, lr=0.1, momentum=0.9, nesterov=True) for m in models]
    optimizer = ReplicatedSGD(bases, gamma=0.4, K=10)
    for _ in range(9):
        for a, model in enumerate(models):
            problem.backward(model, a)
        optimizer.step()
    before = [p.detach().clone() for model in models for p in model]
    with pytest.raises(ValueError, match=r"gamma is too large: η K γ = 0\.4, and beyond 0\.374 .* lower K"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(before, (p for m in models for p in m), strict=True))
    optimizer.coupling = "decoupled"
    optimizer.step()
    optimizer.coupling, optimizer.gamma = "gradient", 0.3
    for _ in range(10):
        optimizer.step()
