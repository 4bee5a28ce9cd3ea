"""The local entropy of torch models: how near to the speed of plain passes, and what two devices save.

``python -m benchmarks.entropy`` prints, for a ReLU perceptron (784-16-2, 400 patterns) and SmallConvNet (200 pictures)
on the CPU,

1. patterns a second inside `bpflat.flatness.local_entropy` over those of plain forward passes in inference mode, in the
   same batches, by the processor's time.  Patterns are those that went through the model: what early rejection leaves
   out is not counted.  The whole call is timed, with its copies, checks, noise and ladder;
2. passes without early rejection (all patterns in one batch) over those with it, and what of that comes of putting
   patterns first that are often wrong;
3. time of one state after the other over that of many together (torch.func.vmap).

The peak memory is a matter of the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.timing import verdict
from bpflat import LocalEntropyCurve
from bpflat.flatness import local_entropy
from bpflat.flatness.passes import Passes
from training.models import make_model

Data = tuple[Tensor, Tensor]


class Case(NamedTuple):
    """A model with data that it makes no errors on, σ, sweeps and the usual batch."""

    name: str
    model: nn.Module
    data: Data
    sigma: float
    options: dict
    batch_size: int

    def curve(self, **options) -> LocalEntropyCurve:
        """The call that is timed."""
        chosen = {"seed": 0, "n_samples": 100, "batch_size": self.batch_size, **self.options, **options}
        return local_entropy(self.model, self.data, [self.sigma], **chosen)


def cases() -> list[Case]:
    """The perceptron after a short training, and SmallConvNet as it is initialised, on its own answers."""
    torch.manual_seed(0)
    inputs = torch.randn(400, 784)
    targets = (inputs[:, :10].sum(dim=1) > 0).long()
    perceptron = nn.Sequential(nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(perceptron.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(perceptron(inputs), targets).backward()
        optimizer.step()
    convolutional, pictures = make_model("smallconvnet").eval(), torch.randn(200, 3, 32, 32)
    *_, last = (layer for layer in convolutional.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        outputs = convolutional(pictures)
        last.bias -= outputs.mean(dim=0)
        answers = (outputs - outputs.mean(dim=0)).argmax(dim=1)
    return [
        Case("perceptron", perceptron, (inputs, targets), 1.0, {}, 100),
        Case("SmallConvNet", convolutional, (pictures, answers), 0.01, {"n_chains": 2, "max_temperatures": 8}, 50),
    ]


def cpu_seconds(function: Callable[[], object]) -> float:
    """Time that the processor spends on a call, which other programs hardly change."""
    start = time.process_time()
    function()
    return time.process_time() - start


def plain_rate(case: Case, least: float = 2.0) -> float:
    """Patterns a second of plain passes."""
    n, spent = 0, 0.0
    with torch.inference_mode():
        while spent < least:
            spent += cpu_seconds(lambda: [case.model(batch) for batch in case.data[0].split(case.batch_size)])
            n += len(case.data[0])
    return n / spent


def inside_rate(case: Case, **options) -> tuple[float, float, LocalEntropyCurve]:
    """Patterns a second inside the call, its seconds, and what it finds."""
    curves = []
    took = cpu_seconds(lambda: curves.append(case.curve(**options)))
    return float(curves[0].passes[0]) * len(case.data[0]) / took, took, curves[0]


def passes_without_order(case: Case, **options) -> float:
    """Passes where patterns stay in the order in which they come."""
    sort, Passes.sort_patterns = Passes.sort_patterns, lambda self, states: list(states)
    try:
        return float(case.curve(**options).passes[0])
    finally:
        Passes.sort_patterns = sort


def main() -> None:
    """Measure both models."""
    for case in cases():
        before = plain_rate(case)
        rate, took, curve = inside_rate(case)
        plain = (before + plain_rate(case)) / 2  # a slow moment of the machine hits both
        n = sum(p.numel() for p in case.model.parameters())
        print(
            f"{case.name}, {n:,} weights, {torch.get_num_threads()} threads: log P = {curve.log_z[0] * n:.2f} ± "
            f"{curve.std_error[0] * n:.2f}, {curve.n_temperatures[0]} temperatures, {curve.passes[0]:,.0f} passes, "
            f"{took:.1f} s of the processor"
        )
        print(verdict("patterns a second inside over plain passes", rate / plain, 0.8))
        alone, took_alone, _ = inside_rate(case, together=1)
        print(f"  one after the other: {alone / plain:.3g} of plain passes, {took_alone / took:.3g} times as long")
        whole = float(case.curve(batch_size=len(case.data[0])).passes[0])
        print(f"  passes without early rejection over those with it: {whole / curve.passes[0]:.3g}")
        print(f"  the same with patterns as they come: {whole / passes_without_order(case):.3g}")


if __name__ == "__main__":
    main()
