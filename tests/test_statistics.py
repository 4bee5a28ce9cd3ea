"""The statistics of minima against known populations and scipy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from figures.statistics import centred_ranks, correlate, paired_difference, variance_components


class TestCorrelate:
    @pytest.mark.parametrize("kind", ["spearman", "pearson"])
    def test_value_is_scipys(self, kind):
        rng = np.random.default_rng(0)
        x = rng.normal(size=40)
        y = x + rng.normal(size=40)
        found = correlate(x, y, np.zeros(40), kind=kind, rng=rng)
        expected = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[kind](x, y)
        assert_allclose((found.value, found.p_value), expected)
        assert found.low < found.value < found.high

    def test_interval_of_pearson_is_fishers(self):
        """Large normal samples: the interval is tanh(atanh r ± 1.96/√(n - 3)), to 15 % of its width."""
        rng = np.random.default_rng(1)
        x = rng.normal(size=400)
        y = 0.5 * x + rng.normal(size=400)
        found = correlate(x, y, np.zeros(400), kind="pearson", rng=rng)
        low, high = np.tanh(np.arctanh(found.value) + np.array([-1.96, 1.96]) / np.sqrt(397))
        assert_allclose((found.low, found.high), (low, high), atol=0.15 * (high - low))

    def test_groups_keep_their_sizes(self):
        """Two far groups: resampling within them can never lose the correlation that they make."""
        groups = np.repeat([0, 1], [2, 30])
        found = correlate(groups + 0.0, groups + 0.0, groups, kind="pearson", rng=np.random.default_rng(2))
        assert_allclose((found.low, found.high), 1.0)


def test_centred_ranks_forget_the_groups():
    groups = np.repeat(["a", "b"], 3)
    ranks = centred_ranks([1, 2, 3, 300, 200, 100], groups)
    assert_allclose(ranks, np.array([-1, 0, 1, 1, 0, -1]) / 3)


class TestVarianceComponents:
    def test_recovers_a_population(self):
        """4000 draws of 3 restarts: both deviations within 5 % (about 3 standard errors)."""
        rng = np.random.default_rng(3)
        values = 2 + 0.5 * rng.normal(size=(4000, 1)) + 0.3 * rng.normal(size=(4000, 3))
        found = variance_components(values)
        assert_allclose((found.between, found.within), (0.5, 0.3), rtol=0.05)
        assert abs(found.mean - 2) < 3 * found.std_error
        assert_allclose(found.std_error, np.sqrt((0.25 + 0.09 / 3) / 4000), rtol=0.05)

    def test_no_variance_between_draws(self):
        assert variance_components([[0.0, 1.0], [1.0, 0.0]]).between == 0

    def test_one_restart_is_refused(self):
        with pytest.raises(ValueError, match="at least 2 restarts"):
            variance_components([[1.0], [2.0]])


def test_paired_difference_cancels_the_draws():
    """The shared effect of a draw, here ten times the difference, does not widen the interval."""
    rng = np.random.default_rng(4)
    draw = 10 * rng.normal(size=(30, 1))
    first = draw + 1 + 0.1 * rng.normal(size=(30, 4))
    second = draw + 0.1 * rng.normal(size=(30, 4))
    value, low, high = paired_difference(first, second, rng=rng)
    assert_allclose(value, 1, atol=0.05)
    assert low < 1 < high or abs(value - 1) < 0.05
    assert high - low < 0.2
