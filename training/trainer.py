"""`train`: many restarts of one protocol as one batch, with stopping rules, checkpoints and progress."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from bpflat import committee
from bpflat.arguments import check_device, check_labels, check_patterns
from training.checkpoints import Checkpoint, Ended, load_checkpoint, save_checkpoint
from training.ensemble import Ensemble, Problem
from training.loss import pattern_loss, stability
from training.protocols import Protocol, Scales
from training.results import CAPPED, STOPPED, TrainedMinima, git_revision, library_versions


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What a progress callback is told after every epoch.

    Attributes
    ----------
    protocol : Protocol
    epoch : int
        Epochs done.
    scales : Scales
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
    scales: Scales
    running: int
    ended: int
    train_errors: Callable[[], NDArray[np.float64]]
    distances: Callable[[], NDArray[np.float64]]


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
        One of `training.protocols.PROTOCOLS`, or ``dataclasses.replace`` of one.
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
        For the test errors.
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
        Of torch, on the CPU, during this call.  By default one for fewer than 8 machines (restarts times replicas),
        where more do not pay, else torch's own choice.

    Returns
    -------
    TrainedMinima

    Raises
    ------
    ValueError
        Bad input, or a checkpoint of another run.
    OSError
        The checkpoint cannot be written.
    """
    restarts = _check_restarts(restarts)
    if seed < 0:
        raise ValueError(f"seed must not be negative; got {seed}")
    if not checkpoint_every >= 0:
        raise ValueError(f"checkpoint_every must be a number of seconds, at least 0; got {checkpoint_every}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1; got {threads}")
    patterns, labels = _check_data(patterns, labels, protocol)
    torch_device = check_device(device)
    problem = Problem(patterns, labels, torch_device)
    configuration = {
        "protocol": dataclasses.asdict(protocol),
        "restarts": restarts,
        "seed": seed,
        "device": torch_device.type,
        "patterns": _digest(patterns, labels),
    }
    state = load_checkpoint(checkpoint, configuration) if checkpoint is not None else None

    def save(epoch: int, ensemble: Ensemble, ended: dict[int, Ended]) -> None:
        if checkpoint is not None:
            weights = ensemble.weights().cpu().numpy()
            save_checkpoint(checkpoint, configuration, Checkpoint(epoch, ensemble.restarts, weights, ended))

    if threads is None:
        threads = 1 if len(restarts) * protocol.y < 8 else torch.get_num_threads()
    with torch.no_grad(), _torch_threads(threads):
        ended = _run(protocol, problem, restarts, seed, state, save, checkpoint_every, progress)
    return _result(protocol, patterns, labels, seed, device, ended, test_patterns, test_labels, data)


@contextlib.contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        u = torch.from_numpy(state.u).to(problem.patterns.device)
        ensemble = Ensemble(protocol, problem, state.restarts, u, seed)
    saved_at = -math.inf  # save after the first epoch: a folder that cannot be written shows at once
    while ensemble.restarts:
        ensemble.run_epoch(epoch)
        epoch += 1
        _report(progress, ensemble, epoch, len(ended))
        stopped = _stopped(ensemble, epoch)
        leaving = stopped | (epoch >= protocol.max_epochs)
        if leaving.any():
            ended |= _end(ensemble, epoch, stopped, leaving)
            ensemble = ensemble.without(leaving)
        if time.monotonic() - saved_at >= save_every or not ensemble.restarts:
            save(epoch, ensemble, ended)
            saved_at = time.monotonic()
    return ended


def _stopped(ensemble: Ensemble, epoch: int) -> NDArray[np.bool_]:
    """Which running restarts end by their stopping rule after `epoch` epochs, shape (R,)."""
    protocol = ensemble.protocol
    if protocol.stop == "zero-errors":
        return ensemble.errors() == 0
    if protocol.stop == "mean-loss":
        return ensemble.mean_loss(protocol.scales(epoch - 1)) < protocol.tolerance
    return ensemble.distances() < protocol.tolerance


def _end(ensemble: Ensemble, epoch: int, stopped: NDArray, leaving: NDArray) -> dict[int, Ended]:
    weights = ensemble.solution()[..., : ensemble.problem.n_inputs].cpu().numpy()
    distances = ensemble.distances()
    return {
        ensemble.restarts[i]: Ended(weights[i].copy(), epoch, STOPPED if stopped[i] else CAPPED, float(distances[i]))
        for i in np.flatnonzero(leaving)
    }


def _report(progress: Callable[[EpochReport], None] | None, ensemble: Ensemble, epoch: int, n_ended: int) -> None:
    if progress is not None:
        progress(
            EpochReport(
                protocol=ensemble.protocol,
                epoch=epoch,
                scales=ensemble.protocol.scales(epoch - 1),
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
    test_patterns: ArrayLike | None,
    test_labels: ArrayLike | None,
    data: dict | None,
) -> TrainedMinima:
    order = sorted(ended)
    weights = np.stack([ended[r].weights for r in order]).astype(np.float64)
    weights *= math.sqrt(patterns.shape[1]) / np.linalg.norm(weights, axis=-1, keepdims=True)
    weights = weights.astype(np.float32)
    test_error = test_error_balanced = np.full(len(order), math.nan)
    if test_patterns is not None:
        test_error = committee.error(weights, test_patterns, test_labels)
        if len(np.unique(test_labels)) == 2:
            test_error_balanced = committee.error(weights, test_patterns, test_labels, balanced=True)
    return TrainedMinima(
        weights=weights,
        restart=np.array(order),
        seed=seed,
        epochs=np.array([ended[r].epochs for r in order]),
        status=np.array([ended[r].status for r in order]),
        train_error=committee.error(weights, patterns, labels),
        train_loss=np.array(
            [
                mean_loss(w, patterns, labels, protocol.scales(ended[r].epochs - 1))
                for r, w in zip(order, weights, strict=True)
            ]
        ),
        test_error=test_error,
        test_error_balanced=test_error_balanced,
        distance=np.array([ended[r].distance for r in order]),
        protocol=protocol,
        device=device,
        data=dict(data or {}, n_train=len(patterns)),
        versions=library_versions(),
        git_revision=git_revision(),
    )


def mean_loss(weights: NDArray, patterns: NDArray, labels: NDArray, scales: Scales) -> float:
    """Mean loss (eq. 8) in float64 of one machine, weights (K, N) with ``|w_k|² = N``."""
    hidden = committee.preactivations(weights.astype(np.float64), patterns)
    z = torch.from_numpy(2 * scales.beta * labels * hidden.T)
    return float(pattern_loss(stability(z[None]), scales.omega).mean())


def _check_restarts(restarts: int | Sequence[int]) -> list[int]:
    if isinstance(restarts, (int, np.integer)):
        if restarts < 1:
            raise ValueError(f"restarts must be at least 1; got {restarts}")
        return list(range(restarts))
    chosen = [int(r) for r in restarts]
    if not chosen or min(chosen) < 0 or len(set(chosen)) < len(chosen):
        raise ValueError(f"restarts must be a number or distinct indices from 0 on; got {restarts!r}")
    return sorted(chosen)


def _check_data(patterns: ArrayLike, labels: ArrayLike, protocol: Protocol) -> tuple[NDArray, NDArray]:
    patterns = np.asarray(patterns, dtype=np.float64)
    patterns = check_patterns(patterns, patterns.shape[-1] if patterns.ndim else 0)
    labels = check_labels(labels, len(patterns))
    if len(patterns) < protocol.B:
        raise ValueError(
            f"patterns are {len(patterns)}, fewer than one minibatch of B = {protocol.B}; "
            "give more of them or a smaller B"
        )
    return patterns, labels


def _digest(patterns: NDArray, labels: NDArray) -> str:
    content = np.ascontiguousarray(np.column_stack([patterns, labels]))
    return hashlib.sha256(content.tobytes()).hexdigest()[:16]
