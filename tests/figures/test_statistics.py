"""The statistics of minima against known populations and scipy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from figures.measure.statistics import (
    UNKNOWN,
    Sample,
    centred_ranks,
    correlate,
    difference,
    mean_interval,
    paired_difference,
    rank_correlation,
    variance_components,
)

FUNCTIONS = {"spearman": stats.spearmanr, "pearson": stats.pearsonr, "kendall": stats.kendalltau}


class TestCorrelate:
    @pytest.mark.parametrize("kind", ["spearman", "pearson", "kendall"])
    def test_value_is_scipys(self, kind):
        rng = np.random.default_rng(0)
        x = rng.normal(size=40)
        y = x + rng.normal(size=40)
        estimate = correlate(x, y, np.zeros(40), kind=kind, rng=rng)
        expected = FUNCTIONS[kind](x, y)
        assert_allclose((estimate.value, estimate.p_value), expected)
        assert estimate.low < estimate.value < estimate.high

    def test_interval_of_pearson_is_fishers(self):
        """Large normal samples: the interval is tanh(atanh r ± 1.96/√(n - 3)), to 15 % of its width."""
        rng = np.random.default_rng(1)
        x = rng.normal(size=400)
        y = 0.5 * x + rng.normal(size=400)
        estimate = correlate(x, y, np.zeros(400), kind="pearson", rng=rng)
        low, high = np.tanh(np.arctanh(estimate.value) + np.array([-1.96, 1.96]) / np.sqrt(397))
        assert_allclose((estimate.low, estimate.high), (low, high), atol=0.15 * (high - low))

    def test_groups_keep_their_sizes(self):
        """Two far groups: resampling within them can never lose the correlation that they make."""
        groups = np.repeat([0, 1], [2, 30])
        estimate = correlate(groups + 0.0, groups + 0.0, groups, kind="pearson", rng=np.random.default_rng(2))
        assert_allclose((estimate.low, estimate.high), 1.0)

    def test_nothing_to_correlate(self):
        for x, y in (([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([], [])):
            assert correlate(x, y, x, kind="spearman", rng=np.random.default_rng(0)) is UNKNOWN
            assert np.isnan(rank_correlation(x, y))


def test_centred_ranks_forget_the_groups():
    groups = np.repeat(["a", "b"], 3)
    ranks = centred_ranks([1, 2, 3, 300, 200, 100], groups)
    assert_allclose(ranks, np.array([-1, 0, 1, 1, 0, -1]) / 3)


class TestVarianceComponents:
    def test_recovers_a_population(self):
        """4000 draws of 3 restarts: both deviations within 5 % (about 3 standard errors)."""
        rng = np.random.default_rng(3)
        values = 2 + 0.5 * rng.normal(size=(4000, 1)) + 0.3 * rng.normal(size=(4000, 3))
        estimate = variance_components(values)
        assert_allclose((estimate.between, estimate.within), (0.5, 0.3), rtol=0.05)
        assert abs(estimate.mean - 2) < 3 * estimate.std_error
        assert_allclose(estimate.std_error, np.sqrt((0.25 + 0.09 / 3) / 4000), rtol=0.05)

    def test_no_variance_between_draws(self):
        assert variance_components([[0.0, 1.0], [1.0, 0.0]]).between == 0

    def test_one_restart_is_refused(self):
        with pytest.raises(ValueError, match="at least 2 restarts"):
            variance_components([[1.0], [2.0]])


class TestPairedDifference:
    def test_draws_cancel(self):
        """The shared effect of a draw, here ten times the difference, does not widen the interval."""
        rng = np.random.default_rng(4)
        draw = 10 * rng.normal(size=(30, 1))
        first = draw + 1 + 0.1 * rng.normal(size=(30, 4))
        second = draw + 0.1 * rng.normal(size=(30, 4))
        estimate = paired_difference(first, second)
        assert_allclose(estimate.mean, 1, atol=0.05)
        assert estimate.low < 1 < estimate.high and estimate.high - estimate.low < 0.2

    @pytest.mark.parametrize(("between", "within"), [(0.0, 1.0), (0.5, 0.3), (1.0, 0.1)])
    def test_coverage(self, between, within):
        """2,000 studies of 7 draws × 2 restarts: 95 % to 2 % (4 standard errors), wherever the variance is."""
        rng = np.random.default_rng(5)
        shared = 10 * rng.normal(size=(2000, 7, 1))
        first = shared + 0.3 + between * rng.normal(size=(2000, 7, 1)) + within * rng.normal(size=(2000, 7, 2))
        second = shared + within * rng.normal(size=(2000, 7, 2))
        intervals = [paired_difference(*study) for study in zip(first, second, strict=True)]
        assert 0.93 <= np.mean([i.low <= 0.3 <= i.high for i in intervals]) <= 0.97


class TestDifference:
    def test_is_welchs(self):
        rng = np.random.default_rng(9)
        first, second = rng.normal(size=3), 1 + 2 * rng.normal(size=5)
        estimate = difference(Sample.of(first), Sample.of(second))
        expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
        assert_allclose((estimate.low, estimate.high), expected)
        assert_allclose(estimate.mean, first.mean() - second.mean())

    def test_single_values(self):
        """One value beside a sample has the sample's variance; two single values have none."""
        estimate = difference(Sample.of([1.0]), Sample(3.0, 2.0, 4))
        half = stats.t.ppf(0.975, 3) * 2.0 * np.sqrt(1 + 1 / 4)
        assert_allclose((estimate.mean, estimate.low, estimate.high), (-2, -2 - half, -2 + half))
        alone = difference(Sample.of([1.0]), Sample.of([3.0]))
        assert alone.mean == -2 and np.isnan([alone.low, alone.high]).all()
        equal = difference(Sample.of([1.0, 1.0]), Sample.of([3.0, 3.0]))
        assert equal.low == equal.high == -2

    @pytest.mark.parametrize(("n", "low", "high"), [((1, 5), 0.95, 0.95), ((3, 5), 0.94, 0.98), ((2, 2), 0.95, 1.0)])
    def test_coverage(self, n, low, high):
        """2,000 studies of equal variances, to 3 standard errors: Welch's intervals of very few values are too long."""
        rng = np.random.default_rng(10)
        studies = [[rng.normal(size=size) for size in n] for _ in range(2000)]
        intervals = [difference(*map(Sample.of, study)) for study in studies]
        covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
        assert low - 0.015 < covered < high + 0.015


class TestMeanInterval:
    def test_is_scipys(self):
        values = np.random.default_rng(6).normal(size=7)
        estimate = mean_interval(values)
        assert_allclose((estimate.low, estimate.high), stats.ttest_1samp(values, 0).confidence_interval(0.95))
        assert estimate.mean == values.mean()

    def test_one_value_has_none(self):
        assert np.isnan(mean_interval([1.0]).low) and mean_interval([1.0]).mean == 1.0
        assert np.isnan(mean_interval([]).mean)

    @pytest.mark.parametrize("slope", [0.0, 0.5, 1.5, 8.0])
    def test_coverage_of_rank_correlations(self, slope):
        """Spearman's ρ in each of 10 draws of 5 algorithms × 3 restarts, bounded and skewed: 90 to 95 %."""
        rng = np.random.default_rng(7)
        flatness = np.repeat(np.arange(5), 3) + 0.5 * rng.normal(size=(30_000, 15))
        error = slope * np.repeat(np.arange(5), 3) + rng.normal(size=(30_000, 15))
        ranks = (stats.rankdata(values, axis=1) - 8 for values in (flatness, error))
        inside = np.prod([*ranks], axis=0).sum(axis=1) / 280
        assert_allclose(inside[:5], [rank_correlation(*pair) for pair in zip(flatness[:5], error[:5], strict=True)])
        intervals = [mean_interval(values) for values in inside[: 10 * 2000].reshape(2000, 10)]
        covered = np.mean([i.low <= inside.mean() <= i.high for i in intervals])
        assert 0.90 - 0.01 < covered < 0.95 + 0.01


class TestCoverageOfCorrelations:
    """What `correlate` says its intervals cover, to 3 standard errors of 300 studies."""

    @staticmethod
    def coverage(rho, kind, groups, *, shift=(0, 0), within=False):
        """Coverage of the population's coefficient, for normal minima correlated by `rho` inside groups at `shift`."""
        rng = np.random.default_rng(8)

        def sample(groups):
            x = rng.normal(size=len(groups))
            y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=len(groups))
            return [values + np.resize(s, 5)[groups] for values, s in zip((x, y), shift, strict=True)]

        truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's ρ of two normal variables
        if not within:
            truth = FUNCTIONS[kind](*sample(np.repeat(np.unique(groups), 40_000)))[0]
        hits = 0
        for _ in range(300):
            pair = sample(groups)
            if within:
                pair = [centred_ranks(values, groups) for values in pair]
            estimate = correlate(*pair, groups, kind=kind, rng=rng, n_resamples=300)
            hits += estimate.low <= truth <= estimate.high
        return hits / 300

    @pytest.mark.parametrize("kind", ["spearman", "pearson", "kendall"])
    @pytest.mark.parametrize("rho", [0.2, 0.9])
    def test_without_groups(self, kind, rho):
        assert 0.92 - 0.05 < self.coverage(rho, kind, np.zeros(25, dtype=int)) < 0.97 + 0.03

    @pytest.mark.parametrize(("size", "low", "high"), [(50, 0.93, 0.94), (5, 0.88, 0.90)])
    def test_over_groups(self, size, low, high):
        """Five algorithms as in Fig. 1: flatness and test error differ between them."""
        shift = [0, 3, 6, 7, 9], [3, 1, 0, 0.5, 0.2]
        covered = self.coverage(0.2, "spearman", np.repeat(np.arange(5), size), shift=shift)
        assert low - 0.055 < covered < high + 0.055

    @pytest.mark.parametrize(("rho", "low", "high"), [(0.2, 0.90, 0.94), (0.9, 0.84, 0.88)])
    @pytest.mark.parametrize("sizes", [(8, 8, 9), (50,) * 5])
    def test_within_groups(self, rho, low, high, sizes):
        groups = np.repeat(np.arange(len(sizes)), sizes)
        covered = self.coverage(rho, "pearson", groups, within=True)
        assert low - 0.06 < covered < high + 0.06
