"""Local entropy, local energy and test error of the same minima: what is drawn and said follows from stored results."""

import csv

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from figures import agreement
from figures.agreement import BALANCED, DELTA, PANELS, PHI, TEST, correlation, solutions, subsets
from figures.draw.style import DROPOUT_LOOKS, LOOKS
from figures.measure.networks import load_networks
from tests.stored import forbid_computing


@pytest.fixture(scope="module")
def stored_minima():
    with pytest.MonkeyPatch.context() as patch:
        forbid_computing(patch)
        yield solutions(agreement.RESULTS)


@pytest.fixture(scope="module")
def networks():
    folder = agreement.RESULTS / agreement.DEEP
    return load_networks(folder) if any(folder.glob("*.npz")) else []


def test_each_minimum_once(stored_minima):
    """SGD fast without dropout is in both figures."""
    series, minima = stored_minima
    assert {measured.name for measured in series} == {*LOOKS, *DROPOUT_LOOKS} - {agreement.NO_DROPOUT}
    assert len({*zip(minima.protocol, minima.restart, strict=True)}) == len(minima.protocol)
    assert np.all(minima.phi_far < 0) and np.all(minima.train_error < 0.01)
    parts = {name: len(part.protocol) for name, part in subsets(minima).items()}
    fast = np.count_nonzero(minima.protocol == "sgd-fast")
    assert parts["all"] == parts["five algorithms"] + parts["SGD fast with dropout"] - fast
    assert parts["without SGD fast"] == parts["five algorithms"] - fast


def test_correlations_are_scipys(stored_minima):
    _, minima = stored_minima
    value = correlation(minima, DELTA, TEST)
    assert_allclose((value.value, value.p_value), stats.spearmanr(minima.delta_error, minima.test_error))
    five = subsets(minima)["five algorithms"]
    only = agreement.chosen(five, five.protocol == "esgd")
    within = correlation(only, PHI, TEST, within=True)
    assert_allclose(within.value, stats.spearmanr(only.phi_far, only.test_error).statistic)


def test_what_the_picture_says(stored_minima):
    """Both measures agree, also within each algorithm; test error follows them, but hardly among the flat minima."""
    _, minima = stored_minima
    assert correlation(minima, PHI, DELTA).low * correlation(minima, PHI, DELTA).high > 0.98
    assert correlation(minima, PHI, DELTA, within=True).value < -0.9
    flat = subsets(minima)["without SGD fast"]
    for measure, sign in ((PHI, -1), (DELTA, 1)):
        assert sign * correlation(minima, measure, TEST).value > 0.3
        assert 0 < sign * correlation(flat, measure, TEST).value < 0.2
        assert 0.2 < sign * correlation(flat, measure, BALANCED).value < 0.35
        assert sign * correlation(subsets(minima)["SGD fast with dropout"], measure, TEST).value > 0.7


def test_committed_numbers_follow_from_stored_results(stored_minima, networks):
    folder = agreement.RESULTS / "agreement"
    assert agreement.report(*stored_minima) == (folder / "agreement.md").read_text(encoding="utf-8")
    with (folder / "agreement.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [[str(value) for value in row] for row in agreement.table(stored_minima[1], networks)]


def test_panels(stored_minima, networks):
    """Every minimum is a point of every panel; the deep panel is there if its results are."""
    for some in ([], networks):
        figure = agreement.draw(*stored_minima, some)
        assert len(figure.axes) == 3 + bool(some)
        for axes, (x, y) in zip(figure.axes, PANELS, strict=False):
            drawn = np.concatenate([line.get_xdata() for line in axes.lines])
            assert len(drawn) == len(stored_minima[1].protocol) and np.all(drawn > 0)
            assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log" if y == DELTA else "linear")
            sign = -1 if x == PHI else 1
            number = f"{sign * correlation(stored_minima[1], x, y).value:+.2f}"
            assert axes.get_title(loc="right").startswith(f"Spearman {number}")


def test_missing_results_are_named(tmp_path, capsys):
    """And not trained."""
    assert agreement.main(["--stored", str(tmp_path), "--results", str(tmp_path)]) == 2
    assert "sgd-fast.npz is not there; make it: python -m figures.fig1 --preset paper" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
