"""Learning rates of Appendix C as functions of the epoch."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Drops:
    """Learning rate `start`, divided by 10 at each of the `milestones`; `warm_up` = (rate, epochs) comes before."""

    start: float
    milestones: tuple[float, ...]
    warm_up: tuple[float, float] | None = None

    def __call__(self, tau: float) -> float:
        """Learning rate at epoch `tau`."""
        if self.warm_up and tau < self.warm_up[1]:
            return self.warm_up[0]
        return self.start * 0.1 ** bisect.bisect_right(self.milestones, tau)

    def stretched(self, ratio: float) -> Drops:
        """The same for a run that is `ratio` times as long."""
        warm_up = self.warm_up and (self.warm_up[0], self.warm_up[1] * ratio)
        return Drops(self.start, tuple(m * ratio for m in self.milestones), warm_up)


@dataclass(frozen=True)
class Annealing:
    """Half a cosine from `start` to 0 over `epochs`."""

    start: float
    epochs: float

    def __call__(self, tau: float) -> float:
        """Learning rate at epoch `tau`."""
        return 0.5 * self.start * (1 + math.cos(math.pi * min(tau / self.epochs, 1.0)))

    def stretched(self, ratio: float) -> Annealing:
        """The same for a run that is `ratio` times as long."""
        return Annealing(self.start, self.epochs * ratio)


@dataclass(frozen=True)
class Decay:
    """Learning rate `start`, multiplied by `factor` every `every` epochs."""

    start: float
    factor: float
    every: float = 2.0

    def __call__(self, tau: float) -> float:
        """Learning rate at epoch `tau`."""
        return self.start * self.factor ** math.floor(tau / self.every)

    def stretched(self, ratio: float) -> Decay:
        """The same last learning rate, with drops as often as before, in a run that is `ratio` times as long."""
        return Decay(self.start, self.factor ** (1 / ratio), self.every)
