"""Symbols of networks that were trained with different regularisers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from figures.draw.style import LOOKS, dropout_color
from figures.measure.networks import HYPER_PARAMETERS, Network

MARKERS = [look.marker for look in LOOKS.values()]
SIZES = (3.0, 5.0, 7.0)
EDGES = ("none", "black", "deepskyblue")


def levels_of(networks: Sequence[Network]) -> dict[str, dict]:
    """Colour, marker, size and edge of each value of each hyper-parameter."""
    names = HYPER_PARAMETERS
    dropout, batch, decay, eta = (sorted({getattr(network, name) for network in networks}) for name in names)
    return {
        "dropout": {p: dropout_color(p) for p in dropout},
        "batch": dict(zip(batch, itertools.cycle(MARKERS), strict=False)),
        "weight_decay": dict(zip(decay, itertools.cycle(SIZES), strict=False)),
        "eta": dict(zip(eta, itertools.cycle(EDGES), strict=False)),
    }


def look_of(network: Network, levels: dict[str, dict]) -> dict:
    """Options of a line that draws `network`; open symbols do not fit their training data."""
    color = levels["dropout"][network.dropout]
    return {
        "color": color,
        "markeredgecolor": levels["eta"][network.eta] if network.fitted else color,
        "markeredgewidth": 0.7,
        "marker": levels["batch"][network.batch],
        "markersize": levels["weight_decay"][network.weight_decay],
        "fillstyle": "full" if network.fitted else "none",
    }


def add_legend(figure: Figure, networks: Sequence[Network]) -> None:
    """Legend above the panels: colours, then markers, then sizes."""
    common = {"linestyle": "none", "color": "0.3", "marker": "o", "markeredgecolor": "none"}
    options = {"dropout": "color", "batch": "marker", "weight_decay": "markersize", "eta": "markeredgecolor"}
    columns = [
        [(f"{HYPER_PARAMETERS[name]} {value:g}", {options[name]: look}) for value, look in looks.items()]
        for name, looks in levels_of(networks).items()
        if name != "eta" or len(looks) > 1
    ]
    if not all(network.fitted for network in networks):
        columns.append([("training loss too large", {"fillstyle": "none", "markeredgecolor": "0.3"})])
    longest = max(map(len, columns))
    for column in columns:  # matplotlib fills columns one after another
        column += [("", {"marker": "none"})] * (longest - len(column))
    handles = [plt.Line2D([], [], label=label, **(common | line)) for label, line in itertools.chain(*columns)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(columns), columnspacing=3.0)
