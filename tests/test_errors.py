"""References that make training errors: softened patterns, balanced so that the mean number of errors is theirs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit
from scipy.stats import norm

from bpflat import local_entropy
from bpflat.bp.errors import balance, tolerant_output_node
from tests import naive
from tests.test_bp import random_instance

METHODS = ("bp", "ep")


def instance_with_errors(n_errors, **options):
    weights, patterns, labels = random_instance(101, 5, 60, **options)
    labels[:n_errors] *= -1
    return weights, patterns, labels


class TestOutputNode:
    def test_derivatives_of_the_softened_factor(self):
        rng = np.random.default_rng(0)
        omega, variance, label = rng.normal(size=(1, 5)), rng.uniform(0.5, 2, size=(1, 5)), np.ones(1)
        here, h = tolerant_output_node(omega, variance, label, beta=1.5), 1e-5
        z = naive.majority(norm.cdf(omega[0] / np.sqrt(variance[0])))
        assert_allclose(here.log_z, np.log(z + np.exp(-1.5) * (1 - z)), rtol=1e-12)
        assert_allclose(here.errors, np.exp(-1.5) * (1 - z) / (z + np.exp(-1.5) * (1 - z)), rtol=1e-12)
        for k in range(5):
            step = h * (np.arange(5) == k)
            up, down = (tolerant_output_node(omega + s * step, variance, label, beta=1.5) for s in (1, -1))
            assert_allclose((up.log_z - down.log_z) / (2 * h), here.g[0, k], rtol=1e-7)
            assert_allclose((down.g[0, k] - up.g[0, k]) / (2 * h), here.curvature[0, k], rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("spread", [1.0, 30.0, 600.0])
    def test_balance(self, spread):
        """The mean number of errors is the wanted one; where all odds are extreme, the last error still balances."""
        rng = np.random.default_rng(1)
        odds = spread * rng.normal(-2, 1, size=200)
        wrong = 5
        log_s = balance(odds, wrong)
        assert log_s <= 0
        assert_allclose(expit(log_s + odds).sum(), min(wrong, expit(odds).sum()), rtol=1e-9)

    def test_nothing_is_constrained_where_the_prior_is_no_worse(self):
        outputs = tolerant_output_node(np.full((10, 3), 2.0), np.ones((10, 3)), np.ones(10), n_errors=4)
        assert outputs.beta == 0 and np.all(np.abs(outputs.log_z) < 1e-15) and np.all(outputs.g == 0)


@pytest.mark.parametrize("method", METHODS)
class TestCurves:
    def test_large_beta_is_hard(self, method):
        """Without errors, e^{-β} below the rounding of 1 changes nothing."""
        problem = instance_with_errors(0)
        soft, hard = (local_entropy(*problem, [0.1, 1.0], method=method, beta=b) for b in (60.0, None))
        assert_allclose(soft.phi, hard.phi, rtol=1e-7)
        assert np.all(np.isinf(hard.beta)) and np.all(soft.beta == 60.0)

    @pytest.mark.parametrize("n_errors", [1, 5])
    def test_physics(self, method, n_errors):
        problem = instance_with_errors(n_errors)
        curve = local_entropy(*problem, np.geomspace(1e-3, 4, 8), method=method)
        assert curve.train_error == n_errors / 60
        assert curve.converged.all() and np.all(curve.phi <= 0) and np.all(np.diff(curve.phi) < 0)
        assert np.all(curve.beta > 0)

    def test_more_errors_allow_more(self, method):
        """The labels of a reference with errors are easier to keep than those of one without: Φ is larger."""
        weights, patterns, labels = instance_with_errors(0)
        flipped = labels.copy()
        hidden = np.abs(patterns @ weights.T).min(axis=1)
        flipped[np.argsort(hidden)[:3]] *= -1
        hard, allowing = (local_entropy(weights, patterns, y, [0.5], method=method).phi[0] for y in (labels, flipped))
        assert allowing > hard

    def test_distance_is_the_derivative(self, method):
        """At fixed β, ``d = Δ² ∂_Δ log Z/n + Δ/2``: all digits for EP, O(1/N) for BP."""
        problem = instance_with_errors(3)
        delta, h = 0.5, 1e-4
        grid = [delta * (1 - h), delta, delta * (1 + h)]
        curve = local_entropy(*problem, grid, method=method, beta=1.3, tolerance=1e-11)
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
        """As w crosses the boundary of one pattern E(w) jumps from 0 to 1; Φ moves by a few nats over KN weights."""
        weights, patterns, labels = instance_with_errors(0)
        flipping = np.argmin(np.abs(patterns @ weights.T).min(axis=1))
        other = labels.copy()
        other[flipping] *= -1
        right, wrong = (local_entropy(weights, patterns, y, [0.5], method=method).phi[0] for y in (labels, other))
        assert abs(right - wrong) * weights.size < 5
