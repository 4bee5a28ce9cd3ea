"""Belief propagation around 50 SGD-fast minima: one call for all through torch, over 50 single calls.

On a GPU also the whole stage of Fig. 1's paper preset: 250 references, 12 distances.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import median_seconds, seconds, verdict
from bpflat import local_entropy
from figures.measure.measures import DISTANCES, problem_of
from training.committee.results import TrainedMinima

STORED = Path(__file__).parents[1] / "figures" / "results" / "fig6-paper" / "dropout-0.npz"
PRESET = 250  # references of the paper preset


def main() -> None:
    """Time curves on the default grid, and check that they are the same."""
    minima = TrainedMinima.load(STORED)
    weights, problem = minima.weights.astype(np.float64), problem_of(minima.data)

    def apart():
        return np.array([local_entropy(w, *problem).phi for w in weights])

    def together(device="cpu"):
        return local_entropy(weights, *problem, device=device, n_jobs=-1).phi

    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    expected = apart()
    for device in devices:
        off = np.max(np.abs(together(device) / expected - 1))
        assert off < 1e-6, f"{device}: Φ is off by {off:.1e}"
    took, *others = median_seconds(apart, *(lambda d=d: together(d) for d in devices), repeats=3, warmups=0)
    print(f"{len(weights)} curves of 12 points, one by one: {took:.2f} s")
    for device, other in zip(devices, others, strict=True):
        name = device if device == "cpu" else torch.cuda.get_device_name()
        print(verdict(f"time of single calls over that of one call on {name} ({other:.2f} s)", took / other, 3))
    if "cuda" in devices:
        many = np.tile(weights, (PRESET // len(weights), 1, 1))
        took = seconds(lambda: local_entropy(many, *problem, distances=DISTANCES, device="cuda"))
        print(verdict(f"seconds for {PRESET} references at {len(DISTANCES)} distances", took, 120, at_least=False))
    else:
        print("the stage of the paper preset on a GPU: not measured, torch finds no CUDA device")


if __name__ == "__main__":
    main()
