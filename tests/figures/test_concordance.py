"""Kendall's τ in the cells of a grid: against its definition, and what its intervals cover."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from figures.measure.concordance import AVERAGE, granulated_kendall, pairs_in_cells
from figures.measure.statistics import UNKNOWN

AXES = {"dropout": (0.0, 0.3, 0.5), "batch": (16, 32, 64), "weight_decay": (0.0, 1e-3, 3e-3), "eta": (0.02, 0.04)}
GRID = dict(zip(AXES, np.array(list(itertools.product(*AXES.values()))).T, strict=True))
LEVELS = np.array(list(itertools.product(*(range(len(values)) for values in AXES.values()))))


def by_definition(x, y, axis):
    """ψ of one hyper-parameter of the whole grid: τ in every cell, averaged."""
    shape = [len(values) for values in AXES.values()]
    lines = (np.moveaxis(np.reshape(v, shape), list(AXES).index(axis), -1).reshape(-1, len(AXES[axis])) for v in (x, y))
    return np.mean([stats.kendalltau(*pair).statistic for pair in zip(*lines, strict=True)])


def test_is_the_definition():
    x, y = np.random.default_rng(0).normal(size=(2, 54))
    found = granulated_kendall(x, y, GRID)
    expected = {axis: by_definition(x, y, axis) for axis in AXES}
    assert [*found] == [*AXES, AVERAGE]
    assert_allclose([found[axis].value for axis in AXES], list(expected.values()))
    assert_allclose(found[AVERAGE].value, np.mean(list(expected.values())))
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in found.values())


def test_one_hyper_parameter_moves_both():
    """Kendall's τ is large, and ψ of the others says that nothing else does."""
    rng = np.random.default_rng(1)
    batch = LEVELS[:, 1] + np.zeros(54)
    x, y = batch + 0.1 * rng.normal(size=(2, 54))
    found = granulated_kendall(x, y, GRID)
    assert stats.kendalltau(x, y).statistic > 0.6 and found["batch"].value == 1
    for axis in ("dropout", "weight_decay", "eta"):  # none, to 4 standard errors
        assert abs(found[axis].value) < 4 * (found[axis].high - found[axis].low) / (2 * 1.96)


def test_networks_that_are_missing_and_seeds():
    x, y = np.random.default_rng(2).normal(size=(2, 54))
    kept = np.arange(54) != 7
    settings = {name: values[kept] for name, values in GRID.items()}
    assert np.count_nonzero(pairs_in_cells(settings)["eta"]) == 2 * 26
    assert np.isfinite(granulated_kendall(x[kept], y[kept], settings)[AVERAGE].value)
    twice = {name: np.tile(values, 2) for name, values in GRID.items()} | {"seed": np.repeat([0, 1], 54)}
    pairs = pairs_in_cells(twice, fixed=["seed"])
    assert list(pairs) == list(AXES) and np.count_nonzero(pairs["eta"]) == 2 * 2 * 27  # each seed with itself
    assert granulated_kendall(x, y, {"dropout": np.zeros(54)}) == {"dropout": UNKNOWN, AVERAGE: UNKNOWN}


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_coverage(rho):
    """Nominally 95 %; 93 to 95 % of 300 studies of 54 networks, to 3 standard errors, whose effects are given."""
    rng = np.random.default_rng(3)
    effects = LEVELS @ np.array([[0.5, 1.0, 0.5, 0.3], [0.5, -0.5, 0.3, 0.3]]).T

    def study():
        common, own = rng.normal(size=(2, 54))
        return granulated_kendall(
            effects[:, 0] + common, effects[:, 1] + rho * common + np.sqrt(1 - rho**2) * own, GRID
        )

    truth = np.mean([[estimate.value for estimate in study().values()] for _ in range(1500)], axis=0)
    intervals = np.array([[(estimate.low, estimate.high) for estimate in study().values()] for _ in range(300)])
    covered = ((intervals[..., 0] <= truth) & (truth <= intervals[..., 1])).mean(axis=0)
    assert np.all((covered > 0.93 - 0.045) & (covered < 0.95 + 0.038)), covered
