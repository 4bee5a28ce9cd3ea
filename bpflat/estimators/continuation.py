"""Paths of fixed points along Δ or d: generators that ask for one point after another.

Whoever follows a path solves what it asks for: around one reference (`run`), or around many at once (`run_together`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace

import numpy as np

from bpflat.estimators.point import Point

STRIDE = 4.0  # longest factor between two Δ
FIRST, _FINEST = 1e-3, 1.02  # largest Δ to begin at around a reference; shortest factor between two Δ
_DISTANCE_STEPS = 25
_LEAP = 3.0  # most that a secant step may change log Δ

Request = tuple[float, Point | None]  # Δ, and the fixed point to begin from
Path = Generator[Request, Point, list[Point]]  # asks for fixed points, is sent them, and returns a curve


def bare(point: Point) -> Point:
    """A point without its messages, of which long curves would be heavy."""
    return replace(point, messages=())


def run(path: Path, solve: Callable[..., Point], finish: Callable[[Point], Point] = bare) -> list[Point]:
    """Give a path the fixed points that it asks for, by ``solve(delta, start=...)``; returns its finished points."""
    try:
        delta, start = next(path)
        while True:
            delta, start = path.send(solve(delta, start=start))
    except StopIteration as end:
        return list(map(finish, end.value))


def run_together(
    paths: Sequence[Path],
    solve: Callable[..., list[Point]],
    finish: Callable[[int, Point], Point] = lambda index, point: bare(point),
) -> list[list[Point]]:
    """`run` for many paths in step: one call ``solve(indices, deltas, starts)`` for all that are still under way."""
    curves: list[list[Point]] = [[] for _ in paths]
    asked = {r: next(path) for r, path in enumerate(paths)}
    while asked:
        answers = solve(list(asked), *zip(*asked.values(), strict=True))
        for r, point in zip(list(asked), answers, strict=True):
            try:
                asked[r] = paths[r].send(point)
            except StopIteration as end:
                del asked[r]
                curves[r] = [finish(r, point) for point in end.value]
    return curves


def along_deltas(deltas: Iterable[float], start: Point | None = None, **options) -> Path:
    """Solve at each Δ, starting from the last one that converged, the first from `start`."""
    points = []
    for delta in deltas:
        point = yield from reach(delta, start, **options)
        start = point if point.converged else start
        points.append(point)
    return points


def along_distances(
    distances: Iterable[float], start: Point | None = None, precision: float = 1e-10, **options
) -> Path:
    """Solve at the Δ whose typical solution is at each distance: a secant search for d(Δ) in log-log."""
    points = []
    for distance in distances:
        delta = start.delta_at(distance) if start else 2 * distance
        previous, slope, n_iter = None, 1.0, 0
        for _ in range(_DISTANCE_STEPS):
            point = yield from reach(delta, start, **options)
            n_iter += point.n_iter
            miss = np.log(distance / point.distance) if point.converged else np.nan
            if not abs(miss) > precision:
                break
            if previous is not None and point.delta != previous.delta:
                slope = np.log(point.distance / previous.distance) / np.log(point.delta / previous.delta)
            start = previous = point
            delta = point.delta * np.exp(np.clip(miss / slope, -_LEAP, _LEAP))
        point = replace(point, n_iter=n_iter, converged=bool(abs(miss) <= precision))
        start = point if point.converged else start
        points.append(point)
    return points


def reach(
    delta: float, start: Point | None, *, first: float = FIRST, finest: float = _FINEST
) -> Generator[Request, Point, Point]:
    """Follow the fixed points from `start`, or from a Δ of no more than `first`, to Δ.

    Beyond Δ of about 1 the equations can have several solutions; the one meant is that which grows out of the
    reference, so no step is longer than a factor `STRIDE`, also where a longer one would converge.  A step that
    fails is shortened, down to the factor `finest`.
    """
    n_iter, stride, point = 0, STRIDE, start
    if point is None:
        for beginning in min(delta, first) * 10.0 ** -np.arange(4):
            point = yield beginning, None
            n_iter += point.n_iter
            if point.converged:
                break
    while point.converged and point.delta != delta:
        trial = yield min(max(delta, point.delta / stride), stride * point.delta), point
        n_iter += trial.n_iter
        if trial.converged:
            point, stride = trial, STRIDE
        elif stride >= finest**2:
            stride **= 0.5
        else:
            point = replace(trial, delta=delta)
    return replace(point, delta=delta, n_iter=n_iter)
