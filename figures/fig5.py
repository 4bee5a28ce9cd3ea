"""Fig. 5: as Fig. 3, of ResNet-110 on CIFAR-10; `python -m figures.fig5`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from figures import fig3


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return fig3.main(argv, name="fig5", row="resnet110-cifar10")


if __name__ == "__main__":
    sys.exit(main())
