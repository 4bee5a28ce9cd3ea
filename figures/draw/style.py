"""One colour, marker and dash pattern for each algorithm, in every figure (Okabe and Ito's colour-blind palette)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib

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


def use_style() -> None:
    """Draw without a screen, by the project's style sheet."""
    matplotlib.use("Agg")
    matplotlib.style.use(SHEET)
