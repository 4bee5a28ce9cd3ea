"""What the conventions decide that the paper leaves open: gradient, start and pull of the replicas, eSGD's outer step.

``python -m figures.conventions`` trains SGD, rSGD and eSGD by every reading of their conventions, at the paper's full
schedules: three restarts of each on ten natural and ten balanced draws of 500 patterns.  Φ counts the weights that
make no more errors than a minimum, so that minima with errors are measured too.  What is there already is not computed
again; a draw that was cut off goes on where it was.  Intervals are Student's t over draws, which are independent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bpflat
from bpflat.storage import load_result, save_result
from figures.draw.tables import markdown
from figures.measure.experiment import N_TRAIN, on_each_draw
from figures.measure.measures import problem_of
from figures.measure.statistics import Interval, mean_interval, paired_difference
from figures.measure.summary import FAR, NEAR, NOISE
from figures.program import Output, add_size_options, run_program, sizes_from
from training.checkpoints import require_same
from training.committee import run
from training.protocols import PROTOCOLS, Protocol
from training.results import STOPPED, TrainedMinima, git_revision

RESULTS = Path(__file__).with_name("results") / "conventions"
STARTS = ("equal", "independent")
PULLS = {"gamma": "γ", "eta gamma": "ηγ", "eta B gamma": "ηBγ"}
OUTER_STEPS = {"eta gamma": "ηγ", "eta": "η"}
MEANS = ("sgd-fast", "sgd-slow", "rsgd-fast-equal-gamma", "rsgd-slow-equal-gamma", "esgd-eta-gamma")  # and by the sum
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
    found = [PROTOCOLS["sgd-fast"], PROTOCOLS["sgd-slow"]]
    for speed, start, pull in product(("rsgd-fast", "rsgd-slow"), STARTS, PULLS):
        if (speed, pull) == ("rsgd-slow", "eta gamma"):  # replicas freeze apart; it takes 80,000 epochs to tell
            continue
        name = f"{speed}-{start}-{pull.replace(' ', '-')}"
        found.append(replace(PROTOCOLS[speed], name=name, start=start, pull=pull))
    for step in OUTER_STEPS:
        found.append(replace(PROTOCOLS["esgd"], name=f"esgd-{step.replace(' ', '-')}", outer_step=step))
    means = [replace(p, name=f"{p.name}-mean", reduction="mean") for p in found if p.name in MEANS]
    return {protocol.name: protocol for protocol in found + means}


READINGS = _readings()


@dataclass(frozen=True)
class Draw:
    """Measures of the minima of every reading on one draw of the patterns, one entry a minimum.

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
    git_revision : str
        Of the checkout that trained and measured them.
    """

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
    git_revision: str


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
    results: Path, runs: Path, names: Sequence[str], n_draws: int, *, sizes: Mapping[str, int], n_jobs: int = 1
) -> dict[str, list[Draw]]:
    """Train and measure what `results` does not hold yet; returns the draws, by sampling.

    Parameters
    ----------
    results : Path
        Of the measures, one small file a draw.
    runs : Path
        Of the trained minima.
    names : sequence of str
        Readings.
    n_draws : int
        Of each sampling.
    sizes : mapping
        ``restarts``, ``n_train`` and ``max_epochs`` (None for the protocols' own).
    n_jobs : int
        Processes, one draw each.

    Raises
    ------
    ValueError
        When a stored file is of another configuration or damaged.
    SweepError
        When a training fails.
    OSError
        When a folder cannot be written.
    """
    return on_each_draw(partial(_one_draw, results, runs, names, sizes), n_draws, n_jobs)


def _one_draw(
    results: Path, runs: Path, names: Sequence[str], sizes: Mapping[str, int], sampling: str, draw: int
) -> Draw:
    """Measures of all minima of one draw, read where they are stored."""
    protocols = [READINGS[name] for name in names]
    if sizes["max_epochs"] is not None:
        protocols = [replace(p, max_epochs=min(p.max_epochs, sizes["max_epochs"])) for p in protocols]
    options = {"restarts": sizes["restarts"], "n_train": sizes["n_train"], "data_seed": draw}
    options["balanced"] = sampling == "balanced"
    configuration = options | {"protocols": {p.name: asdict(p) for p in protocols}}
    path = results / f"{sampling}-{draw}.npz"
    if path.exists():
        found = load_result(path, "conventions", Draw)
        require_same(path, json.loads(found.configuration), configuration)
        return found
    parts = [_measured(run(p, runs / f"{sampling}-{draw}", threads=1, **options)) for p in protocols]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found = Draw(**columns, configuration=json.dumps(configuration), git_revision=git_revision())
    save_result(path, "conventions", found)
    print(f"{sampling} draw {draw} is done", file=sys.stderr, flush=True)
    return found


def over_draws(draws: Sequence[Draw], quantity: str, reading: str) -> NDArray[np.float64]:
    """Mean of a quantity over the restarts of each draw, in the units of `QUANTITIES`, shape (D,)."""
    return QUANTITIES[quantity][1] * np.array([getattr(d, quantity)[d.reading == reading].mean() for d in draws])


def columns_of(protocol: Protocol) -> list[str]:
    """Algorithm, gradient, start, pull (of eSGD the outer step), as a table has them."""
    if protocol.algorithm == "rsgd":
        return [protocol.label, protocol.reduction, protocol.start, PULLS[protocol.pull]]
    step = OUTER_STEPS[protocol.outer_step] if protocol.algorithm == "esgd" else "—"
    return [protocol.label, protocol.reduction, "—", step]


def summary_table(draws: Mapping[str, Sequence[Draw]], names: Sequence[str]) -> str:
    """How each reading ends, and every quantity with its interval, in Markdown."""
    head = [
        "patterns",
        "algorithm",
        "gradient",
        "start",
        "pull or step",
        "ended by rule",
        "zero errors",
        "epochs",
        "errors left, %",
    ]
    rows = [[*head, *(label for label, _ in QUANTITIES.values())]]
    for sampling, its in draws.items():
        for name in names:
            ended, errors, epochs = (
                np.concatenate([getattr(d, column)[d.reading == name] for d in its])
                for column in ("ended", "train_error", "epochs")
            )
            rows.append(
                [
                    sampling,
                    *columns_of(READINGS[name]),
                    f"{np.count_nonzero(ended)}/{len(ended)}",
                    f"{np.count_nonzero(errors == 0)}/{len(errors)}",
                    f"{epochs.min():,}–{epochs.max():,}",
                    f"{100 * errors.mean():.2f}",
                    *(interval_text(mean_interval(over_draws(its, quantity, name))) for quantity in QUANTITIES),
                ]
            )
    return markdown(rows)


def contrast_table(draws: Mapping[str, Sequence[Draw]], names: Sequence[str]) -> str:
    """Contrast of rSGD slow and rSGD fast for each start and pull, paired over draws, in Markdown."""
    rows = [
        [
            "patterns",
            "gradient",
            "start",
            "pull",
            "slow is flatter by Φ(0.25) in",
            "by δE(0.5) in",
            "test error, %",
            "balanced, %",
        ]
    ]
    for sampling, its in draws.items():
        for slow in names:
            fast = slow.replace("rsgd-slow", "rsgd-fast")
            if not slow.startswith("rsgd-slow") or fast not in names:
                continue
            flatter = [
                np.count_nonzero(sign * (over_draws(its, q, slow) - over_draws(its, q, fast)) > 0)
                for q, sign in (("phi_far", 1), ("delta_error", -1))
            ]
            rows.append(
                [
                    sampling,
                    *columns_of(READINGS[slow])[1:],
                    *(f"{n} of {len(its)} draws" for n in flatter),
                    *(
                        interval_text(paired_difference(*(over_draws(its, q, r)[:, None] for r in (slow, fast))))
                        for q in ("test_error", "test_error_balanced")
                    ),
                ]
            )
    return markdown(rows)


def interval_text(found: Interval) -> str:
    """Mean and interval to three digits for people; a dash where they are not known."""
    if np.isnan(found.low):
        return "—"
    return f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]".replace("-", "−")


def report(draws: Mapping[str, Sequence[Draw]], names: Sequence[str], sizes: Mapping[str, int]) -> str:
    """Both tables and how they are to be read, in Markdown."""
    n = len(draws["natural"])
    capped = f", at most {sizes['max_epochs']} epochs" if sizes["max_epochs"] else ""
    return f"""{n} natural and {n} balanced draws of {sizes["n_train"]} patterns, {sizes["restarts"]} restarts each;
schedules of the paper's Appendix B.1{capped}.  Means over draws, 95 % intervals (Student's t over draws).
Φ by belief propagation, of all minima: of one that makes errors, the log fraction of weights that make no more.

{summary_table(draws, names)}
rSGD slow minus rSGD fast, paired over draws:

{contrast_table(draws, names)}"""


def rows_of(draws: Mapping[str, Sequence[Draw]]):
    """Rows of every number."""
    names = [field.name for field in fields(Draw)][:-2]
    yield "patterns", "draw", *names
    for sampling, its in draws.items():
        for at, one in enumerate(its):
            for row in zip(*(getattr(one, name).tolist() for name in names), strict=True):
                yield sampling, at, *(f"{v:.9g}" if isinstance(v, float) else v for v in row)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument(
        "--draws", type=at_least_two, default=10, help="of natural and of balanced patterns (default: 10)"
    )
    parser.add_argument(
        "--readings", nargs="+", metavar="NAME", choices=READINGS, default=list(READINGS), help=", ".join(READINGS)
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of measures and tables")
    parser.add_argument("--runs", type=Path, default=Path("runs/conventions"), help="folder of the trained minima")
    add_size_options(parser)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")


def at_least_two(text: str) -> int:
    """Number of draws from the command line."""
    if (n := int(text)) < 2:
        raise argparse.ArgumentTypeError("must be at least 2: nothing differs between draws otherwise")
    return n


def make(arguments: argparse.Namespace) -> Output:
    """Train and measure what is missing, and write the tables."""
    sizes = {"restarts": 3, "n_train": N_TRAIN, "max_epochs": None}
    sizes |= {name: size for name, size in sizes_from(arguments).items() if size is not None}
    results, names = arguments.results, arguments.readings
    draws = collect(results, arguments.runs, names, arguments.draws, sizes=sizes, n_jobs=arguments.jobs)
    return Output(results, rows_of(draws), text=report(draws, names, sizes))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("conventions", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
