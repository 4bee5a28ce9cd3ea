"""Fig. 4: flatness of the minima that different algorithms end in, from saved runs; `python -m figures.fig4`.

EfficientNet-B0, PyramidNet, ResNet-50 and DenseNet-121 in the paper; any rows of Table 1 here, a panel for each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from figures.draw.profiles import draw_finals, table
from figures.measure.profiles import load_profiles
from figures.program import Output, add_rows_option, add_runs_option, run_program

ROWS = (
    "efficientnet-b0-cifar100",
    "pyramidnet-cifar10",
    "pyramidnet-cifar100",
    "resnet50-tiny-imagenet",
    "densenet121-tiny-imagenet",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    add_runs_option(parser)
    add_rows_option(parser)


def make(arguments: argparse.Namespace) -> Output:
    """Draw the last profiles of every network."""
    by_network = load_profiles(arguments.results, arguments.rows, preferred=ROWS)
    return Output(arguments.results, table(by_network, final=True), draw_finals(by_network))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("fig4", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
