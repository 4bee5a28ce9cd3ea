"""The trained machine that the benchmarks of belief propagation look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bpflat
from training.committee.results import TrainedMinima

STORED = Path(__file__).parents[1] / "figures" / "results" / "fig1-quick"


def trained_reference(name: str = "sgd-fast") -> tuple[NDArray, NDArray, NDArray]:
    """Weights (9, 784) of the first stored minimum of a protocol, with its patterns (500, 784) and labels (500,)."""
    minima = TrainedMinima.load(STORED / f"{name}.npz")
    data = bpflat.load_reduced_fashion_mnist(minima.data["n_train"], seed=minima.data["data_seed"])
    return minima.weights[0].astype(np.float64), data.train_patterns, data.train_labels
