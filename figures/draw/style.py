"""What a colour, marker and dash pattern means: the same in every figure.

Algorithms have Okabe and Ito's colour-blind palette.  What has an order has a perceptually uniform map of its own, so
that the order is kept in grey: dropout has magma, epochs have viridis, depth has cividis.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

import matplotlib
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from figures.measure.experiment import WITH_DROPOUT

SHEET = Path(__file__).with_name("bpflat.mplstyle")


class Look(NamedTuple):
    """How a series is drawn."""

    color: str
    marker: str
    linestyle: str | tuple


LOOKS = {
    "sgd-fast": Look("#D55E00", "o", "-"),
    "sgd-slow": Look("#E69F00", "s", "--"),
    "rsgd-fast": Look("#56B4E9", "^", "-."),
    "rsgd-slow": Look("#0072B2", "v", (0, (4, 1, 1, 1, 1, 1))),
    "esgd": Look("#009E73", "D", ":"),
}
DEEP_LOOKS = {
    "baseline": LOOKS["sgd-fast"],
    "rsgd": LOOKS["rsgd-fast"],
    "esgd": LOOKS["esgd"],
    "rsgd-y": LOOKS["rsgd-slow"],
}


def dropout_color(p: float) -> str:
    """Colour of a dropout probability: the more dropout, the darker."""
    return to_hex(colormaps["magma"](max(0.66 - 0.78 * p, 0.0)))


DROPOUT_LOOKS = {
    protocol.name: Look(dropout_color(protocol.dropout), marker, "-")
    for protocol, marker in zip(WITH_DROPOUT, "oPXph", strict=True)
}
SOLVER_LOOKS = {
    "focusing": Look("#332288", "o", "-"),
    "decimation": Look("#CC79A7", "s", "--"),
    "rounded-sgd": Look("#8C564B", "^", "-."),
}
SERIES_LOOKS = LOOKS | DROPOUT_LOOKS | SOLVER_LOOKS
EPOCH_MAP = colormaps["viridis_r"]
DEPTH_MAP = colormaps["cividis_r"]


def add_letters(panels: Iterable[Axes]) -> None:
    """Call the panels a, b, c, ..."""
    for axes, letter in zip(panels, ascii_lowercase, strict=False):
        axes.set_title(letter, loc="left", fontweight="bold")


def use_style() -> None:
    """Draw without a screen, by the project's style sheet."""
    matplotlib.use("Agg")
    matplotlib.style.use(SHEET)
