"""Sweeps: restarts × protocols × draws of the patterns, trained in chunks by any number of workers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bpflat.arguments import check_count
from bpflat.datasets import load_reduced_fashion_mnist
from training.committee.protocols import Protocol
from training.committee.results import TrainedMinima
from training.committee.trainer import LARGEST_SEED, EpochReport, train
from training.result_file import require_same
from training.workers import Task, carry_out, checkpoint_path, part_path, part_paths, tidy


@dataclasses.dataclass(frozen=True)
class Training:
    """All restarts of one protocol on one draw of the reduced Fashion-MNIST: one result file.

    Attributes
    ----------
    protocol : Protocol
    out : Path
        Folder of the result, ``<protocol name>.npz``.
    restarts : int
        How many.
    seed : int
    device : str
        As `training.committee.trainer.train`.
    n_train, data_seed, balanced
        As ``n_train``, ``seed`` and ``balanced`` of `bpflat.load_reduced_fashion_mnist`.
    """

    protocol: Protocol
    out: Path
    restarts: int = 10
    seed: int = 0
    device: str = "cpu"
    n_train: int | None = 500
    data_seed: int = 0
    balanced: bool = False

    def __post_init__(self):
        for name, at_least in {"restarts": 1, "seed": 0, "data_seed": 0}.items():
            value = check_count(name, getattr(self, name), at_least=at_least, at_most=LARGEST_SEED)
            object.__setattr__(self, name, value)

    @property
    def path(self) -> Path:
        """The result file."""
        return Path(self.out) / f"{self.protocol.name}.npz"

    def stored(self) -> TrainedMinima | None:
        """Read the result; None where there is none, ValueError where it is of another configuration."""
        if not self.path.exists():
            return None
        result = TrainedMinima.load(self.path)
        self._require(self.path, result, len(result.restart))
        return result

    def parts(self) -> list[TrainedMinima]:
        """Read disjoint parts of the result that are there; ValueError where one is of another configuration."""
        parts, done = [], set()
        for path in part_paths(self.path):
            part = TrainedMinima.load(path)
            self._require(path, part, max(self.restarts, 1 + int(part.restart.max())))
            if done.isdisjoint(part.restart.tolist()):
                parts.append(part)
                done.update(part.restart.tolist())
        return parts

    def _require(self, path: Path, result: TrainedMinima, restarts: int) -> None:
        data = {name: result.data.get(name) for name in ("n_train", "data_seed", "balanced")}
        found = {name: getattr(result, name) for name in ("seed", "device")} | data | {"restarts": restarts}
        wanted = {name: getattr(self, name) for name in found}
        wanted["n_train"] = self.n_train or found["n_train"]
        protocols = {"protocol": dataclasses.asdict(result.protocol)}, {"protocol": dataclasses.asdict(self.protocol)}
        require_same(path, found | protocols[0], wanted | protocols[1])

    def run(
        self, restarts: Sequence[int], *, checkpoint: Path | None = None, checkpoint_every: float = 30.0, **options
    ) -> TrainedMinima:
        """Train these restarts; for `options` see `training.committee.trainer.train`."""
        data = load_reduced_fashion_mnist(self.n_train, seed=self.data_seed, balanced=self.balanced)
        return train(
            self.protocol,
            data.train_patterns,
            data.train_labels,
            restarts=restarts,
            seed=self.seed,
            device=self.device,
            test_patterns=data.test_patterns,
            test_labels=data.test_labels,
            data={
                "data_seed": self.data_seed,
                "balanced": self.balanced,
                "train_indices": data.train_indices.tolist(),
            },
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            **options,
        )


def run_all(
    trainings: Sequence[Training],
    *,
    chunk: int | None = None,
    n_jobs: int = 1,
    scheduler: str | None = None,
    checkpoint_every: float = 30.0,
    progress: Callable[[EpochReport], None] | None = None,
    threads: int | None = None,
) -> list[TrainedMinima]:
    """Train what is not stored yet, store it, and read the rest.

    Parameters
    ----------
    trainings : sequence of Training
        The longest first keeps workers busy.
    chunk : int, optional
        Restarts of a task; by default all of a training.  With one thread on one kind of machine every restart is the
        same, bit for bit, whatever the chunks.
    n_jobs, scheduler
        Workers, see `training.workers.carry_out`.
    checkpoint_every : float
        Seconds between checkpoints, from which tasks on this machine go on.  Tasks on a cluster have none.
    progress : callable, optional
        See `training.committee.trainer.train`; must be picklable unless `n_jobs` is 1.
    threads : int, optional
        Of torch, for each task.  By default one if there are several workers, else see `trainer.train`.

    Returns
    -------
    list of TrainedMinima

    Raises
    ------
    ValueError
        When a stored file is of another configuration or damaged, or for `chunk` < 1.
    SweepError
        When tasks fail; see `training.workers.carry_out`.
    OSError
        When a result cannot be written.
    """
    if chunk is not None:
        check_count("chunk", chunk)
    if threads is None and (scheduler is not None or n_jobs != 1):
        threads = 1
    options = {"checkpoint_every": checkpoint_every, "progress": progress, "threads": threads}
    waiting = {training: _tasks(training, chunk, options) for training in trainings if training.stored() is None}
    for training in waiting:
        _join(training)  # where it was killed between its last part and the whole
    owners = {task: training for training, tasks in waiting.items() for task in tasks}
    bar = None if scheduler is None else "training"  # the status lines of a cluster's workers are elsewhere
    for task in carry_out(owners, n_jobs=n_jobs, scheduler=scheduler, bar=bar):
        _join(owners[task])
    tidy([training.path for training in trainings])
    return [training.stored() for training in trainings]


def run(protocol: Protocol, out: Path, *, restarts: int = 10, **options) -> TrainedMinima:
    """Train on the reduced Fashion-MNIST and store the result in ``out/<protocol name>.npz``.

    A result that is already there is read instead; a checkpoint that is there is gone on from.

    Parameters
    ----------
    protocol : Protocol
    out : Path
    restarts : int
    **options
        Fields of `training.committee.sweep.Training` (seed, device, n_train, data_seed, balanced) and options of
        `training.committee.sweep.run_all` (chunk, n_jobs, scheduler, checkpoint_every, progress, threads).

    Raises
    ------
    ValueError, SweepError, OSError
        As `training.committee.sweep.run_all`.
    """
    fields = {field.name for field in dataclasses.fields(Training)} & options.keys()
    training = Training(protocol, out, restarts, **{name: options.pop(name) for name in fields})
    (result,) = run_all([training], **options)
    return result


def _tasks(training: Training, chunk: int | None, options: dict) -> list[Task]:
    """Tasks for the restarts that no part holds: chunks always begin at multiples of `chunk`."""
    done = {restart for part in training.parts() for restart in part.restart.tolist()}
    tasks = []
    for run in _runs(training.restarts, chunk or training.restarts, done):
        whole = len(run) == training.restarts
        path = training.path if whole else part_path(training.path, run[0], run[-1])
        label = f"{training.protocol.name}, restarts {run[0]} to {run[-1]}"
        tasks.append(Task(path, label, partial(training.run, run, **options), checkpoint_path(path)))
    return tasks


def _runs(restarts: int, chunk: int, done: set[int]) -> Iterator[list[int]]:
    """Runs of consecutive restarts that are not `done`, none of which crosses a multiple of `chunk`."""
    missing = [r for r in range(restarts) if r not in done]
    for _, run in itertools.groupby(enumerate(missing), key=lambda at: (at[1] // chunk, at[1] - at[0])):
        yield [r for _, r in run]


def _join(training: Training) -> None:
    """Store the whole result once all of its parts are there."""
    parts = training.parts()
    if sum(len(part.restart) for part in parts) == training.restarts:
        TrainedMinima.joined(parts).save(training.path)
