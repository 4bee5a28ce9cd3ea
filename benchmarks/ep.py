"""Expectation propagation: time of one (reference, Δ) over that of 9 × 10 Cholesky factorisations of 500 × 500."""

from __future__ import annotations

import numpy as np

from benchmarks.reference import trained_reference
from benchmarks.timing import median_seconds, verdict
from bpflat.estimators import ep
from bpflat.estimators.problem import Problem


def main() -> None:
    """Time one point of a curve, started from the point before, as curves are followed."""
    matrix = np.random.default_rng(0).normal(size=(500, 500))
    matrix = matrix @ matrix.T + 500 * np.eye(500)

    def factorisations():
        for _ in range(90):
            np.linalg.cholesky(matrix)

    for name in ("sgd-fast", "sgd-slow", "rsgd-fast", "esgd"):
        problem = Problem.of(*trained_reference(name))
        for before, delta in ((0.05, 0.1), (0.5, 1.0)):
            start = ep.solve(problem, before)
            exact = ep.solve(problem, delta, start=start, tolerance=1e-11)
            quick = ep.solve(problem, delta, start=start, tolerance=1e-6)
            assert quick.converged and abs(quick.phi / exact.phi - 1) < 1e-6, f"{name}: Φ is off"

            def point(problem=problem, delta=delta, start=start):
                return ep.solve(problem, delta, start=start, tolerance=1e-6)

            took, yardstick = median_seconds(point, factorisations, repeats=5, warmups=1)
            print(f"{name}, Δ = {delta}: {took:.2f} s")
            print(verdict("time of an EP point over 90 Cholesky factorisations", took / yardstick, 5, at_least=False))


if __name__ == "__main__":
    main()
