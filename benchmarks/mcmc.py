"""Monte Carlo: the standard error of log Z of the SGD-fast reference at Δ = 0.1, and what it costs."""

from __future__ import annotations

import os

from benchmarks.reference import trained_reference
from benchmarks.timing import seconds, verdict
from bpflat.estimators import monte_carlo
from bpflat.estimators.problem import Problem


def main() -> None:
    """Sample once; the estimate must be one on which the chains agree."""
    problem = Problem.of(*trained_reference())
    monte_carlo.solve(problem, 0.1, seed=1, n_samples=100)  # compiles
    points = []
    took = seconds(
        lambda: points.append(monte_carlo.solve(problem, 0.1, seed=0, n_samples=2000, n_jobs=os.cpu_count() or 1))
    )
    point = points[0]
    assert point.converged, f"the chains disagree: R-hat = {1 + point.residual:.2f}"
    print(f"log Z/n = {point.log_z:.6f} ± {point.std_error:.6f}, R-hat - 1 = {point.residual:.3f}")
    print(verdict("relative standard error of log Z (%)", 100 * point.std_error / abs(point.log_z), 3, at_least=False))
    print(verdict("seconds", took, 120, at_least=False))


if __name__ == "__main__":
    main()
