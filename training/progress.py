"""One status line on stderr while a training runs."""

from __future__ import annotations

import sys
import time
from typing import Protocol as Interface


class Report(Interface):
    """What a training tells after an epoch: how many are done, and a line for people."""

    @property
    def epoch(self) -> int: ...

    def describe(self, epochs_per_second: float) -> str: ...


class StatusLine:
    """Progress callback of a training: rewrites one line of stderr on a terminal, or adds one now and then to a file.

    It can be pickled: a worker process writes to its own stderr.

    Parameters
    ----------
    interval : float, optional
        Seconds between two lines; 0.5 on a terminal, else 10.
    rewrite : bool, optional
        Whether to rewrite one line; by default on a terminal.
    """

    def __init__(self, interval: float | None = None, rewrite: bool | None = None):
        self.on_terminal = sys.stderr.isatty() if rewrite is None else rewrite
        self.interval = interval if interval is not None else (0.5 if self.on_terminal else 10.0)
        self._last: tuple[float, int] | None = None
        self._width = 0

    def __call__(self, report: Report) -> None:
        """Show `report` if the last one shown is old enough."""
        now = time.monotonic()
        if self._last is None or report.epoch < self._last[1]:  # the first epoch of a run
            self._last = now, report.epoch
            return
        since, epoch = self._last
        if now - since < self.interval:
            return
        line = report.describe((report.epoch - epoch) / max(now - since, 1e-9))
        self._last = now, report.epoch
        if self.on_terminal:
            sys.stderr.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line of the terminal."""
        if self.on_terminal and self._width:
            sys.stderr.write("\n")
            sys.stderr.flush()
