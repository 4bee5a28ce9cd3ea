"""How much of a published experiment on committee machines is run, and running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from bpflat.arguments import check_count
from bpflat.parallel import over_processes
from figures.measure.measures import Series, measure
from training.committee.protocols import PROTOCOLS, Protocol
from training.committee.sweep import Training, run_all
from training.progress import StatusLine

Measured = TypeVar("Measured")
N_TRAIN = 500  # the paper's training patterns
BANDS = "Lines: means over restarts; bands: their central 68 %."
SAMPLINGS = ("natural", "balanced")  # of the training patterns


@dataclass(frozen=True)
class Preset:
    """How much of a published experiment is run.

    Attributes
    ----------
    restarts : int
        Minima of each protocol.
    ep : bool
        Whether the local entropy is measured by expectation propagation too, for the table.
    n_train : int
        Training patterns.
    max_epochs : int, optional
        Cap on the epochs of every protocol; by default each has its own.

    Raises
    ------
    ValueError
        When the cap is no number of epochs.
    """

    restarts: int
    ep: bool = False
    n_train: int = N_TRAIN
    max_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.max_epochs is not None:
            check_count("max_epochs", self.max_epochs)

    def resized(
        self, *, restarts: int | None = None, n_train: int | None = None, max_epochs: int | None = None
    ) -> Preset:
        """Return the preset with the given sizes; None leaves its own."""
        sizes = {"restarts": restarts, "n_train": n_train, "max_epochs": max_epochs}
        return replace(self, **{name: size for name, size in sizes.items() if size is not None})

    def apply(self, protocols: Iterable[Protocol]) -> list[Protocol]:
        """Return the protocols with the preset's cap on the epochs."""
        if self.max_epochs is None:
            return list(protocols)
        return [replace(p, max_epochs=min(p.max_epochs, self.max_epochs)) for p in protocols]

    @property
    def note(self) -> str:
        """What was run, in one line."""
        patterns = "" if self.n_train == N_TRAIN else f" on {self.n_train:,} patterns"
        capped = "" if self.max_epochs is None else f", at most {self.max_epochs:,} epochs"
        return f"{self.restarts} restarts of each algorithm{patterns}; schedules of the paper{capped}.  {BANDS}"


PAPER = Preset(restarts=50)
DROPOUT = (0.0, 0.1, 0.3, 0.5, 0.7)  # of Fig. 6; the paper does not name its probabilities
WITH_DROPOUT = tuple(
    replace(PROTOCOLS["sgd-fast"], name=f"dropout-{p:g}", label=f"p = {p:g}", dropout=p) for p in DROPOUT
)


def collect(
    protocols: Sequence[Protocol],
    restarts: int,
    folder: Path,
    *,
    ep: bool = False,
    n_train: int = N_TRAIN,
    device: str = "cpu",
    n_jobs: int = -1,
    scheduler: str | None = None,
    chunk: int | None = None,
) -> list[Series]:
    """Train and measure what `folder` does not hold yet, and read the rest.

    Parameters
    ----------
    protocols : sequence of Protocol
        The longest last.
    restarts : int
        Minima of each protocol.
    folder : Path
        Place of all results.
    ep : bool
        Whether the local entropy is measured by expectation propagation too.
    n_train : int
        Training patterns.
    device : str
        "cpu" or "cuda".
    n_jobs, scheduler, chunk
        Who does the work, and how many restarts are a task; see `training.committee.sweep.run_all`.

    Raises
    ------
    ValueError
        When `folder` holds results of another configuration or damaged files.
    SweepError
        When tasks or workers fail; see `training.workers.carry_out`.
    OSError
        When it cannot be written.
    """
    # Small matrices: one thread for each of several tasks is faster than several threads for one after another.
    minima = run_all(
        [Training(p, folder, restarts, device=device, n_train=n_train) for p in reversed(protocols)],
        chunk=chunk,
        n_jobs=1 if device == "cuda" else n_jobs,
        scheduler=scheduler,
        progress=StatusLine(interval=5.0, rewrite=False),  # several processes share stderr: a line now and then
        threads=1,
    )
    return measure(minima[::-1], folder, ep=ep, n_jobs=n_jobs, scheduler=scheduler, device=device)


def on_each_draw(measure_one: Callable[[str, int], Measured], n_draws: int, n_jobs: int) -> dict[str, list[Measured]]:
    """Call a function of (sampling, draw) for so many draws of every sampling, over processes; results by sampling."""
    keys = [(sampling, draw) for draw in range(n_draws) for sampling in SAMPLINGS]
    by_key = dict(zip(keys, over_processes(measure_one, keys, n_jobs), strict=True))
    return {sampling: [by_key[sampling, draw] for draw in range(n_draws)] for sampling in SAMPLINGS}
