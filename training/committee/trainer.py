"""`train`: many restarts of one protocol as one batch, with stopping rules, checkpoints and progress."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from bpflat import committee
from bpflat.arguments import check_count, check_device, check_labels, check_patterns, check_scalar, check_threads
from bpflat.provenance import Provenance
from training.committee.checkpoints import Checkpoint, Ended, load_checkpoint, save_checkpoint
from training.committee.ensemble import Ensemble
from training.committee.loss import pattern_loss, stability
from training.committee.problem import Problem, span_serves, torch_threads
from training.committee.protocols import Protocol, Scheduled
from training.committee.results import CAPPED, OVERSHOT, STOPPED, TrainedMinima

LARGEST_SEED = 2**63 - 1  # results are stored in 64 bits
_MOST_RESTARTS = 10**6  # far more than memory holds
_LARGEST_PATTERN = 1e15  # and the inverse of the smallest: sums of squares of weights are numbers in float32


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What a progress callback is told after every epoch.

    Attributes
    ----------
    protocol : Protocol
    epoch : int
        Epochs done.
    scheduled : Scheduled
        β, ω and γ of the last one.
    running, ended : int
        Numbers of restarts.
    train_errors : callable
        Fraction of training errors of each running restart, shape (R,); costs about half an SGD epoch, so
        call it only for what is shown.
    distances : callable
        Squared distance of each running restart, shape (R,); NaN for SGD.
    """

    protocol: Protocol
    epoch: int
    scheduled: Scheduled
    running: int
    ended: int
    train_errors: Callable[[], NDArray[np.float64]]
    distances: Callable[[], NDArray[np.float64]]

    def describe(self, epochs_per_second: float) -> str:
        """Epoch, β, ω, γ, training errors, squared distance and rate of the running restarts, for people."""
        beta, omega, gamma = self.scheduled
        errors = self.train_errors()
        parts = [
            f"{self.protocol.name} epoch {self.epoch}/{self.protocol.max_epochs}",
            f"β {beta:.3g} ω {omega:.3g}" + (f" γ {gamma:.3g}" if gamma else ""),
            f"errors min {errors.min():.2%} mean {errors.mean():.2%}",
        ]
        distances = self.distances()
        if np.isfinite(distances).all():
            parts.append(f"distance {distances.mean():.1e}")
        parts.append(f"{self.running} running, {self.ended} ended")
        parts.append(f"{epochs_per_second:.3g} epochs/s")
        return " | ".join(parts)


def train(
    protocol: Protocol,
    patterns: ArrayLike,
    labels: ArrayLike,
    *,
    restarts: int | Sequence[int] = 1,
    seed: int = 0,
    device: str = "cpu",
    test_patterns: ArrayLike | None = None,
    test_labels: ArrayLike | None = None,
    data: dict | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: float = 30.0,
    progress: Callable[[EpochReport], None] | None = None,
    threads: int | None = None,
) -> TrainedMinima:
    """Train committee machines by one protocol, all restarts at once.

    Parameters
    ----------
    protocol : Protocol
        One of `training.committee.protocols.PROTOCOLS`, or ``dataclasses.replace`` of one.
    patterns : array_like, shape (P, N)
    labels : array_like, shape (P,)
        ±1.
    restarts : int or sequence of int
        How many (0, 1, ...), or which.  Restart r is the same in any company: bit for bit on the CPU of one
        machine with one number of threads, to rounding otherwise.
    seed : int
        Non-negative.
    device : str
        "cpu" or "cuda".
    test_patterns, test_labels : array_like, optional
        What test errors are measured on, both or none; shapes (P', N) and (P',).
    data : dict, optional
        Where the patterns are from (JSON-able); kept with the result.
    checkpoint : path-like, optional
        Written every `checkpoint_every` seconds and at the end.  Where it exists, the run goes on from it and
        ends with the same bits as an undisturbed one.  To be deleted by the caller once the result is stored.
    checkpoint_every : float
        Seconds.
    progress : callable, optional
        Called with an `EpochReport` after every epoch.
    threads : int, optional
        Threads of torch or of the compiled kernels on the CPU during this call.  By default one for fewer than 8
        machines (restarts times replicas), where more do not pay, else as many as torch would use.

    Returns
    -------
    TrainedMinima

    Raises
    ------
    ValueError
        Bad input, found before the training starts; a protocol whose pull is beyond 1 in the first epoch; or a
        checkpoint of another run.
    OSError
        The checkpoint cannot be written.
    """
    _check_protocol(protocol)
    restarts = _check_restarts(restarts)
    seed = check_count("seed", seed, at_least=0, at_most=LARGEST_SEED)
    checkpoint_every = check_scalar("checkpoint_every", checkpoint_every)
    threads = None if threads is None else check_threads(threads)
    patterns, labels = _check_data(patterns, labels)
    _check_minibatches(protocol, len(patterns))
    test = _check_test_data(test_patterns, test_labels, patterns.shape[1])
    if progress is not None and not callable(progress):
        raise ValueError(f"progress must be a function of an EpochReport, or None; got {progress!r}")
    data = _check_provenance(data)
    torch_device = check_device(device)
    if threads is None:
        threads = 1 if len(restarts) * protocol.y < 8 else torch.get_num_threads()
    in_span = span_serves(protocol, torch_device)
    problem = Problem(patterns, labels, torch_device, span=in_span, threads=threads)
    configuration = {
        "protocol": dataclasses.asdict(protocol),
        "restarts": restarts,
        "seed": seed,
        "device": torch_device.type,
        "patterns": _digest(patterns, labels),
    }
    state = load_checkpoint(checkpoint, configuration, problem.probe) if checkpoint is not None else None

    def save(epoch: int, ensemble: Ensemble, ended: dict[int, Ended]) -> None:
        if checkpoint is not None:
            state = Checkpoint(epoch, ensemble.restarts, ensemble.u.cpu().numpy(), problem.probe, ended)
            save_checkpoint(checkpoint, configuration, state)

    # Beside the threads of the compiled kernels, those of torch would only be in the way.
    with torch.no_grad(), torch_threads(1 if in_span else threads):
        ended = _run(protocol, problem, restarts, seed, state, save, checkpoint_every, progress)
    return _result(protocol, patterns, labels, seed, str(device), ended, test, data)


def _run(
    protocol: Protocol,
    problem: Problem,
    restarts: list[int],
    seed: int,
    state: Checkpoint | None,
    save: Callable[[int, Ensemble, dict[int, Ended]], None],
    save_every: float,
    progress: Callable[[EpochReport], None] | None,
) -> dict[int, Ended]:
    """Train until every restart has ended; returns how, by restart."""
    if state is None:
        epoch, ended = 0, {}
        ensemble = Ensemble.start(protocol, problem, restarts, seed)
    else:
        epoch, ended = state.epoch, dict(state.ended)
        ensemble = Ensemble(protocol, problem, state.restarts, problem.taken_up(state.u, state.probe), seed)
    saved_at = -math.inf  # save after the first epoch: a folder that cannot be written shows at once
    while ensemble.restarts:
        ensemble.run_epoch(epoch)
        epoch += 1
        _report(progress, ensemble, epoch, len(ended))
        stopped = _stopped(ensemble, epoch)
        reason = CAPPED if epoch >= protocol.max_epochs else OVERSHOT if _overshoots(protocol, epoch) else None
        leaving = stopped | (reason is not None)
        if leaving.any():
            ended |= _end(ensemble, epoch, np.where(stopped, STOPPED, reason), leaving)
            ensemble = ensemble.without(leaving)
        if time.monotonic() - saved_at >= save_every or not ensemble.restarts:
            save(epoch, ensemble, ended)
            saved_at = time.monotonic()
    return ended


def _overshoots(protocol: Protocol, epoch: int) -> bool:
    return any(value > 1 for value in protocol.attractions(epoch).values())


def _stopped(ensemble: Ensemble, epoch: int) -> NDArray[np.bool_]:
    """Which running restarts end by their stopping rule after `epoch` epochs, shape (R,)."""
    protocol = ensemble.protocol
    if protocol.stop == "zero-errors":
        return ensemble.errors() == 0
    if protocol.stop == "mean-loss":
        return ensemble.mean_loss(protocol.scheduled(epoch - 1)) < protocol.tolerance
    return ensemble.distances() < protocol.tolerance


def _end(ensemble: Ensemble, epoch: int, status: NDArray, leaving: NDArray) -> dict[int, Ended]:
    distances, ended = ensemble.distances(), np.flatnonzero(leaving)
    return {
        ensemble.restarts[i]: Ended(weights, epoch, str(status[i]), float(distances[i]))
        for i, weights in zip(ended, ensemble.solutions(ended), strict=True)
    }


def _report(progress: Callable[[EpochReport], None] | None, ensemble: Ensemble, epoch: int, n_ended: int) -> None:
    if progress is not None:
        progress(
            EpochReport(
                protocol=ensemble.protocol,
                epoch=epoch,
                scheduled=ensemble.protocol.scheduled(epoch - 1),
                running=len(ensemble.restarts),
                ended=n_ended,
                train_errors=lambda: ensemble.errors() / len(ensemble.problem),
                distances=ensemble.distances,
            )
        )


def _result(
    protocol: Protocol,
    patterns: NDArray,
    labels: NDArray,
    seed: int,
    device: str,
    ended: dict[int, Ended],
    test: tuple[NDArray, NDArray] | None,
    data: dict,
) -> TrainedMinima:
    order = sorted(ended)
    weights = np.stack([ended[r].weights for r in order]).astype(np.float64)
    weights *= math.sqrt(patterns.shape[1]) / np.linalg.norm(weights, axis=-1, keepdims=True)
    weights = weights.astype(np.float32)
    test_error = test_error_balanced = np.full(len(order), math.nan)
    if test is not None:
        test_error = committee.error(weights, *test)
        if len(np.unique(test[1])) == 2:
            test_error_balanced = committee.error(weights, *test, balanced=True)
    return TrainedMinima(
        weights=weights,
        restart=np.array(order),
        seed=seed,
        epochs=np.array([ended[r].epochs for r in order]),
        status=np.array([ended[r].status for r in order]),
        train_error=committee.error(weights, patterns, labels),
        train_loss=np.array(
            [
                mean_loss(w, patterns, labels, protocol.scheduled(ended[r].epochs - 1))
                for r, w in zip(order, weights, strict=True)
            ]
        ),
        test_error=test_error,
        test_error_balanced=test_error_balanced,
        distance=np.array([ended[r].distance for r in order]),
        protocol=protocol,
        device=device,
        data=data | {"n_train": len(patterns)},
        provenance=Provenance.here(),
    )


def mean_loss(weights: NDArray, patterns: NDArray, labels: NDArray, scheduled: Scheduled) -> float:
    """Mean loss (eq. 8) in float64 of one machine, weights (K, N) with ``|w_k|² = N``."""
    hidden = committee.preactivations(weights.astype(np.float64), patterns)
    z = torch.from_numpy(2 * scheduled.beta * labels * hidden.T)
    return float(pattern_loss(stability(z[None]), scheduled.omega).mean())


def _check_protocol(protocol: Protocol) -> None:
    if not isinstance(protocol, Protocol):
        raise ValueError(f"protocol must be a Protocol, such as PROTOCOLS['rsgd-fast']; got {protocol!r}")
    for name, value in protocol.attractions(0).items():
        if value > 1:
            raise ValueError(
                f"{name} = {getattr(protocol, name)!r} is {value:g} in the first epoch of {protocol.name}: beyond 1, "
                "machines overshoot what attracts them; choose another product, or a smaller gamma0"
            )


def _check_restarts(restarts: int | Sequence[int]) -> list[int]:
    if isinstance(restarts, str) or not isinstance(restarts, Iterable):
        return list(range(check_count("restarts", restarts, at_most=_MOST_RESTARTS)))
    chosen = [check_count("restarts, as indices,", r, at_least=0, at_most=LARGEST_SEED) for r in restarts]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"restarts must be a number or distinct indices from 0 on; got {restarts!r}")
    return sorted(chosen)


def _check_data(patterns: ArrayLike, labels: ArrayLike, n_inputs: int | None = None) -> tuple[NDArray, NDArray]:
    """Patterns and labels as float64 if they can be told apart in float32, in which machines are trained."""
    patterns = check_patterns(patterns, _width(patterns) if n_inputs is None else n_inputs)
    sizes = np.abs(patterns).max(axis=1)
    extreme = (sizes > _LARGEST_PATTERN) | ((sizes < 1 / _LARGEST_PATTERN) & (sizes > 0))
    if extreme.any():
        raise ValueError(
            f"patterns must be of sizes between {1 / _LARGEST_PATTERN:g} and {_LARGEST_PATTERN:g}, in the range of "
            f"float32; found one with a largest entry of {sizes[extreme][0]:g}: rescale them"
        )
    return patterns, check_labels(labels, len(patterns))


def _check_minibatches(protocol: Protocol, n_patterns: int) -> None:
    few = f"patterns are {n_patterns}"
    if n_patterns < protocol.B:
        raise ValueError(f"{few}, fewer than one minibatch of B = {protocol.B}; give more of them or a smaller B")
    if protocol.start == "equal" and n_patterns == protocol.B:
        raise ValueError(
            f"{few}, as many as a minibatch holds: replicas with start='equal' see the same and never differ; "
            "give more patterns, a smaller B or start='independent'"
        )


def _width(patterns: ArrayLike) -> int:
    """N, or 0 where the patterns have no shape, which their check refuses."""
    try:
        return np.shape(patterns)[-1]
    except (ValueError, IndexError):
        return 0


def _check_test_data(
    patterns: ArrayLike | None, labels: ArrayLike | None, n_inputs: int
) -> tuple[NDArray, NDArray] | None:
    if patterns is None and labels is None:
        return None
    if patterns is None or labels is None:
        there, lacking = ("test_labels", "test_patterns") if patterns is None else ("test_patterns", "test_labels")
        raise ValueError(f"{there} are given without {lacking}; give both or none")
    try:
        return _check_data(patterns, labels, n_inputs)
    except ValueError as error:  # which begins with the name
        raise ValueError(f"test_{error}") from error


def _check_provenance(data: dict | None) -> dict:
    try:
        json.dumps(data)
        return dict(data or {})
    except (TypeError, ValueError) as error:
        raise ValueError(f"data must be a dict of text, numbers and lists, to be stored as JSON ({error})") from error


def _digest(patterns: NDArray, labels: NDArray) -> str:
    content = np.ascontiguousarray(np.column_stack([patterns, labels]))
    return hashlib.sha256(content.tobytes()).hexdigest()[:16]
