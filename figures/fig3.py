"""Fig. 3: flatness along the training of different algorithms, from saved runs; `python -m figures.fig3`.

ResNet-18 on CIFAR-10 in the paper; any row of Table 1 here.  A panel for each algorithm has its local energy profile
after several epochs; the last panel compares the final configurations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from figures.draw.profiles import Profiles, draw_evolution, draw_final, load_profiles, save_all
from figures.draw.style import use_style
from training.recipes import RECIPES


def draw(found: Sequence[Profiles]) -> Figure:
    """The evolution of each algorithm on common axes, then all final configurations."""
    n = len(found)
    figure, panels = plt.subplots(1, n + 1, figsize=(2.4 * (n + 1), 3.6))
    for axes in panels[1:-1]:
        axes.sharey(panels[0])
    for axes, profiles in zip(panels[:-1], found, strict=True):
        draw_evolution(axes, profiles)
    draw_final(panels[-1], found, "final configurations")
    return figure


def main(argv: Sequence[str] | None = None, *, name: str = "fig3", row: str = "resnet18-cifar10") -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m figures.{name}", description="Local energy along the training, from saved runs."
    )
    parser.add_argument("--results", type=Path, default=Path("runs/table1"), help="folder of the runs and the picture")
    parser.add_argument("--row", choices=RECIPES, metavar="ROW", default=row, help=f"of Table 1 (default: {row})")
    arguments = parser.parse_args(argv)
    use_style()
    try:
        rows = load_profiles(arguments.results, [arguments.row])
        save_all(draw(rows[arguments.row]), rows, arguments.results, name, final=False)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
