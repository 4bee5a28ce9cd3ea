"""One colour has one meaning, and what has an order has it in grey too."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from figures.draw import networks
from figures.draw.style import DROPOUT_LOOKS, LOOKS, SERIES_LOOKS, SOLVER_LOOKS, dropout_color
from figures.measure.binary import SOLVERS
from figures.measure.experiment import WITH_DROPOUT
from tests.figures.toy_runs import network
from training.committee.protocols import PROTOCOLS


def lightness(color):
    """CIE L* of an sRGB colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 116 * np.cbrt(np.dot([0.2126, 0.7152, 0.0722], linear)) - 16


def test_every_algorithm_has_its_own_look():
    assert set(LOOKS) == set(PROTOCOLS)
    for part in zip(*LOOKS.values(), strict=True):
        assert len(set(part)) == len(LOOKS)


def test_no_dropout_or_solver_looks_like_an_algorithm():
    colors = [look.color for look in SERIES_LOOKS.values()]
    assert len(set(colors)) == len(LOOKS) + len(DROPOUT_LOOKS) + len(SOLVER_LOOKS) == len(SERIES_LOOKS)
    assert set(SOLVER_LOOKS) == set(SOLVERS)
    assert len({look.marker for look in DROPOUT_LOOKS.values()}) == len(WITH_DROPOUT)


def test_more_dropout_is_darker():
    """Evenly, and never so light that it is lost on white."""
    p = np.linspace(0, 0.7, 8)
    steps = np.diff([lightness(dropout_color(value)) for value in p])
    assert np.all(steps < -4) and steps == pytest.approx(np.full(7, steps.mean()), rel=0.25)
    assert lightness(dropout_color(0)) < 75


def test_dropout_has_one_colour_in_all_figures():
    levels = networks.levels_of([network(dropout=p.dropout) for p in WITH_DROPOUT])
    assert levels["dropout"] == {p.dropout: DROPOUT_LOOKS[p.name].color for p in WITH_DROPOUT}
