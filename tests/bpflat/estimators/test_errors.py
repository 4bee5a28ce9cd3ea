"""References that make training errors: E ≤ E₀ counted by one more factor, or errors at a cost; BP and EP."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from bpflat import local_entropy
from bpflat.estimators.output_node import count_errors, output_nodes
from bpflat.estimators.tables import majority_vote
from tests.instances import random_instance
from tests.naive import committee as naive

METHODS = ("bp", "ep")


def instance_with_errors(n_errors, **options):
    weights, patterns, labels = random_instance(101, 5, 60, **options)
    labels[:n_errors] *= -1
    return weights, patterns, labels


class TestCount:
    @pytest.mark.parametrize("n_errors", [1, 2, 5])
    @pytest.mark.parametrize("scale", [1e-20, 1e-6, 0.1, 1.0, 100.0])
    def test_enumeration(self, scale, n_errors):
        """Certain patterns to hopeless ones, three of them beyond the smallest float."""
        rng = np.random.default_rng(0)
        log_z = -scale * rng.exponential(size=(2, 9))
        log_z[1, :3] = -800
        totals, pivotal = count_errors(log_z, np.full(2, n_errors))
        for row, total, share in zip(log_z, totals, pivotal, strict=True):
            expected = naive.few_errors(row, n_errors)
            assert_allclose(total, expected[0], rtol=1e-12)
            assert_allclose(share, expected[1], rtol=1e-11, atol=1e-280)

    def test_no_errors(self):
        log_z = -np.random.default_rng(0).exponential(size=(3, 7))
        totals, pivotal = count_errors(log_z, np.zeros(3, int))
        assert_allclose(totals, log_z.sum(axis=1))
        assert_array_equal(pivotal, 1)

    def test_many_hopeless_patterns(self):
        """Thousands of patterns of which nearly all are wrong: nothing underflows."""
        totals, pivotal = count_errors(np.full((1, 2000), -50.0), np.array([3]))
        # 1,997 are right, whichever
        assert_allclose(totals, -50.0 * 1997 + np.log(2000 * 1999 * 1998 / 6), rtol=1e-12)
        assert_allclose(pivotal, 1997 / 2000, rtol=1e-9)


class TestOutputNode:
    @pytest.mark.parametrize("allowed", [{"beta": 1.5}, {"n_errors": 1}, {"n_errors": 2}])
    def test_derivatives(self, allowed):
        """Derivatives g and Γ of the logarithm of the factor that joins four patterns."""
        rng = np.random.default_rng(0)
        omega, variance, labels = rng.normal(size=(4, 5)).T, rng.uniform(0.5, 2, size=(4, 5)).T, np.ones(4)
        node = majority_vote(5)
        here, h = output_nodes(node, omega, variance, labels, **allowed), 1e-5
        right = np.array([naive.majority(norm.cdf(o / np.sqrt(v))) for o, v in zip(omega.T, variance.T, strict=True)])
        if "beta" in allowed:
            expected = np.log(right + np.exp(-1.5) * (1 - right)).sum()
            assert_allclose(here.errors, np.sum(np.exp(-1.5) * (1 - right) / (right + np.exp(-1.5) * (1 - right))))
        else:
            expected = naive.few_errors(np.log(right), allowed["n_errors"])[0]
        assert_allclose(here.log_z, expected, rtol=1e-12)
        for place in np.ndindex(5, 4):
            step = np.zeros((5, 4))
            step[place] = h
            up, down = (output_nodes(node, omega + s * step, variance, labels, **allowed) for s in (1, -1))
            assert_allclose((up.log_z - down.log_z) / (2 * h), here.g[place], rtol=1e-6, atol=1e-10)
            assert_allclose((down.g[place] - up.g[place]) / (2 * h), here.curvature[place], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
class TestCurves:
    def test_large_beta_is_hard(self, method):
        """e^{-β} below the rounding of 1 changes nothing where there are no errors."""
        problem = instance_with_errors(0)
        soft, hard = (local_entropy(*problem, [0.1, 1.0], method=method, beta=b) for b in (60.0, None))
        assert_allclose(soft.phi, hard.phi, rtol=1e-7)
        assert np.all(np.isinf(hard.beta)) and np.all(soft.beta == 60.0)
        assert (hard.measure, soft.measure) == ("count", "cost")

    @pytest.mark.parametrize("n_errors", [1, 5])
    def test_physics(self, method, n_errors):
        problem = instance_with_errors(n_errors)
        curve = local_entropy(*problem, np.geomspace(1e-3, 4, 8), method=method)
        assert curve.train_error == n_errors / 60 and curve.measure == "count"
        assert curve.converged.all() and np.all(curve.phi <= 0) and np.all(np.diff(curve.phi) < 0)

    def test_more_errors_allow_more(self, method):
        """The labels of a reference with errors are easier to keep than those of one without: Φ is larger."""
        weights, patterns, labels = instance_with_errors(0)
        flipped = labels.copy()
        hidden = np.abs(patterns @ weights.T).min(axis=1)
        flipped[np.argsort(hidden)[:3]] *= -1
        hard, allowing = (local_entropy(weights, patterns, y, [0.5], method=method).phi[0] for y in (labels, flipped))
        assert allowing > hard

    @pytest.mark.parametrize("options", [{}, {"beta": 1.3}], ids=["count", "cost"])
    def test_distance_is_the_derivative(self, method, options):
        """``d = Δ² ∂_Δ log Z/n + Δ/2`` of the same measure as log Z: all digits for EP, O(1/N) for BP."""
        problem = instance_with_errors(3)
        delta, h = 0.5, 1e-4
        grid = [delta * (1 - h), delta, delta * (1 + h)]
        curve = local_entropy(*problem, grid, method=method, tolerance=1e-11, **options)
        slope = (curve.log_z[2] - curve.log_z[0]) / (2 * h * delta)
        expected = delta**2 * slope + delta / 2
        assert_allclose(curve.distance[1], expected, rtol=1e-6 if method == "ep" else 0.5 / 101)

    @pytest.mark.parametrize("beta", [0.5, 2.0])
    def test_prior_samples(self, method, beta):
        """K = 1, N = 20: ``log ⟨e^{-β E}⟩`` over 1e6 samples of the prior, for a reference with 2 errors."""
        weights, patterns, labels = random_instance(20, 1, 12)
        labels[:2] *= -1
        rng = np.random.default_rng(0)
        samples = weights[0] + np.sqrt(0.5) * rng.standard_normal((1_000_000, 20))
        factors = np.exp(-beta * np.count_nonzero(samples @ patterns.T * labels <= 0, axis=1))
        sampled, error = np.log(factors.mean()), factors.std() / factors.mean() / 1e3
        log_z = local_entropy(weights, patterns, labels, [0.5], method=method, beta=beta).log_z[0] * 20
        assert_allclose(log_z, sampled, atol=4 * error + (0.03 if method == "ep" else 0.1) * abs(sampled))

    def test_no_jump_when_a_pattern_flips(self, method):
        """E(w) jumps from 0 to 1 where w crosses the boundary of a pattern; Φ moves by a few nats over KN weights."""
        weights, patterns, labels = instance_with_errors(0)
        flipping = np.argmin(np.abs(patterns @ weights.T).min(axis=1))
        other = labels.copy()
        other[flipping] *= -1
        right, wrong = (local_entropy(weights, patterns, y, [0.5], method=method).phi[0] for y in (labels, other))
        assert abs(right - wrong) * weights.size < 5
