"""Both flatness measures of trained minima, computed once and kept beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bpflat
from bpflat import LocalEnergyProfile, LocalEntropyCurve
from training.results import TrainedMinima

DISTANCES = np.array([0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0])
DISTANCES_EP = np.array([0.05, 0.25])
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
    entropy_ep : LocalEntropyCurve, optional
        Φ at `DISTANCES_EP` by expectation propagation, around the first of the restarts without training errors.
    """

    name: str
    label: str
    minima: TrainedMinima
    entropy: LocalEntropyCurve
    energy: LocalEnergyProfile
    entropy_ep: LocalEntropyCurve | None = None


def measure(minima: TrainedMinima, folder: Path, name: str, *, label: str, n_ep: int = 0, n_jobs: int = -1) -> Series:
    """Read both measures from `folder`, or compute and store them there; those of `n_ep` restarts by EP too.

    Raises
    ------
    ValueError
        When no restart is free of training errors, or a stored file is damaged.
    """
    solved = np.flatnonzero(minima.train_error == 0)
    if not len(solved):
        raise ValueError(f"{name}: no restart reached zero training errors; train longer or leave the protocol out")

    def measured(what: str, kind: type, chosen: NDArray[np.int64], compute: Callable):
        def run():
            if not len(minima.weights):
                raise ValueError(
                    f"{folder / name}.npz was stored without weights, and {what} is missing: train again elsewhere"
                )
            return compute(minima.weights[chosen].astype(np.float64), *problem_of(minima))

        return stored(folder / f"{name}-{what}.npz", kind, minima.reference[chosen], run)

    def entropy(*problem, **options):
        return bpflat.local_entropy(*problem, n_jobs=n_jobs, progress=True, **options)

    return Series(
        name,
        label,
        minima,
        measured("entropy", LocalEntropyCurve, solved, partial(entropy, distances=DISTANCES)),
        measured(
            "energy",
            LocalEnergyProfile,
            np.arange(len(minima.restart)),
            lambda *problem: bpflat.local_energy(*problem, SIGMAS, method="exact"),
        ),
        measured("entropy-ep", LocalEntropyCurve, solved[:n_ep], partial(entropy, distances=DISTANCES_EP, method="ep"))
        if n_ep
        else None,
    )


def problem_of(minima: TrainedMinima) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training patterns (P, N) and labels (P,) of stored minima."""
    data = bpflat.load_reduced_fashion_mnist(
        minima.data["n_train"], seed=minima.data["data_seed"], balanced=minima.data["balanced"]
    )
    return data.train_patterns, data.train_labels


def stored(path: Path, kind: type, reference: NDArray[np.str_], compute: Callable):
    """Read the result of these references at `path`; where it is absent or of others, compute and store it."""
    if path.exists():
        result = kind.load(path)
        if np.array_equal(result.reference, reference):
            return result
    result = compute()
    result.save(path)
    return result
