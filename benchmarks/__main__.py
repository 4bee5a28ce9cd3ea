"""Run every benchmark: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import importlib
import os
import platform
import sys

NAMES = (
    "sweep",
    "phi_curve",
    "trainer_rate",
    "ep",
    "batch",
    "mcmc",
    "optim",
    "flatness",
    "variance",
    "entropy",
    "learning_coefficient",
    "coverage",
    "deep",
)


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    for name in names or NAMES:
        print(f"\n== {name}")
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
