"""Fig. 4: flatness of the minima that different algorithms end in, from saved runs; `python -m figures.fig4`.

EfficientNet-B0, PyramidNet, ResNet-50 and DenseNet-121 in the paper; any rows of Table 1 here, a panel for each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from figures.draw.profiles import Profiles, draw_final, load_profiles, save_all
from figures.draw.style import use_style
from training.recipes import RECIPES

ROWS = (
    "efficientnet-b0-cifar100",
    "pyramidnet-cifar10",
    "pyramidnet-cifar100",
    "resnet50-tiny-imagenet",
    "densenet121-tiny-imagenet",
)


def draw(rows: dict[str, list[Profiles]]) -> Figure:
    """One panel a row, a line for each algorithm."""
    figure, panels = plt.subplots(1, len(rows), figsize=(max(4.0, 2.6 * len(rows)), 3.1), squeeze=False)
    for axes, (row, found) in zip(panels[0], rows.items(), strict=True):
        draw_final(axes, found, row)
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m figures.fig4", description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=Path("runs/table1"), help="folder of the runs and the picture")
    parser.add_argument(
        "--rows", nargs="+", choices=RECIPES, metavar="ROW", help="(default: the paper's, else all saved)"
    )
    arguments = parser.parse_args(argv)
    use_style()
    try:
        rows = load_profiles(arguments.results, arguments.rows, preferred=ROWS)
        save_all(draw(rows), rows, arguments.results, "fig4", final=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
