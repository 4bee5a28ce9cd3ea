"""Monte Carlo: the standard error of log Z of the SGD-fast reference at Δ = 0.1, and what it costs."""

from __future__ import annotations

import os

from benchmarks.reference import trained_reference
from benchmarks.timing import seconds, verdict
from bpflat.bp import make_nodes
from bpflat.estimators.monte_carlo import sample_log_z


def main() -> None:
    """Sample once; the estimate must be one on which the chains agree."""
    weights, patterns, labels = trained_reference()
    nodes = make_nodes(weights, patterns)
    problem = nodes.hidden, nodes.gram, labels, nodes.n_inputs
    sample_log_z(*problem, 0.1, seed=1, n_samples=100)  # compiles
    points = []
    took = seconds(
        lambda: points.append(sample_log_z(*problem, 0.1, seed=0, n_samples=2000, n_jobs=os.cpu_count() or 1))
    )
    point = points[0]
    assert point.converged, f"the chains disagree: R-hat = {1 + point.residual:.2f}"
    print(f"log Z/n = {point.log_z:.6f} ± {point.std_error:.6f}, R-hat - 1 = {point.residual:.3f}")
    print(verdict("relative standard error of log Z (%)", 100 * point.std_error / abs(point.log_z), 3, at_least=False))
    print(verdict("seconds", took, 120, at_least=False))


if __name__ == "__main__":
    main()
