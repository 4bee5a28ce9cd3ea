"""Fig. 5: as Fig. 3, of ResNet-110 on CIFAR-10; `python -m figures.fig5`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from figures.draw.profiles import draw_evolutions, report, table
from figures.measure.profiles import load_profiles
from figures.program import Output, add_runs_option, run_program
from training.deep.recipes import RECIPES

ROW = "resnet110-cifar10"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    add_runs_option(parser)
    parser.add_argument("--row", choices=RECIPES, metavar="ROW", default=ROW, help=f"of Table 1 (default: {ROW})")


def make(arguments: argparse.Namespace) -> Output:
    """Draw the profiles of one network."""
    by_network = load_profiles(arguments.results, [arguments.row])
    rows, figure = table(by_network, final=False), draw_evolutions(by_network)
    return Output(arguments.results, rows, figure, report(by_network))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("fig5", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
