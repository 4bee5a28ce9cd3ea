"""Sweeps: restarts × protocols × draws of the patterns, trained in chunks by any number of workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bpflat.arguments import check_count
from bpflat.datasets import load_reduced_fashion_mnist
from training.committee.protocols import Protocol
from training.committee.results import TrainedMinima
from training.committee.trainer import LARGEST_SEED, EpochReport, train
from training.result_file import require_same
from training.workers import Assembly, complete


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
        See `training.committee.trainer.train`.
    n_train, data_seed, balanced
        ``n_train``, ``seed`` and ``balanced`` of `bpflat.load_reduced_fashion_mnist`.
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

    def assembly(self, chunk: int | None = None, **options) -> Assembly[TrainedMinima]:
        """How workers make the result, `chunk` restarts per task (by default all); for `options` see `run`."""
        return Assembly(
            path=self.path,
            size=self.restarts,
            chunk=chunk or self.restarts,
            describe=lambda restarts: f"{self.protocol.name}, restarts {restarts[0]} to {restarts[-1]}",
            prepare=lambda restarts: partial(self.run, list(restarts), **options),
            read=self.read,
            join=TrainedMinima.joined,
            resumable=True,
        )

    def read(self, path: Path, restarts: range) -> TrainedMinima:
        """Read the result of these restarts, all or a part; ValueError where it is of another configuration."""
        result = TrainedMinima.load(path)
        data = {name: result.data.get(name) for name in ("n_train", "data_seed", "balanced")}
        n_restarts = len(result.restart) if path == self.path else max(self.restarts, restarts.stop)
        stored = {name: getattr(result, name) for name in ("seed", "device")} | data | {"restarts": n_restarts}
        wanted = {name: getattr(self, name) for name in stored}
        wanted["n_train"] = self.n_train or stored["n_train"]
        protocols = {"protocol": dataclasses.asdict(result.protocol)}, {"protocol": dataclasses.asdict(self.protocol)}
        require_same(path, stored | protocols[0], wanted | protocols[1])
        return result

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
        Threads of torch for each task.  By default one if there are several workers, else see `trainer.train`.

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
    bar = None if scheduler is None else "training"  # the status lines of a cluster's workers are elsewhere
    assemblies = [training.assembly(chunk, **options) for training in trainings]
    return complete(assemblies, n_jobs=n_jobs, scheduler=scheduler, bar=bar)


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
        See `training.committee.sweep.run_all`.
    """
    fields = {field.name for field in dataclasses.fields(Training)} & options.keys()
    training = Training(protocol, out, restarts, **{name: options.pop(name) for name in fields})
    (result,) = run_all([training], **options)
    return result
