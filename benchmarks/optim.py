"""What Entropy-SGD and Replicated-SGD add to the time of a gradient evaluation: ``python -m benchmarks.optim``.

A gradient evaluation is one minibatch: gradients cleared, forward, backward, optimizer.  Printed are ratios:

1. inside `EntropySGD` (whole loops: L = 5) and inside `ReplicatedSGD` (y = 3, whole periods: K = 10), over the same
   with torch.optim.SGD alone; Nesterov momentum and weight decay everywhere;
2. inside `EntropySGD` over a transcription of Algorithm 1 that goes through the parameters in a Python loop; and of
   the steps alone.  Both must reach the same weights.  On a CPU both wait for memory and for random numbers, and
   no target is set; on a GPU the loop waits for its many small kernels.

SmallConvNet on the CPU, ResNet-18 on a GPU if there is one; minibatches of 128 pictures of 32 × 32.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from benchmarks.timing import median_seconds, verdict
from bpflat.optim import EntropySGD, ReplicatedSGD

BATCH = 128
L, K, Y = 5, 10, 3
GAMMA, EPSILON, ALPHA = 0.5, 1e-4, 0.75
ETA, ETA_PRIME = 0.5, 0.01
DECAY, MOMENTUM = 1e-4, 0.9


def sgd(model: nn.Module, lr: float = ETA_PRIME) -> torch.optim.SGD:
    """Baseline of Appendix C.1."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)


class LoopEntropySGD:
    """Algorithm 1, parameter by parameter."""

    def __init__(self, model: nn.Module, epsilon: float):
        self.params, self.epsilon, self.time = list(model.parameters()), epsilon, 0
        self.inner, self.outer = ([torch.zeros_like(p) for p in self.params] for _ in range(2))

    @torch.no_grad()
    def step(self) -> None:
        """One inner step, and after L of them the outer step."""
        if self.time % L == 0:
            self.w = [p.clone() for p in self.params]
            self.mu = [p.clone() for p in self.params]
        for p, w, mu, velocity in zip(self.params, self.w, self.mu, self.inner, strict=True):
            self._descend(p, p.grad + GAMMA * (p - w), velocity, ETA_PRIME)
            if self.epsilon:
                p.add_(torch.randn_like(p), alpha=math.sqrt(ETA_PRIME) * self.epsilon)
            mu.mul_(ALPHA).add_(p, alpha=1 - ALPHA)
        self.time += 1
        if self.time % L == 0:
            for p, w, mu, velocity in zip(self.params, self.w, self.mu, self.outer, strict=True):
                p.copy_(w)
                self._descend(p, w - mu, velocity, ETA)

    @staticmethod
    def _descend(p: torch.Tensor, gradient: torch.Tensor, velocity: torch.Tensor, lr: float) -> None:
        gradient = gradient + DECAY * p
        velocity.mul_(MOMENTUM).add_(gradient)
        p.add_(gradient + MOMENTUM * velocity, alpha=-lr)


def entropy_sgd(model: nn.Module, epsilon: float = EPSILON) -> EntropySGD:
    """`EntropySGD` with the constants above."""
    return EntropySGD(sgd(model), sgd(model, ETA), gamma=GAMMA, L=L, epsilon=epsilon, alpha=ALPHA, seed=0)


def compare(name: str, model: nn.Module, device: torch.device, repeats: int) -> None:
    """Print all ratios for one network."""
    model.to(device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 3, 32, 32, generator=generator).to(device)
    y = torch.randint(10, (BATCH,), generator=generator).to(device)

    def evaluate(*models: nn.Module) -> None:
        for m in models:
            m.zero_grad()
            nn.functional.cross_entropy(m(x), y).backward()

    def run(models: list[nn.Module], optimizers: list, steps: int) -> None:
        for _ in range(steps):
            evaluate(*models)
            for optimizer in optimizers:
                optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    check_against_loop(model, run)
    plain, entropic, looped = (copy.deepcopy(model) for _ in range(3))
    replicas, alone = ([copy.deepcopy(model) for _ in range(Y)] for _ in range(2))
    base, esgd, loop = sgd(plain), entropy_sgd(entropic), LoopEntropySGD(looped, EPSILON)
    rsgd = ReplicatedSGD([sgd(m) for m in replicas], gamma=GAMMA, K=K)
    bases = [sgd(m) for m in alone]
    of_base, of_esgd, of_loop, of_rsgd, of_bases = median_seconds(
        lambda: run([plain], [base], L),
        lambda: run([entropic], [esgd], L),
        lambda: run([looped], [loop], L),
        lambda: run(replicas, [rsgd], K),
        lambda: run(alone, bases, K),
        repeats=repeats,
    )
    print(f"{name}, {torch.get_num_threads()} threads: SGD takes {1e3 * of_base / L:.2f} ms a gradient evaluation")
    print(verdict("EntropySGD over SGD", of_esgd / of_base, 1.05, at_least=False))
    print(verdict(f"ReplicatedSGD over SGD, {Y} replicas", of_rsgd / of_bases, 1.05, at_least=False))
    print(f"EntropySGD over a loop through the parameters: {of_esgd / of_loop:.3g}", end=", ")
    ours, theirs = median_seconds(lambda: run([], [esgd], 4 * L), lambda: run([], [loop], 4 * L), repeats=repeats)
    print(f"steps alone: {ours / theirs:.3g}")


def check_against_loop(model: nn.Module, run) -> None:
    """Raise unless `EntropySGD` and the loop reach the same weights, without noise."""
    a, b = copy.deepcopy(model), copy.deepcopy(model)
    run([a], [entropy_sgd(a, 0.0)], 2 * L)
    run([b], [LoopEntropySGD(b, 0.0)], 2 * L)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        if not torch.allclose(p, q, rtol=1e-3, atol=1e-4):
            raise AssertionError(f"EntropySGD and the loop differ by {(p - q).abs().max().item():.1e}")


def main() -> None:
    """Compare on the CPU, and on a GPU if there is one."""
    from training.models import make_model

    torch.manual_seed(0)
    compare("SmallConvNet, CPU", make_model("smallconvnet"), torch.device("cpu"), repeats=15)
    if torch.cuda.is_available():
        compare("ResNet-18, GPU", make_model("resnet18"), torch.device("cuda"), repeats=15)
    else:
        print("ResNet-18: not measured, torch finds no CUDA device")


if __name__ == "__main__":
    main()
