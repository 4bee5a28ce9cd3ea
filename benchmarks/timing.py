"""Timing that a noisy machine cannot fool too much: warmed up, repeated, medians; pairs interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def median_seconds(*functions: Callable[[], object], repeats: int = 9, warmups: int = 2) -> list[float]:
    """Median wall time of each function; they take turns, so that a slow moment hits all alike."""
    for _ in range(warmups):
        for function in functions:
            function()
    return [float(t) for t in np.median([[seconds(f) for f in functions] for _ in range(repeats)], axis=0)]


def verdict(name: str, value: float, target: float, *, at_least: bool = True) -> str:
    """One line: the measured number, its target, and whether it is met."""
    met = value >= target if at_least else value <= target
    sign = "≥" if at_least else "≤"
    return f"{name}: {value:.3g}  (target {sign} {target:g}: {'met' if met else 'MISSED'})"
