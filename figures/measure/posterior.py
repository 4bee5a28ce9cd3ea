"""Test errors of the local posterior around trained minima, computed once and kept beside them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

import bpflat
from bpflat.provenance import Provenance
from bpflat.storage import StoredResult
from figures.measure.measures import problem_of, stored, trained_minima, weights_of
from training.committee.results import TrainedMinima

METHODS = {"bp": "belief propagation", "ep": "expectation propagation", "mcmc": "Monte Carlo"}
DELTAS = 2 * np.array([0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0])
SAMPLED = [1, 2, 5]  # of `DELTAS`, by Monte Carlo, around the first minimum alone
N_SAMPLES, N_CHAINS = 1000, 8


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorErrors(StoredResult):
    """Test errors averaged over the local posterior of R minima of one protocol, at D variances Δ of its prior.

    Attributes
    ----------
    delta : ndarray, shape (D,)
    distance : ndarray, shape (R, D)
        d of the typical w'; NaN, as all that follows, where not converged.
    gibbs, bayes : ndarray, shape (R, D)
        Mean test error of a w', and test error of the majority of all of them: fractions.
    gibbs_balanced, bayes_balanced : ndarray, shape (R, D)
        The same, averaged over classes.
    gibbs_std_error, bayes_std_error : ndarray, shape (R, D)
        Standard errors of the first two by Monte Carlo, else NaN.
    overlap : ndarray, shape (R, D)
        Of two independent w'.
    reference : ndarray of str, shape (R,)
        Fingerprints of the minima.
    method : str
    """

    kind = "posterior-errors"
    layout: ClassVar[Mapping[str, str]] = {
        "delta": "f D",
        **dict.fromkeys(("distance", "gibbs", "bayes", "gibbs_balanced", "bayes_balanced"), "f R D"),
        **dict.fromkeys(("gibbs_std_error", "bayes_std_error", "overlap"), "f R D"),
        "reference": "U R",
        "method": "U",
    }

    delta: NDArray[np.float64]
    distance: NDArray[np.float64]
    gibbs: NDArray[np.float64]
    bayes: NDArray[np.float64]
    gibbs_balanced: NDArray[np.float64]
    bayes_balanced: NDArray[np.float64]
    gibbs_std_error: NDArray[np.float64]
    bayes_std_error: NDArray[np.float64]
    overlap: NDArray[np.float64]
    reference: NDArray[np.str_]
    method: str


@dataclass(frozen=True)
class Measured:
    """Minima of one protocol, and the errors of their local posteriors by method."""

    minima: TrainedMinima
    errors: dict[str, PosteriorErrors]


def measure(minima: Path, folder: Path, *, n_samples: int = N_SAMPLES, n_jobs: int) -> list[Measured]:
    """Read the errors of every protocol and method from `folder`, or compute and store them.

    Parameters
    ----------
    minima : Path
        Folder of the trained minima.
    folder : Path
    n_samples : int
        Sweeps of a Monte Carlo chain.
    n_jobs : int
        Processes.

    Raises
    ------
    FileNotFoundError
        When minima are not stored: nothing is trained here.
    ValueError
        When minima were stored without weights, or a file is damaged.
    OSError
        When `folder` cannot be written.
    """
    measured = [Measured(one, {}) for one in trained_minima(minima)]
    for method in METHODS:
        for one in measured:
            reference = one.minima.reference[:1] if method == "mcmc" else one.minima.reference
            path = folder / f"{one.minima.protocol.name}-{method}.npz"
            compute = partial(_errors, one.minima, method, n_samples=n_samples, n_jobs=n_jobs)
            one.errors[method] = stored(path, PosteriorErrors, reference, compute)
    return measured


def _errors(trained: TrainedMinima, method: str, *, n_samples: int, n_jobs: int) -> PosteriorErrors:
    """Test errors of the local posteriors of all minima, or of the first by Monte Carlo."""
    print(f"{trained.protocol.name}: {METHODS[method]}", file=sys.stderr, flush=True)
    weights, deltas, options = weights_of(trained), DELTAS, {}
    if method == "mcmc":
        weights, deltas = weights[:1], DELTAS[SAMPLED]
        options = {"n_samples": n_samples, "n_chains": N_CHAINS, "seed": 0}
    test = bpflat.load_reduced_fashion_mnist()
    curve = bpflat.local_entropy(
        weights,
        *problem_of(trained.data),
        deltas,
        method=method,
        predict_at=test.test_patterns,
        n_jobs=n_jobs,
        **options,
    )
    values = {}
    for rule in ("gibbs", "bayes"):
        values[rule], values[f"{rule}_std_error"] = curve.test_error(test.test_labels, rule=rule)
        values[f"{rule}_balanced"], _ = curve.test_error(test.test_labels, rule=rule, balanced=True)
    return PosteriorErrors(
        delta=deltas,
        distance=curve.distance,
        overlap=curve.overlap,
        reference=curve.reference,
        method=method,
        provenance=Provenance.here(),
        **values,
    )
