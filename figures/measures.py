"""Both flatness measures of trained minima, computed once and kept beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bpflat
from bpflat import LocalEnergyProfile, LocalEntropyCurve, committee
from training.results import TrainedMinima

DISTANCES = np.array([0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0])
SIGMAS = np.round(np.arange(0, 1.51, 0.1), 2)


@dataclass(frozen=True)
class Series:
    """Minima of one protocol and what was measured around them.

    Attributes
    ----------
    name : str
        Of the protocol and of its files.
    label : str
        For the legend.
    minima : TrainedMinima
        All restarts.
    entropy : LocalEntropyCurve
        Φ at `DISTANCES` around the restarts without training errors.
    energy : LocalEnergyProfile
        δE at `SIGMAS`, of all restarts.
    """

    name: str
    label: str
    minima: TrainedMinima
    entropy: LocalEntropyCurve
    energy: LocalEnergyProfile


def measure(minima: TrainedMinima, folder: Path, name: str, *, label: str, n_jobs: int = -1) -> Series:
    """Read both measures from `folder`, or compute and store them there.

    Raises
    ------
    ValueError
        When no restart is free of training errors, or a stored file is damaged.
    """
    weights = minima.weights.astype(np.float64)
    solved = weights[minima.train_error == 0]
    if not len(solved):
        raise ValueError(f"{name}: no restart reached zero training errors; train longer or leave the protocol out")
    problem = problem_of(minima)
    entropy = stored(
        folder / f"{name}-entropy.npz",
        LocalEntropyCurve,
        solved,
        lambda: bpflat.local_entropy(solved, *problem, distances=DISTANCES, n_jobs=n_jobs, progress=True),
    )
    energy = stored(
        folder / f"{name}-energy.npz",
        LocalEnergyProfile,
        weights,
        lambda: bpflat.local_energy(weights, *problem, SIGMAS, method="exact"),
    )
    return Series(name, label, minima, entropy, energy)


def problem_of(minima: TrainedMinima) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training patterns (P, N) and labels (P,) of stored minima."""
    data = bpflat.load_reduced_fashion_mnist(
        minima.data["n_train"], seed=minima.data["data_seed"], balanced=minima.data["balanced"]
    )
    return data.train_patterns, data.train_labels


def stored(path: Path, kind: type, weights: NDArray, compute: Callable):
    """Read the result of these weights at `path`; where it is absent or of other weights, compute and store it."""
    if path.exists():
        result = kind.load(path)
        if np.array_equal(result.reference, [committee.fingerprint(w) for w in weights]):
            return result
    result = compute()
    result.save(path)
    return result
