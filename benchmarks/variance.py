"""What the options of `bpflat.flatness.local_energy` that reduce variance save.

``python -m benchmarks.variance`` prints the evaluations (images seen by the network) that a given standard error takes
without any option, over those that it takes with one, for a small network on synthetic pictures: at a minimum, and
after one epoch at small σ.  ``--store FILE`` keeps the table, such as that of the manual.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bpflat.flatness import local_energy

Data = tuple[Tensor, Tensor]

N_PATTERNS, SUBSET = 4000, 100
N_CALLS, N_SAMPLES = 48, 4  # independent calls, and draws of each
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {"common": False},
    "common": {},
    "antithetic": {"antithetic": True},
    "subset": {"subset": SUBSET},
}
NETWORKS = {"minimum": (15, (0.4, 0.5)), "one epoch": (1, (0.05, 0.1))}  # epochs, and both σ
QUANTITIES = ("error", "loss", "difference")  # δE and δL at the larger σ, and δE at it minus δE at the smaller


class Saving(NamedTuple):
    """Evaluations without options over those with, for the same standard error of a quantity; and its own error."""

    network: str
    options: str
    quantity: str
    factor: float
    std_error: float


def synthetic_pictures(n: int, generator: torch.Generator) -> Data:
    """Ten smooth pictures (n, 3, 16, 16) under noise, and which it is."""
    classes = F.interpolate(torch.randn(10, 3, 4, 4, generator=generator), size=(16, 16), mode="bilinear")
    targets = torch.arange(n) % 10
    return classes[targets] + 2.0 * torch.randn(n, 3, 16, 16, generator=generator), targets


def trained_network(data: Data, epochs: int) -> nn.Module:
    """Two convolutions and a dense layer after some epochs of SGD with Nesterov momentum."""
    inputs, targets = data
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(epochs):
        for rows in torch.randperm(len(targets), generator=generator).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    return model


def variances(
    model: nn.Module, data: Data, sigmas: tuple[float, float], n_calls: int, **options: Any
) -> NDArray[np.float64]:
    """Variance × draws of the three quantities as each call estimates it (n_calls, 3)."""
    profiles = [
        local_energy(model, data, sigmas, n_samples=N_SAMPLES, seed=seed, batch_size=500, **options)
        for seed in range(n_calls)
    ]
    differences = np.array([p.delta_error[1] - p.delta_error[0] for p in profiles])
    squares = (differences - differences.mean()) ** 2 * n_calls / (n_calls - 1)
    return N_SAMPLES * np.array(
        [(p.std_error[1] ** 2, p.loss_std_error[1] ** 2, s) for p, s in zip(profiles, squares, strict=True)]
    )


def ratio_of_means(one: NDArray, other: NDArray) -> tuple[NDArray, NDArray]:
    """Ratio of the means over rows, column by column, and its standard error."""
    ratio, squares = one.mean(axis=0) / other.mean(axis=0), 0.0
    for values in (one, other):
        squares = squares + values.var(axis=0, ddof=1) / len(values) / values.mean(axis=0) ** 2
    return ratio, ratio * np.sqrt(squares)


def savings(network: str, n_patterns: int = N_PATTERNS, n_calls: int = N_CALLS) -> Iterator[Saving]:
    """Measure what each of the `OPTIONS` saves for one of the `NETWORKS`."""
    epochs, sigmas = NETWORKS[network]
    data = synthetic_pictures(n_patterns, torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the first weights
        model = trained_network(data, epochs)
    evaluations = {  # for a unit of variance
        label: chosen.get("subset", n_patterns) * variances(model, data, sigmas, n_calls, **chosen)
        for label, chosen in OPTIONS.items()
    }
    for label in list(OPTIONS)[1:]:
        for found in zip(QUANTITIES, *ratio_of_means(evaluations["none"], evaluations[label]), strict=True):
            yield Saving(network, label, *found)


def main(argv: Sequence[str] = ()) -> None:
    """Print what is saved, and store it where `argv` says so."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", type=Path, metavar="FILE", help="also write the table, as CSV")
    path = parser.parse_args(argv).store
    table = [saving for network in NETWORKS for saving in savings(network)]
    for saving in table:
        print("{}, {}: {} {:.3g} ± {:.2g}".format(*saving), flush=True)
    if path:
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [Saving._fields, *((*s[:3], *(f"{x:.4g}" for x in s[3:])) for s in table)]
            )


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
