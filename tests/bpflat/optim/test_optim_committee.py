"""One algorithm, not two: the batched trainer of committee machines and `bpflat.optim` go the same way."""

import math

import numpy as np
import pytest
import torch

from bpflat.optim import EntropySGD, ReplicatedSGD
from tests.training.committee.toy_training import small, toy
from training import randomness
from training.committee.ensemble import Ensemble
from training.committee.problem import Problem

SEED, RESTART = 3, 0


class CommitteeMachine(torch.nn.Module):
    def __init__(self, u):
        super().__init__()
        self.u = torch.nn.Parameter(torch.tensor(u, dtype=torch.float64))
        self.normalise()

    def normalise(self):
        with torch.no_grad():
            self.u /= self.u.norm(dim=1, keepdim=True)

    def loss(self, x, sigma, scheduled):
        """Eq. 8 summed over the minibatch."""
        s = sigma * torch.tanh(scheduled.beta * x @ self.u.T).sum(1) / math.sqrt(len(self.u))
        return (torch.nn.functional.softplus(-2 * scheduled.omega * s) / (2 * scheduled.omega)).sum()


def orders(protocol, epoch, n_patterns):
    options = {"y": protocol.y, "passes": protocol.L, "n_patterns": n_patterns, "batch": protocol.B}
    return torch.from_numpy(randomness.minibatch_orders(SEED, RESTART, epoch, **options))


def trajectories(protocol, machines, optimizer):
    """Yield weights (y, K, N) after every epoch: of the trainer in float32, and of `optimizer` in float64."""
    patterns, labels = toy()
    x, sigma = torch.from_numpy(patterns), torch.from_numpy(labels)
    ensemble = Ensemble.start(protocol, Problem(patterns, labels, torch.device("cpu")), [RESTART], SEED)
    for epoch in range(protocol.max_epochs):
        scheduled = protocol.scheduled(epoch)
        with torch.no_grad():
            ensemble.run_epoch(epoch)
        if protocol.algorithm == "rsgd":
            optimizer.gamma = scheduled.gamma * protocol.B  # the coupling B γ of the trainer
        else:
            optimizer.gamma = scheduled.gamma
            optimizer.outer.param_groups[0]["lr"] = protocol.eta * scheduled.gamma  # w ← w − η γ (w − μ): eq. 5
        for minibatches in orders(protocol, epoch, len(patterns)):
            optimizer.zero_grad()
            for machine, index in zip(machines, minibatches, strict=True):
                machine.loss(x[index], sigma[index], scheduled).backward()
            optimizer.step()
        yield (
            ensemble.weights()[0, ..., : patterns.shape[1]],
            np.array([m.u.detach().numpy() for m in machines]),
        )


def start(protocol, n_inputs=21):
    weights = randomness.initial_weights(SEED, RESTART, (protocol.y, protocol.K, n_inputs))
    machines = [CommitteeMachine(u) for u in weights]

    def normalise():
        for machine in machines:
            machine.normalise()

    return machines, normalise


@pytest.mark.parametrize("name", ["rsgd-fast", "rsgd-slow"])
def test_replicated_sgd_trains_committee_machines_as_the_trainer_does(name):
    protocol = small(name, y=4, max_epochs=30)
    machines, normalise = start(protocol)
    bases = [torch.optim.SGD([m.u], lr=protocol.eta) for m in machines]
    optimizer = ReplicatedSGD(bases, gamma=0.0, K=1, project=normalise)
    before = np.array([m.u.detach().numpy() for m in machines])
    for trainer, ours in trajectories(protocol, machines, optimizer):
        np.testing.assert_allclose(ours, trainer, rtol=0, atol=2e-6)
    assert np.abs(ours - before).max() > 1e-2  # they have gone somewhere


def test_entropy_sgd_trains_committee_machines_as_the_trainer_does():
    protocol = small("esgd", epsilon=0.0, max_epochs=10)  # without noise: the two draw it in another order
    machines, normalise = start(protocol)
    inner, outer = (torch.optim.SGD([machines[0].u], lr=protocol.eta_prime) for _ in range(2))
    options = {"L": protocol.L, "epsilon": 0.0, "alpha": protocol.alpha}
    optimizer = EntropySGD(inner, outer, gamma=0.0, project=normalise, **options)
    before = machines[0].u.detach().clone().numpy()
    for trainer, ours in trajectories(protocol, machines, optimizer):
        np.testing.assert_allclose(ours, trainer, rtol=0, atol=2e-6)
    assert np.abs(ours - before).max() > 1e-2
