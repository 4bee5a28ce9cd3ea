"""The local entropy of torch models: how near to the speed of plain passes, and what two devices save.

``python -m benchmarks.entropy`` prints, for a ReLU perceptron (784-16-2, 400 patterns) with a ladder, and the first
line for SmallConvNet (200 pictures) at a small σ, where samples of the noise are counted, on the CPU,

1. patterns per second inside `bpflat.flatness.local_entropy` over those of plain passes in inference mode, which count
   the errors, as the passes inside do, or do not; all patterns in one batch, so that early rejection plays no part; by
   the processor's time.  The whole call is timed, with its copies, checks, noise and ladder;
2. passes with all patterns in one batch over those in small batches, which early rejection leaves, and what of that
   comes of putting patterns first that are often wrong; and the same of time;
3. time of one state after the other over that of many together (torch.func.vmap).

The peak memory is a matter of the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
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
        Case("perceptron", perceptron, (inputs, targets), 0.9, {"n_chains": 16}, 100),
        Case("SmallConvNet", convolutional, (pictures, answers), 0.001, {"n_chains": 2}, 50),
    ]


def cpu_seconds(function: Callable[[], object]) -> float:
    """Time that the processor spends on a call, which other programs hardly change."""
    start = time.process_time()
    function()
    return time.process_time() - start


def plain_rates(case: Case, least: float = 2.0) -> NDArray[np.float64]:
    """Patterns per second of plain passes, all patterns in one batch, that count the errors and that do not."""
    inputs, targets = case.data
    passes = (lambda: (case.model(inputs).argmax(dim=1) != targets).sum().item(), lambda: case.model(inputs))
    n, spent = 0, np.zeros(2)
    with torch.inference_mode():
        assert passes[0]() == 0  # of errors
        while spent.min() < least:
            spent += [cpu_seconds(lambda one=one: [one() for _ in range(5)]) for one in passes]
            n += 5 * len(inputs)
    return n / spent


def timed(case: Case, **options) -> tuple[float, LocalEntropyCurve]:
    """Seconds of a call, and what it finds."""
    curves = []
    took = cpu_seconds(lambda: curves.append(case.curve(**options)))
    return took, curves[0]


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
        n_patterns, n = len(case.data[0]), sum(p.numel() for p in case.model.parameters())
        before = plain_rates(case)
        whole_time, whole = timed(case, batch_size=n_patterns)
        plain = (before + plain_rates(case)) / 2
        print(
            f"{case.name}, {n:,} weights, {torch.get_num_threads()} threads: log P = {whole.log_z[0] * n:.2f} ± "
            f"{whole.std_error[0] * n:.2f}, {whole.n_temperatures[0]} temperatures, {whole.passes[0]:,.0f} passes, "
            f"{whole_time:.1f} s of the processor"
        )
        counting, bare = whole.passes[0] * n_patterns / whole_time / plain
        print(verdict("patterns per second inside over plain passes that count errors", counting, 0.8))
        print(f"  over plain passes that do not: {bare:.3g}", flush=True)
        if whole.n_temperatures[0] == 1:
            continue
        alone_time, _ = timed(case, together=1, batch_size=n_patterns)
        took, curve = timed(case)
        print(f"  one state after the other over many together, time: {alone_time / whole_time:.3g}")
        ratio = whole.passes[0] / curve.passes[0]
        print(f"  one batch over early rejection: passes {ratio:.3g}, time {whole_time / took:.3g}")
        print(f"  the same with patterns as they come: passes {whole.passes[0] / passes_without_order(case):.3g}")


if __name__ == "__main__":
    main()
