"""How fast the batched trainer is: ``python -m benchmarks.trainer_rate``.

Two ratios, each printed with what it is a ratio of:

1. the trainer's floating-point rate on rSGD with 40 replicas (4 restarts of 10, N = 784, K = 9, P = 500) over the
   rate of a 2048³ float32 matrix product in the same process.  Only the two products of a step are counted,
   4 B K N a replica; all of training is timed, with orders of minibatches, stopping rule and evaluation.
2. its speed over one torch model a replica, with autograd and torch.optim.SGD, in a Python loop; both must reach
   the same weights after an epoch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

from training import randomness  # before torch: it settles how torch's threads wait
from training.ensemble import Ensemble
from training.problem import Problem
from training.protocols import PROTOCOLS, Protocol
from training.trainer import train

# isort: split
import numpy as np
import torch

from benchmarks.timing import median_seconds, verdict
from bpflat.datasets import load_reduced_fashion_mnist

RESTARTS = 4
EPOCHS = 100
ROUNDS = 7
TURN = 5  # epochs in a row, so that each side finds its own arrays in the cache
PROTOCOL = dataclasses.replace(PROTOCOLS["rsgd-fast"], max_epochs=EPOCHS)


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
        """One epoch; `orders` are those of `randomness.minibatch_orders`, one a restart."""
        scales = self.protocol.scales(epoch)
        coupling = self.protocol.B * scales.gamma
        for restart, order in enumerate(orders):
            for indices in order:
                centre = torch.stack([model.u.detach() for model in self.models[restart]]).mean(0)
                for model, optimizer, index in zip(
                    self.models[restart], self.optimizers[restart], indices, strict=True
                ):
                    optimizer.zero_grad()
                    s = self.labels[index] * model(self.patterns[index], scales.beta)
                    loss = torch.nn.functional.softplus(-2 * scales.omega * s).sum() / (2 * scales.omega)
                    loss.backward()
                    with torch.no_grad():
                        model.u.grad.add_(model.u - centre, alpha=coupling)
                        optimizer.step()
                        model.u.div_(model.u.norm(dim=1, keepdim=True))

    def weights(self) -> torch.Tensor:
        """All weights, shape (R, y, K, N)."""
        return torch.stack([torch.stack([model.u.detach() for model in restart]) for restart in self.models])


def rate_over_matrix_product(patterns: np.ndarray, labels: np.ndarray) -> float:
    """Print and return ratio 1."""
    a, b, out = torch.rand(2048, 2048), torch.rand(2048, 2048), torch.empty(2048, 2048)
    n_steps = EPOCHS * (len(patterns) // PROTOCOL.B)
    training_flops = 4 * PROTOCOL.B * PROTOCOL.K * patterns.shape[1] * RESTARTS * PROTOCOL.y * n_steps
    product, training = median_seconds(
        lambda: torch.mm(a, b, out=out),
        lambda: train(PROTOCOL, patterns, labels, restarts=RESTARTS),
        repeats=ROUNDS,
    )
    product_rate, training_rate = 2 * 2048**3 / product / 1e9, training_flops / training / 1e9
    print(f"2048^3 float32 matrix product, {torch.get_num_threads()} threads: {product_rate:.1f} Gflop/s")
    print(
        f"rSGD, {RESTARTS} restarts of {PROTOCOL.y} replicas: {training_rate:.1f} Gflop/s, "
        f"{1e3 * training / EPOCHS:.1f} ms an epoch (all of {EPOCHS} epochs timed)"
    )
    print(verdict("rate of the trainer over rate of the product", training_rate / product_rate, 0.3))
    return training_rate / product_rate


def speed_over_loop(patterns: np.ndarray, labels: np.ndarray) -> float:
    """Print and return ratio 2, after checking that both sides do the same."""
    cpu, chosen = torch.device("cpu"), list(range(RESTARTS))
    ensemble = Ensemble.start(PROTOCOL, Problem(patterns, labels, cpu), chosen, 0)
    x, sigma = torch.tensor(patterns, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32)
    loop = Loop(PROTOCOL, x, sigma, ensemble.weights())

    def orders(epoch: int) -> list[torch.Tensor]:
        options = {"y": PROTOCOL.y, "passes": 1, "n_patterns": len(patterns), "batch": PROTOCOL.B}
        return [torch.from_numpy(randomness.minibatch_orders(0, r, epoch, **options)) for r in chosen]

    def batched_epoch(epoch: int) -> None:
        with torch.no_grad():
            ensemble.run_epoch(epoch)

    batched_epoch(0)
    loop.run_epoch(0, orders(0))
    difference = (ensemble.weights() - loop.weights()).abs().max().item()
    if not difference < 1e-6:
        raise AssertionError(f"batch and loop differ by {difference:.1e} after an epoch")
    epoch = itertools.count(1)  # both sides may as well train on: an epoch costs the same all along

    def batched_turn() -> None:
        for _ in range(TURN):
            batched_epoch(next(epoch))

    def looped_turn() -> None:
        for _ in range(TURN):
            loop.run_epoch(e := next(epoch), orders(e))

    batched, looped = (t / TURN for t in median_seconds(batched_turn, looped_turn, repeats=ROUNDS))
    print(f"one torch model a replica, in a loop: {1e3 * looped:.1f} ms an epoch")
    print(f"batched: {1e3 * batched:.1f} ms an epoch (largest difference of a weight after one: {difference:.0e})")
    print(verdict("speed of the batch over the loop", looped / batched, 10))
    return looped / batched


def main() -> None:
    """Print both ratios."""
    data = load_reduced_fashion_mnist(500)
    rate_over_matrix_product(data.train_patterns, data.train_labels)
    speed_over_loop(data.train_patterns, data.train_labels)


if __name__ == "__main__":
    main()
