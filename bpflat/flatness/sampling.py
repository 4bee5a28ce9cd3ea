"""The draws of the noise: which are measured, on which patterns, and by which process."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bpflat.flatness.evaluation import Evaluation
from bpflat.flatness.noise import Perturbation
from bpflat.flatness.processes import Processes
from bpflat.randomness import integer_seed, stream

_CHECK_EVERY = 16
"""Draws between two looks at the standard error; not a matter of the number of processes, so that all stop alike."""
NOISE, AUGMENTATION, SUBSET, ORDER = range(4)  # first keys of the seed's streams


def mean_and_error(rises: NDArray, antithetic: bool) -> tuple[NDArray, NDArray]:
    """Mean and its standard error, (2,) each, of the rises (n, 2) of error and loss; over pairs if antithetic."""
    if not len(rises):
        return np.zeros(2), np.zeros(2)
    independent = rises.reshape(-1, 2, 2).mean(axis=1) if antithetic else rises
    with np.errstate(invalid="ignore"):  # losses that are infinite or not a number under noise
        return rises.mean(axis=0), independent.std(axis=0, ddof=1) / np.sqrt(len(independent))


@dataclass
class Sampling:
    """Rises of error and loss over those of w, draw by draw."""

    perturbation: Perturbation
    evaluation: Evaluation
    seed: np.random.SeedSequence
    n_samples: int
    subset: int | None
    common: bool
    antithetic: bool
    processes: Processes
    n_patterns: int = field(init=False)
    at_w: Tensor = field(init=False)  # totals of w on the patterns of each draw, (n_samples, 2)
    known: NDArray[np.bool_] = field(init=False)

    def __post_init__(self):
        self.perturbation.set(0.0)
        first = self.evaluation.totals(self._augmentation(0), check=True)
        self.n_patterns = self.evaluation.scores.shape[1]
        self.at_w = first.expand(self.n_samples, 2).clone()
        self.known = np.full(self.n_samples, self.evaluation.augment is None and self.subset is None)
        self.known[0] |= self.subset is None

    def at(self, place: int, sigma: float, tolerance: float | None, decides: int, bar: tqdm) -> NDArray:
        """Rises of mean error and mean loss at one σ, shape (n, 2), n ≤ n_samples; none at σ = 0."""
        rises = np.empty((0, 2))
        if sigma == 0:
            return rises
        step = self.n_samples if tolerance is None else _CHECK_EVERY
        while (start := len(rises)) < self.n_samples:
            stop = min(start + step, self.n_samples)
            if self.n_samples - stop < 2:  # no single one left over
                stop = self.n_samples
            rises = np.concatenate([rises, self._measure(place, sigma, range(start, stop), bar)])
            if tolerance is not None and mean_and_error(rises, self.antithetic)[1][decides] <= tolerance:
                bar.total -= self.n_samples - stop
                break
        return rises

    def _measure(self, place: int, sigma: float, draws: range, bar: tqdm) -> NDArray:
        rises = self.at_w.new_zeros(len(draws), 2)
        for i in draws:
            if i % self.processes.size != self.processes.rank:
                continue
            number, sign = (i // 2, (1, -1)[i % 2]) if self.antithetic else (i, 1)
            rows = self._rows(number)
            self._measure_w(i, number, rows)
            self.perturbation.set(sign * sigma, 0 if self.common else 1 + place, number)
            rises[i - draws.start] = self.evaluation.totals(self._augmentation(number), rows=rows) - self.at_w[i]
            bar.update(self.processes.size)
        return self.processes.sum(rises).numpy().astype(np.float64) / self._weight().numpy()

    def _weight(self) -> Tensor:
        """Weight of the patterns that a draw sees, (2,) for error and loss: over subsets on average, hence no bias."""
        return (self.subset or self.n_patterns) * self.evaluation.mean_weight

    def _measure_w(self, i: int, number: int, rows: Tensor | None) -> None:
        """See to it that the totals of w are known as draw i sees it."""
        if self.known[i]:
            return
        if self.evaluation.augment is None and rows is not None:
            scores = self.evaluation.scores
            self.at_w[i] = scores[:, rows.to(scores.device)].sum(dim=1, dtype=self.at_w.dtype)
        else:
            self.perturbation.set(0.0)
            self.at_w[i] = self.evaluation.totals(self._augmentation(number), rows=rows)
        self.known[i] = True

    def _rows(self, number: int) -> Tensor | None:
        """Patterns of one draw, or of both of a pair; None for all."""
        if self.subset is None:
            return None
        rng = np.random.default_rng(stream(self.seed, SUBSET, number))
        return torch.from_numpy(np.sort(rng.choice(self.n_patterns, self.subset, replace=False, shuffle=False)))

    def _augmentation(self, number: int) -> int:
        """Seed of the augmentation of one draw, or of both of a pair."""
        return integer_seed(self.seed, AUGMENTATION, number, bits=62)  # room to count on from it

    def means_of_w(self) -> tuple[float, float]:
        """Mean error and mean loss of w: over all patterns, or over the augmentations that were seen."""
        if self.evaluation.augment is None:
            totals = self.evaluation.scores.sum(dim=1, dtype=self.at_w.dtype)
            return tuple((totals.cpu() / self.n_patterns / self.evaluation.mean_weight).tolist())
        mine = self.known & (np.arange(self.n_samples) % self.processes.size == self.processes.rank)
        seen = torch.from_numpy(mine).to(self.at_w)
        totals = self.processes.sum(seen @ self.at_w) / self.processes.sum(seen.sum())
        return tuple((totals / self._weight()).tolist())
