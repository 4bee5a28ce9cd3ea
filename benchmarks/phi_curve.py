"""A 12-point Φ curve of one trained reference, to 1e-6, in seconds and in Cholesky factorisations."""

from __future__ import annotations

import numpy as np

from benchmarks.reference import trained_reference
from benchmarks.timing import median_seconds, verdict
from bpflat import local_entropy


def main() -> None:
    """Time `local_entropy` on its default grid for one minimum of each protocol."""
    matrix = np.random.default_rng(0).normal(size=(500, 500))
    matrix = matrix @ matrix.T + 500 * np.eye(500)

    def factorisations():
        for _ in range(100):
            np.linalg.cholesky(matrix)

    for name in ("sgd-fast", "sgd-slow", "rsgd-fast", "rsgd-slow", "esgd"):
        problem = trained_reference(name)
        exact = local_entropy(*problem, tolerance=1e-11)

        def curve(problem=problem):
            return local_entropy(*problem, tolerance=1e-6)

        quick = curve()
        worst = np.max(np.abs(quick.phi / exact.phi - 1), where=np.abs(exact.phi) > 1e-15, initial=0)
        assert quick.converged.all() and exact.converged.all() and worst < 1e-6, f"{name}: Φ is off by {worst:.1e}"
        took, yardstick = median_seconds(curve, factorisations, repeats=5, warmups=1)
        print(
            verdict(f"{name}: seconds for 12 points of Φ (largest relative error {worst:.0e})", took, 2, at_least=False)
        )
        print(f"{name}: over 100 Cholesky factorisations of a 500 × 500 matrix: {took / yardstick:.2g}")


if __name__ == "__main__":
    main()
