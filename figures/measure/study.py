"""The study of the conventions that the paper leaves open: what it trains and measures, draw by draw."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

import bpflat
from bpflat.arguments import check_count
from bpflat.provenance import Provenance
from bpflat.storage import StoredResult
from figures.measure.experiment import SAMPLINGS, Preset, on_each_draw
from figures.measure.measures import problem_of
from figures.measure.summary import FAR, NEAR, NOISE
from training.committee import run
from training.committee.protocols import PROTOCOLS, Protocol
from training.committee.results import STOPPED, TrainedMinima
from training.result_file import is_missing, json_object

RESULTS = Path(__file__).parents[1] / "results" / "conventions"
STARTS = ("equal", "independent")
PULLS = {"gamma": "γ", "eta gamma": "ηγ", "eta B gamma": "ηBγ"}
OUTER_STEPS = {"eta gamma": "ηγ", "eta": "η"}
MEANS = ("sgd-fast", "sgd-slow", "rsgd-fast-equal-gamma", "rsgd-slow-equal-gamma", "esgd-eta-gamma")  # and by the sum
STUDY = Preset(restarts=3)
DRAWS_OF_MEANS = 2  # of each sampling: enough to see that averaged gradients do not end at zero errors
QUANTITIES = {
    "test_error": ("test error, %", 100),
    "test_error_balanced": ("balanced, %", 100),
    "phi_near": (f"10⁵ Φ({NEAR:g})", 1e5),
    "phi_far": (f"10⁵ Φ({FAR:g})", 1e5),
    "delta_error": (f"δE({NOISE:g}), %", 100),
    "overlap": ("row overlap", 1),
}


def _readings() -> dict[str, Protocol]:
    """Every protocol by every reading of its conventions, by a name that says which."""
    readings = [PROTOCOLS["sgd-fast"], PROTOCOLS["sgd-slow"]]
    for speed, start, pull in product(("rsgd-fast", "rsgd-slow"), STARTS, PULLS):
        if (speed, pull) == ("rsgd-slow", "eta gamma"):  # replicas freeze apart; it takes 80,000 epochs to tell
            continue
        name = f"{speed}-{start}-{pull.replace(' ', '-')}"
        readings.append(replace(PROTOCOLS[speed], name=name, start=start, pull=pull))
    for step in OUTER_STEPS:
        readings.append(replace(PROTOCOLS["esgd"], name=f"esgd-{step.replace(' ', '-')}", outer_step=step))
    means = [replace(p, name=f"{p.name}-mean", reduction="mean") for p in readings if p.name in MEANS]
    return {protocol.name: protocol for protocol in readings + means}


READINGS = _readings()


def reading_of(protocol: Protocol) -> str:
    """Name in `READINGS` of a protocol as it is read by default; ValueError where the study has no such reading."""
    for name, reading in READINGS.items():
        if replace(reading, name=protocol.name) == protocol:
            return name
    raise ValueError(f"the study has no reading of {protocol.name} with the conventions of its default")


@dataclass(frozen=True, eq=False, repr=False)
class Draw(StoredResult):
    """Measures of the minima of every reading on one draw of the patterns, one entry per minimum.

    Attributes
    ----------
    reading : ndarray of str
        A name in `READINGS`.
    ended : ndarray of bool
        Whether the restart ended by its own rule.
    epochs : ndarray of int
    train_error, test_error, test_error_balanced : ndarray of float
        Fractions.
    phi_near, phi_far : ndarray of float
        Φ_LE by belief propagation at d = 0.05 and 0.25, nats per weight; minima with errors are measured as eq. 3 says.
    delta_error : ndarray of float
        δE at σ = 0.5.
    overlap : ndarray of float
        Mean cosine between two rows of the weights.
    configuration : str
        JSON of the draw, the protocols and the restarts.
    provenance : Provenance
        Versions and revision that trained and measured them.
    """

    kind = "conventions"
    layout: ClassVar[Mapping[str, str]] = {
        "reading": "U R",
        "ended": "b R",
        "epochs": "i R",
        **dict.fromkeys(("train_error", "test_error", "test_error_balanced"), "f R"),
        **dict.fromkeys(("phi_near", "phi_far", "delta_error", "overlap"), "f R"),
        "configuration": "U",
    }

    reading: NDArray[np.str_]
    ended: NDArray[np.bool_]
    epochs: NDArray[np.int64]
    train_error: NDArray[np.float64]
    test_error: NDArray[np.float64]
    test_error_balanced: NDArray[np.float64]
    phi_near: NDArray[np.float64]
    phi_far: NDArray[np.float64]
    delta_error: NDArray[np.float64]
    overlap: NDArray[np.float64]
    configuration: str

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        super().check()
        json_object(self.configuration)


def row_overlap(weights: NDArray) -> NDArray[np.float64]:
    """Mean cosine between two different rows of weights (..., K, N), shape (...); 1 where the units are all alike."""
    rows = weights / np.linalg.norm(weights, axis=-1, keepdims=True)
    n = weights.shape[-2]
    return (np.sum(rows.sum(axis=-2) ** 2, axis=-1) - n) / (n * (n - 1))


def _measured(minima: TrainedMinima) -> dict[str, NDArray]:
    """Columns of a `Draw` for the minima of one reading."""
    weights = minima.weights.astype(np.float64)
    patterns, labels = problem_of(minima.data)
    phi = bpflat.local_entropy(weights, patterns, labels, distances=[NEAR, FAR]).phi
    return {
        "reading": np.full(len(weights), minima.protocol.name),
        "ended": minima.status == STOPPED,
        **{name: getattr(minima, name) for name in ("epochs", "train_error", "test_error", "test_error_balanced")},
        "phi_near": phi[:, 0],
        "phi_far": phi[:, 1],
        "delta_error": bpflat.local_energy(weights, patterns, labels, [NOISE], method="exact").delta_error[:, 0],
        "overlap": row_overlap(weights),
    }


def collect(
    results: Path, runs: Path, names: Sequence[str], n_draws: int, *, preset: Preset = STUDY, n_jobs: int = 1
) -> dict[str, list[Draw]]:
    """Train and measure what `results` does not hold yet; returns the draws, by sampling.

    Parameters
    ----------
    results : Path
        Place of the measures, one small file per draw.
    runs : Path
        Place of the trained minima.
    names : sequence of str
        Readings; those that average gradients are trained on the first `DRAWS_OF_MEANS` draws alone.
    n_draws : int
        How many of each sampling.
    preset : Preset
        How much is run on each.
    n_jobs : int
        Processes, one draw each.

    Raises
    ------
    ValueError
        When a stored file is of another configuration or damaged, or for bad `n_draws`.
    SweepError
        When a training fails.
    OSError
        When a folder cannot be written.
    """
    n_draws = check_count("draws", n_draws, at_least=2, at_most=1000)
    return on_each_draw(partial(_measured_draw, results, runs, names, preset), n_draws, n_jobs)


def _measured_draw(results: Path, runs: Path, names: Sequence[str], preset: Preset, sampling: str, draw: int) -> Draw:
    """Measures of all minima of one draw, read where they are stored."""
    readings = (READINGS[name] for name in names)
    protocols = preset.apply(p for p in readings if draw < DRAWS_OF_MEANS or p.reduction == "sum")
    options = {"restarts": preset.restarts, "n_train": preset.n_train, "data_seed": draw}
    options["balanced"] = sampling == "balanced"
    configuration = options | {"protocols": {p.name: asdict(p) for p in protocols}}
    path = results / f"{sampling}-{draw}.npz"
    with contextlib.ExitStack() as claims:
        if is_missing(path, configuration, lambda path: Draw.load(path).configuration, claims):
            parts = [_measured(run(p, runs / f"{sampling}-{draw}", threads=1, **options)) for p in protocols]
            columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            Draw(**columns, configuration=json.dumps(configuration), provenance=Provenance.here()).save(path)
            print(f"{sampling} draw {draw} is done", file=sys.stderr, flush=True)
    return Draw.load(path)


def load(results: Path) -> dict[str, list[Draw]]:
    """Read the draws that `collect` has stored, by sampling.

    Raises
    ------
    FileNotFoundError
        When fewer than two draws of a sampling are there: nothing is trained here.
    ValueError
        When a file is damaged.
    """
    study = {}
    for sampling in SAMPLINGS:
        paths = sorted(results.glob(f"{sampling}-*.npz"), key=lambda path: int(path.stem.rpartition("-")[2]))
        if len(paths) < 2:
            raise FileNotFoundError(
                f"{results} holds fewer than two {sampling} draws; make them: "
                f"python -m figures.conventions --results {results}"
            )
        study[sampling] = [Draw.load(path) for path in paths]
    return study


def of(draws: Sequence[Draw], quantity: str, reading: str) -> NDArray[np.float64]:
    """A quantity of one reading on the draws that it was trained on, in the units of `QUANTITIES`, shape (D, R)."""
    parts = [getattr(draw, quantity)[draw.reading == reading] for draw in draws if reading in draw.reading]
    return QUANTITIES[quantity][1] * np.array(parts)


def over_draws(draws: Sequence[Draw], quantity: str, reading: str) -> NDArray[np.float64]:
    """Mean of a quantity over the restarts of each draw, in the units of `QUANTITIES`, shape (D,)."""
    return of(draws, quantity, reading).mean(axis=1)
