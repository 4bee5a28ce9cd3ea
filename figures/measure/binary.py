"""Machines with weights ±1 that several solvers find, and what is measured around them, computed once and kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

import bpflat
from bpflat import binary, committee
from bpflat.arguments import check_count
from bpflat.binary import BinaryEntropyCurve, FlipEnergyProfile, Solution
from bpflat.committee import fingerprints
from bpflat.layout import check_finite
from bpflat.parallel import over_processes
from bpflat.provenance import Provenance
from bpflat.storage import StoredResult
from figures.measure.measures import stored

DISTANCES = np.array([0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5])
FLIPS = np.array([0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
SAMPLED = np.array([2, 4])  # of `DISTANCES`, by Monte Carlo too
N_CHAINS = 4
REFERENCE_AXES = (["R"], ["R?"], ["Q?"])  # first axes of arrays with an entry for each machine


class Solver(NamedTuple):
    """A name in a legend, and the function of patterns, labels, K and seed."""

    label: str
    find: Callable[..., Solution]


SOLVERS = {
    # pictures have much in common, so that weights are frozen together: more replicas and smaller steps than by default
    "focusing": Solver("focusing BP", partial(binary.focusing_bp, n_replicas=20.0, n_steps=40)),
    "decimation": Solver("BP decimation", partial(binary.decimated_bp, n_steps=100)),
    "rounded-sgd": Solver("rounded SGD", binary.rounded_sgd),
}


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    restarts : int
        Machines of each solver, found with the seeds 0, 1, ...
    n_hidden : int
        Hidden units K.
    n_train : int
        Training patterns P.
    n_samples : int
        Sweeps of a Monte Carlo chain, at least 100.

    Raises
    ------
    ValueError
        A number out of its range.
    """

    restarts: int = 10
    n_hidden: int = 9
    n_train: int = 500
    n_samples: int = 300

    def __post_init__(self):
        for field in fields(self):
            least = 100 if field.name == "n_samples" else 1
            check_count(field.name, getattr(self, field.name), at_least=least, at_most=10**7)


@dataclass(frozen=True, eq=False, repr=False)
class BinaryMinima(StoredResult):
    """Machines that one solver has found, one per restart.

    Attributes
    ----------
    weights : ndarray of int8, shape (R, K, N)
        ±1.
    restart : ndarray of int, shape (R,)
        Seed of the solver.
    steps : ndarray of int, shape (R,)
        Fixed points or epochs until the restart ended.
    train_error, test_error, test_error_balanced : ndarray of float, shape (R,)
        Fractions.
    n_train : int
        Training patterns, of the first draw.
    reference : ndarray of str, shape (R,)
        Fingerprints of the weights.
    """

    kind = "binary-minima"
    layout: ClassVar[Mapping[str, str]] = {
        "weights": "i R K N",
        **dict.fromkeys(("restart", "steps"), "i R"),
        **dict.fromkeys(("train_error", "test_error", "test_error_balanced"), "f R"),
        "n_train": "i",
        "reference": "U R",
    }

    weights: NDArray[np.int8]
    restart: NDArray[np.int64]
    steps: NDArray[np.int64]
    train_error: NDArray[np.float64]
    test_error: NDArray[np.float64]
    test_error_balanced: NDArray[np.float64]
    n_train: int
    reference: NDArray[np.str_]

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        super().check()
        check_finite(vars(self), "train_error", "test_error", "test_error_balanced")


@dataclass(frozen=True)
class BinarySeries:
    """Machines of one solver and what was measured around them.

    Attributes
    ----------
    name, label : str
        The solver in files and in a legend.
    minima : BinaryMinima
    entropy : BinaryEntropyCurve
        Φ at `DISTANCES` by belief propagation.
    energy : FlipEnergyProfile
        δE at `FLIPS`.
    sampled : BinaryEntropyCurve
        Φ by Monte Carlo, at the couplings of those of `DISTANCES` that are `SAMPLED`.
    """

    name: str
    label: str
    minima: BinaryMinima
    entropy: BinaryEntropyCurve
    energy: FlipEnergyProfile
    sampled: BinaryEntropyCurve

    def solved(self) -> BinarySeries:
        """Return the machines that make no training error alone; raises ValueError where there is none."""
        right = self.minima.train_error == 0
        if not right.any():
            raise ValueError(
                f"{self.label}: every restart makes training errors on {self.minima.n_train} patterns; take fewer"
            )
        parts = {name: _some(getattr(self, name), right) for name in ("minima", "entropy", "energy", "sampled")}
        return replace(self, **parts)

    @property
    def noise(self) -> NDArray[np.float64]:
        """Flip probabilities of `energy`."""
        return self.energy.flip_probability


def _some(result: StoredResult, which: NDArray[np.bool_]):
    """The result with these of its references alone."""
    axes = {name: form.split()[1:2] for name, form in result.layout.items()}
    return replace(result, **{name: getattr(result, name)[which] for name in axes if axes[name] in REFERENCE_AXES})


def measure(folder: Path, plan: Plan, *, n_jobs: int) -> list[BinarySeries]:
    """Read machines and measures of every solver from `folder`, or compute and store them.

    Parameters
    ----------
    folder : Path
        Place of ``<solver>.npz``, ``-entropy.npz``, ``-mcmc.npz`` and ``-energy.npz``.
    plan : Plan
    n_jobs : int
        Processes.

    Raises
    ------
    ValueError
        When `folder` holds machines of another plan, or a file is damaged.
    OSError
        When `folder` cannot be written.
    """
    return [_series(name, solver, folder, plan, n_jobs) for name, solver in SOLVERS.items()]


def _series(name: str, solver: Solver, folder: Path, plan: Plan, n_jobs: int) -> BinarySeries:
    """Machines of one solver and what is measured around them."""
    minima = _minima(folder / f"{name}.npz", solver, plan, n_jobs)
    data = bpflat.load_reduced_fashion_mnist(plan.n_train)
    problem = minima.weights.astype(np.float64), data.train_patterns, data.train_labels
    by_sampling = {"method": "mcmc", "n_samples": plan.n_samples, "n_chains": N_CHAINS, "seed": 0}

    def kept(what: str, kind: type, compute: Callable):
        return stored(folder / f"{name}-{what}.npz", kind, minima.reference, partial(_said, f"{name}: {what}", compute))

    curve = partial(binary.local_entropy, n_jobs=n_jobs)
    return BinarySeries(
        name,
        solver.label,
        minima,
        kept("entropy", BinaryEntropyCurve, partial(curve, *problem, distances=DISTANCES)),
        kept("energy", FlipEnergyProfile, partial(binary.local_energy, *problem, FLIPS, method="exact")),
        kept("mcmc", BinaryEntropyCurve, partial(curve, *problem, distances=DISTANCES[SAMPLED], **by_sampling)),
    )


def _said(what: str, compute: Callable):
    """What a function computes, after a line about it on stderr."""
    print(what, file=sys.stderr, flush=True)
    return compute()


def _minima(path: Path, solver: Solver, plan: Plan, n_jobs: int) -> BinaryMinima:
    """The stored machines of one solver, found where there are none."""
    if not path.exists():
        _said(f"{path.stem}: {plan.restarts} restarts", partial(_find, solver, plan, n_jobs)).save(path)
    minima = BinaryMinima.load(path)
    has = len(minima.restart), minima.weights.shape[1], minima.n_train
    if has != (plan.restarts, plan.n_hidden, plan.n_train):
        raise ValueError(
            f"{path} holds {has[0]} restarts with K = {has[1]} of {has[2]} patterns, not {plan.restarts} with "
            f"K = {plan.n_hidden} of {plan.n_train}; choose another folder of results"
        )
    return minima


def _solution(find: Callable[..., Solution], problem: tuple[NDArray, NDArray, int], seed: int) -> Solution:
    """What a solver finds in one restart: for processes, to which positions are handed."""
    return find(*problem, seed=seed)


def _find(solver: Solver, plan: Plan, n_jobs: int) -> BinaryMinima:
    """All restarts of one solver."""
    data = bpflat.load_reduced_fashion_mnist(plan.n_train)
    seeds = np.arange(plan.restarts)
    problem = data.train_patterns, data.train_labels, plan.n_hidden
    found = list(over_processes(_solution, ((solver.find, problem, int(seed)) for seed in seeds), n_jobs))
    weights = np.stack([solution.weights for solution in found])
    test = data.test_patterns, data.test_labels
    return BinaryMinima(
        weights=weights.astype(np.int8),
        restart=seeds,
        steps=np.array([solution.steps for solution in found]),
        train_error=np.array([solution.n_errors for solution in found]) / plan.n_train,
        test_error=np.asarray(committee.error(weights, *test)),
        test_error_balanced=np.asarray(committee.error(weights, *test, balanced=True)),
        n_train=plan.n_train,
        reference=fingerprints(weights),
        provenance=Provenance.here(),
    )
