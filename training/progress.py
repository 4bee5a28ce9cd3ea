"""One status line on stderr while a training runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from training.trainer import EpochReport


def status_line(report: EpochReport, epochs_per_second: float) -> str:
    """Epoch, β, ω, γ, training errors, squared distance and rate of the running restarts, for people."""
    beta, omega, gamma = report.scales
    errors = report.train_errors()
    parts = [
        f"{report.protocol.name} epoch {report.epoch}/{report.protocol.max_epochs}",
        f"β {beta:.3g} ω {omega:.3g}" + (f" γ {gamma:.3g}" if gamma else ""),
        f"errors min {errors.min():.2%} mean {errors.mean():.2%}",
    ]
    distances = report.distances()
    if np.isfinite(distances).all():
        parts.append(f"distance {distances.mean():.1e}")
    parts.append(f"{report.running} running, {report.ended} ended")
    parts.append(f"{epochs_per_second:.3g} epochs/s")
    return " | ".join(parts)


class StatusLine:
    """Progress callback of a training: rewrites one line of a terminal, or adds a line now and then to a file.

    Parameters
    ----------
    describe : callable
        Makes the line of a report, which has an `epoch`, and of the epochs a second.
    stream : text file, optional
        stderr by default.
    interval : float, optional
        Seconds between two lines; 0.5 on a terminal, else 10.
    rewrite : bool, optional
        Whether to rewrite one line; by default on a terminal.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        interval: float | None = None,
        rewrite: bool | None = None,
        describe: Callable[[Any, float], str] = status_line,
    ):
        self.describe = describe
        self.stream = sys.stderr if stream is None else stream
        self.on_terminal = self.stream.isatty() if rewrite is None else rewrite
        self.interval = interval if interval is not None else (0.5 if self.on_terminal else 10.0)
        self._last: tuple[float, int] | None = None
        self._width = 0

    def __call__(self, report: Any) -> None:
        """Show `report` if the last one shown is old enough."""
        now = time.monotonic()
        if self._last is None:
            self._last = now, report.epoch
            return
        since, epoch = self._last
        if now - since < self.interval:
            return
        line = self.describe(report, (report.epoch - epoch) / max(now - since, 1e-9))
        self._last = now, report.epoch
        if self.on_terminal:
            self.stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the line of the terminal."""
        if self.on_terminal and self._width:
            self.stream.write("\n")
            self.stream.flush()
