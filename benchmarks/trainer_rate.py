"""How fast the batched trainer is: ``python -m benchmarks.trainer_rate``.

The problem is the reduced Fashion-MNIST (N = 784, K = 9, P = 500), all with one thread:

1. the speed of training in the span of the patterns over training in the inputs, for rSGD with 40 replicas (4
   restarts of 10) and for eSGD with 4 restarts, noise and all; both must reach the same weights after an epoch;
2. the floating-point rate of the compiled steps of rSGD over that of a 2048³ float32 matrix product in the same
   process.  Only the two products of a step are counted, 4 B K (P + 1)/2 per replica; all of a step is timed: slopes,
   attraction and normalisation, too;
3. the speed of rSGD over one torch model per replica, with autograd and torch.optim.SGD, in a Python loop; both must
   reach the same weights after an epoch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

from training import randomness  # before torch: it settles how torch's threads wait
from training.committee.descent import SpanDescent
from training.committee.ensemble import Ensemble
from training.committee.problem import Problem, torch_threads
from training.committee.protocols import PROTOCOLS, Protocol

# isort: split
import numpy as np
import torch

from benchmarks.timing import median_seconds, verdict
from bpflat.datasets import load_reduced_fashion_mnist

RESTARTS = 4
ROUNDS = 7
TURN = 5  # epochs in a row, so that each side finds its own arrays in the cache
PROTOCOL = PROTOCOLS["rsgd-fast"]
CPU = torch.device("cpu")


class CommitteeMachine(torch.nn.Module):
    """One replica as torch users write it; rows of norm 1."""

    def __init__(self, u: torch.Tensor):
        super().__init__()
        self.u = torch.nn.Parameter(u.clone())

    def forward(self, x: torch.Tensor, beta: float) -> torch.Tensor:
        """Output before the sign, shape (B,)."""
        return torch.tanh(beta * torch.nn.functional.linear(x, self.u)).sum(1) / math.sqrt(len(self.u))


class Loop:
    """Replicated SGD (Algorithm 2), one model and one optimizer a replica, one after the other."""

    def __init__(self, protocol: Protocol, patterns: torch.Tensor, labels: torch.Tensor, u: torch.Tensor):
        self.protocol, self.patterns, self.labels = protocol, patterns, labels
        self.models = [[CommitteeMachine(replica) for replica in restart] for restart in u]
        self.optimizers = [
            [torch.optim.SGD(model.parameters(), lr=protocol.eta) for model in restart] for restart in self.models
        ]

    def run_epoch(self, epoch: int, orders: list[torch.Tensor]) -> None:
        """One epoch; `orders` are those of `randomness.minibatch_orders`, one per restart."""
        scheduled = self.protocol.scheduled(epoch)
        coupling = self.protocol.B * scheduled.gamma
        for restart, order in enumerate(orders):
            for indices in order:
                centre = torch.stack([model.u.detach() for model in self.models[restart]]).mean(0)
                for model, optimizer, index in zip(
                    self.models[restart], self.optimizers[restart], indices, strict=True
                ):
                    optimizer.zero_grad()
                    s = self.labels[index] * model(self.patterns[index], scheduled.beta)
                    loss = torch.nn.functional.softplus(-2 * scheduled.omega * s).sum() / (2 * scheduled.omega)
                    loss.backward()
                    with torch.no_grad():
                        model.u.grad.add_(model.u - centre, alpha=coupling)
                        optimizer.step()
                        model.u.div_(model.u.norm(dim=1, keepdim=True))

    def weights(self) -> torch.Tensor:
        """All weights, shape (R, y, K, N)."""
        return torch.stack([torch.stack([model.u.detach() for model in restart]) for restart in self.models])


def speed_over_inputs(protocol: Protocol, patterns: np.ndarray, labels: np.ndarray, target: float) -> float:
    """Print and return ratio 1, after checking that both forms do the same."""
    problems = [Problem(patterns, labels, CPU, span=span) for span in (False, True)]
    pairs = []
    for epsilon in sorted({0.0, protocol.epsilon}):  # noise is the same in law only
        noisy = dataclasses.replace(protocol, epsilon=epsilon)
        pairs.append([Ensemble.start(noisy, problem, list(range(RESTARTS)), 0) for problem in problems])
    difference = max_difference(*(epoch_done(ensemble).weights() for ensemble in pairs[0]))
    epochs = itertools.count(1)
    inputs, span = median_seconds(
        *(lambda e=ensemble: [e.run_epoch(next(epochs)) for _ in range(TURN)] for ensemble in pairs[-1]), repeats=ROUNDS
    )
    n_steps = TURN * RESTARTS * protocol.y * protocol.L * (len(patterns) // protocol.B)
    print(
        f"{protocol.label}, {RESTARTS} restarts, a machine and step: {1e6 * inputs / n_steps:.1f} µs in the inputs, "
        f"{1e6 * span / n_steps:.1f} µs in the span (largest difference of a weight after an epoch: {difference:.0e})"
    )
    print(verdict(f"speed of {protocol.label} in the span over that in the inputs", inputs / span, target))
    return inputs / span


def epoch_done(ensemble: Ensemble) -> Ensemble:
    """Let `ensemble` do its first epoch."""
    ensemble.run_epoch(0)
    return ensemble


def max_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of two arrays of weights, which must be small."""
    difference = float(np.abs(a - b).max())
    if not difference < 1e-6:
        raise AssertionError(f"weights differ by {difference:.1e} after an epoch")
    return difference


def rate_over_matrix_product(patterns: np.ndarray, labels: np.ndarray) -> float:
    """Print and return ratio 2."""
    a, b, out = torch.rand(2048, 2048), torch.rand(2048, 2048), torch.empty(2048, 2048)
    ensemble = Ensemble.start(PROTOCOL, Problem(patterns, labels, CPU, span=True), list(range(RESTARTS)), 0)
    steps, orders = SpanDescent(ensemble.problem, PROTOCOL), ensemble.orders(0)
    scheduled, attractions = PROTOCOL.scheduled(0), PROTOCOL.attractions(0)
    product, descent = median_seconds(
        lambda: torch.mm(a, b, out=out),
        lambda: [steps.run(ensemble.u, orders, scheduled, **attractions) for _ in range(TURN)],
        repeats=ROUNDS,
    )
    flops = TURN * orders.numel() * 4 * PROTOCOL.K * (len(patterns) + 1) / 2
    product_rate, rate = 2 * 2048**3 / product / 1e9, flops / descent / 1e9
    print(f"2048^3 float32 matrix product: {product_rate:.1f} Gflop/s; compiled steps: {rate:.1f} Gflop/s")
    print(verdict("rate of the compiled steps over rate of the product", rate / product_rate, 0.5))
    return rate / product_rate


def speed_over_loop(patterns: np.ndarray, labels: np.ndarray) -> float:
    """Print and return ratio 3, after checking that both sides do the same."""
    chosen = list(range(RESTARTS))
    ensemble = Ensemble.start(PROTOCOL, Problem(patterns, labels, CPU, span=True), chosen, 0)
    x, sigma = torch.tensor(patterns, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32)
    loop = Loop(PROTOCOL, x, sigma, torch.from_numpy(ensemble.weights()))

    def orders(epoch: int) -> list[torch.Tensor]:
        options = {"y": PROTOCOL.y, "passes": 1, "n_patterns": len(patterns), "batch": PROTOCOL.B}
        return [torch.from_numpy(randomness.minibatch_orders(0, r, epoch, **options)) for r in chosen]

    ensemble.run_epoch(0)
    loop.run_epoch(0, orders(0))
    difference = max_difference(ensemble.weights(), loop.weights().numpy())
    epoch = itertools.count(1)  # both sides may as well train on: an epoch costs the same all along

    def batched_turn() -> None:
        for _ in range(TURN):
            ensemble.run_epoch(next(epoch))

    def looped_turn() -> None:
        for _ in range(TURN):
            loop.run_epoch(e := next(epoch), orders(e))

    batched, looped = (t / TURN for t in median_seconds(batched_turn, looped_turn, repeats=ROUNDS))
    print(f"one torch model per replica, in a loop: {1e3 * looped:.1f} ms an epoch")
    print(f"batched: {1e3 * batched:.1f} ms an epoch (largest difference of a weight after one: {difference:.0e})")
    print(verdict("speed of the batch over the loop", looped / batched, 10))
    return looped / batched


def main() -> None:
    """Print all ratios."""
    data = load_reduced_fashion_mnist(500)
    patterns, labels = data.train_patterns, data.train_labels
    with torch_threads(1):
        speed_over_inputs(PROTOCOL, patterns, labels, target=4)
        speed_over_inputs(PROTOCOLS["esgd"], patterns, labels, target=2)
        rate_over_matrix_product(patterns, labels)
        speed_over_loop(patterns, labels)


if __name__ == "__main__":
    main()
