"""Both flatness measures of trained minima, computed once and kept beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bpflat
from bpflat import LocalEnergyProfile, LocalEntropyCurve
from bpflat.locks import claimed, disclaim
from bpflat.provenance import Provenance
from training.committee.protocols import PROTOCOLS
from training.committee.results import TrainedMinima
from training.workers import Assembly, complete

DISTANCES = np.array([0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0])
DISTANCES_EP = np.array([0.05, 0.25])
SIGMAS = np.round(np.arange(0, 1.51, 0.1), 2)
REFERENCES = 5  # whose curves are one task


@dataclass(frozen=True)
class Series:
    """Minima of one protocol and what was measured around them.

    Attributes
    ----------
    name : str
        The protocol, and the beginning of its files' names.
    label : str
        The protocol in a legend.
    minima : TrainedMinima
        All restarts.
    entropy : LocalEntropyCurve
        Φ at `DISTANCES` by belief propagation; around a restart that makes errors, of the weights that make no more.
    energy : LocalEnergyProfile
        δE at `SIGMAS`.
    entropy_ep : LocalEntropyCurve, optional
        Φ at `DISTANCES_EP` by expectation propagation.
    """

    name: str
    label: str
    minima: TrainedMinima
    entropy: LocalEntropyCurve
    energy: LocalEnergyProfile
    entropy_ep: LocalEntropyCurve | None = None

    @property
    def noise(self) -> NDArray[np.float64]:
        """Amplitudes σ of the noise of `energy`."""
        return self.energy.sigma


def measure(
    minima: Sequence[TrainedMinima],
    folder: Path,
    *,
    ep: bool = False,
    n_jobs: int = -1,
    scheduler: str | None = None,
    device: str = "cpu",
) -> list[Series]:
    """Read the measures of the minima of every protocol from `folder`, or compute and store them there.

    Parameters
    ----------
    minima : sequence of TrainedMinima
        One of each protocol.
    folder : Path
        Place of ``<protocol name>-entropy.npz``, ``-entropy-ep.npz`` and ``-energy.npz``.
    ep : bool
        Whether Φ is measured by expectation propagation too.
    n_jobs, scheduler
        Who computes the curves, see `training.workers.carry_out`.
    device : str
        "cpu" or "cuda"; all minima of a protocol are one task on a GPU.

    Raises
    ------
    ValueError
        When a stored file is damaged, or something must be measured of minima stored without weights.
    SweepError
        When tasks or workers fail.
    OSError
        When `folder` cannot be written.
    """
    share = partial(_entropies, minima, folder, n_jobs=n_jobs, scheduler=scheduler, device=device)
    entropies = share("entropy", DISTANCES)
    by_ep = share("entropy-ep", DISTANCES_EP, method="ep") if ep else [None] * len(minima)
    return [
        Series(trained.protocol.name, trained.protocol.label, trained, entropy, _energy(trained, folder), entropy_ep)
        for trained, entropy, entropy_ep in zip(minima, entropies, by_ep, strict=True)
    ]


def _energy(minima: TrainedMinima, folder: Path) -> LocalEnergyProfile:
    path = folder / f"{minima.protocol.name}-energy.npz"

    def compute():
        return bpflat.local_energy(weights_of(minima), *problem_of(minima.data), SIGMAS, method="exact")

    return stored(path, LocalEnergyProfile, minima.reference, compute)


def _entropies(
    minima: Sequence[TrainedMinima],
    folder: Path,
    what: str,
    distances: NDArray,
    *,
    method: str = "bp",
    n_jobs: int,
    scheduler: str | None,
    device: str,
) -> list[LocalEntropyCurve]:
    """Φ around the minima of every protocol, a few references per task."""
    on_cpu = device == "cpu"
    options = {"distances": distances, "method": method, "device": None if on_cpu else device}
    assemblies = [
        _assembly(m, folder / f"{m.protocol.name}-{what}.npz", REFERENCES if on_cpu else len(m.restart), options)
        for m in minima
    ]
    bar = f"Φ by {method}"
    return complete(assemblies, n_jobs=n_jobs if on_cpu else 1, scheduler=scheduler, bar=bar)


def _assembly(minima: TrainedMinima, path: Path, chunk: int, options: dict) -> Assembly[LocalEntropyCurve]:
    """How workers make the curves around the minima, `chunk` of them per task."""

    def describe(entries: range) -> str:
        first, last = minima.restart[[entries[0], entries[-1]]]
        return f"{minima.protocol.name}, Φ of restarts {first} to {last}"

    return Assembly(
        path=path,
        size=len(minima.restart),
        chunk=chunk,
        describe=describe,
        prepare=lambda entries: partial(_curves, weights_of(minima)[entries], minima.data, **options),
        read=lambda path, entries: read(path, LocalEntropyCurve, minima.reference[entries.start : entries.stop]),
        join=_joined,
    )


def _curves(weights: NDArray, data: dict, **options) -> LocalEntropyCurve:
    return bpflat.local_entropy(weights, *problem_of(data), **options)


def _joined(curves: Sequence[LocalEntropyCurve]) -> LocalEntropyCurve:
    """Curves of several sets of references as one."""
    names = [name for name, value in vars(curves[0]).items() if isinstance(value, np.ndarray)]
    arrays = {name: np.concatenate([getattr(curve, name) for curve in curves]) for name in names}
    return replace(curves[0], **arrays, provenance=Provenance.joined(curve.provenance for curve in curves))


def trained_minima(folder: Path) -> list[TrainedMinima]:
    """Read the minima of all protocols of Fig. 1; a FileNotFoundError says how to make those that are missing."""
    paths = [folder / f"{name}.npz" for name in PROTOCOLS]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; make it: python -m figures.fig1 --results {folder}")
    return [TrainedMinima.load(path) for path in paths]


def weights_of(minima: TrainedMinima) -> NDArray[np.float64]:
    """Weights (R, K, N) of stored minima; raises ValueError where they were not kept."""
    if not len(minima.weights):
        raise ValueError(
            f"{minima.protocol.name} was stored without weights and a measure of it is missing: train again elsewhere"
        )
    return minima.weights.astype(np.float64)


def problem_of(data: dict) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training patterns (P, N) and labels (P,) of stored minima, from their `data`."""
    drawn = bpflat.load_reduced_fashion_mnist(data["n_train"], seed=data["data_seed"], balanced=data["balanced"])
    return drawn.train_patterns, drawn.train_labels


def read(path: Path, kind: type, reference: NDArray[np.str_]):
    """Read the result of these references at `path`; None where it is absent or of others."""
    if path.exists():
        result = kind.load(path)
        if np.array_equal(result.reference, reference):
            return result
    return None


def stored(path: Path, kind: type, reference: NDArray[np.str_], compute: Callable):
    """Read the result of these references at `path`; where it is absent or of others, compute and store it."""
    result = read(path, kind, reference)
    if result is None:
        with claimed(path):
            result = read(path, kind, reference)  # by now
            if result is None:
                result = compute()
                result.save(path)
    disclaim(path)
    return result
