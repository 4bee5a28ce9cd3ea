"""Monte Carlo: known log Z, honest standard errors, direct sampling of the prior on a trained machine."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from bpflat import local_entropy
from bpflat.bp import make_nodes
from bpflat.mcmc import sample_log_z
from tests import naive
from tests.test_bp import random_instance
from tests.test_entropy import stored  # noqa: F401  (a fixture)


def sample(weights, patterns, labels, delta, **options):
    nodes = make_nodes(weights, patterns)
    return sample_log_z(nodes.hidden, nodes.gram, labels, weights.shape[1], delta, **{"seed": 0, **options})


def prior_errors(weights, patterns, labels, delta, n_samples, seed=0):
    """Numbers of errors of independent samples of the prior."""
    rng = np.random.default_rng(seed)
    wrong = []
    for _ in range(n_samples // 200):
        samples = weights + np.sqrt(delta) * rng.standard_normal((200, *weights.shape))
        votes = np.count_nonzero(patterns @ samples.swapaxes(1, 2) >= 0, axis=2)
        wrong.append(np.count_nonzero((2 * votes > len(weights)) != (labels > 0), axis=1))
    return np.concatenate(wrong)


def assert_within(point, expected, n_weights, errors=4):
    """`errors` standard errors of log Z; a seeded run, so it either always passes or never."""
    assert point.converged
    assert abs(point.log_z * n_weights - expected) < errors * point.std_error * n_weights


class TestKnownAnswers:
    @pytest.mark.parametrize("n_hidden", [1, 3, 9])
    def test_one_pattern(self, n_hidden):
        weights, patterns, labels = random_instance(31, n_hidden, 1)
        agree = norm.cdf(labels[0] * (weights @ patterns[0]) / np.sqrt(2.0 * np.sum(patterns[0] ** 2)))
        point = sample(weights, patterns, labels, 2.0, n_samples=2000)
        assert_within(point, np.log(naive.majority(agree)), weights.size)

    @pytest.mark.parametrize("overlap", [-0.8, 0.0, 0.9])
    def test_two_patterns(self, overlap):
        patterns = np.ones((2, 100))
        patterns[1, : round(50 * (1 - overlap))] = -1
        point = sample(np.zeros((1, 100)), patterns, np.ones(2), 1.0, n_samples=4000)
        assert_within(point, np.log(0.25 + np.arcsin(overlap) / (2 * np.pi)), 100)

    def test_standard_error_is_honest(self):
        """Over 20 seeds the deviations in standard errors have mean 0 and variance 1, within 3 of their own errors."""
        weights, patterns, labels = random_instance(20, 1, 8)
        points = [sample(weights, patterns, labels, 0.5, n_samples=500, seed=s) for s in range(20)]
        log_z = np.array([p.log_z for p in points])
        right = np.mean(prior_errors(weights, patterns, labels, 0.5, 400_000) == 0)
        scores = (log_z - np.log(right) / 20) / np.array([p.std_error for p in points])
        assert abs(scores.mean()) < 3 / np.sqrt(20)
        assert 0.4 < scores.std() < 1.7

    def test_distance(self):
        """Distance of the solutions, directions outside the patterns' span included."""
        weights, patterns, labels = random_instance(101, 3, 10)
        point = sample(weights, patterns, labels, 1.0, n_samples=4000)
        expected = local_entropy(weights, patterns, labels, [1.0], method="ep").distance[0]
        assert_allclose(point.distance, expected, rtol=2e-3)

    def test_no_event_is_no_certainty(self):
        point = sample(*random_instance(201, 3, 2), 1e-6, n_samples=200)
        assert point.log_z == 0 and point.std_error == pytest.approx(1 / (800 * 603))


class TestErrors:
    @pytest.mark.parametrize("beta", [0.5, 2.0])
    def test_given_beta(self, beta):
        weights, patterns, labels = random_instance(20, 1, 12)
        labels[:2] *= -1
        factors = np.exp(-beta * prior_errors(weights, patterns, labels, 0.5, 400_000))
        point = sample(weights, patterns, labels, 0.5, beta=beta, n_errors=2, n_samples=4000)
        assert_within(point, np.log(factors.mean()), 20)

    def test_balanced(self):
        """The mean number of errors is the reference's, as for the other methods, and Φ agrees with theirs."""
        weights, patterns, labels = random_instance(101, 5, 60)
        labels[:3] *= -1
        curves = {m: local_entropy(weights, patterns, labels, [0.5], method=m, seed=0) for m in ("bp", "ep", "mcmc")}
        point = sample(weights, patterns, labels, 0.5, n_errors=3)
        assert_allclose(point.errors * weights.size, 3, rtol=1e-6)
        assert_allclose(curves["mcmc"].phi, curves["ep"].phi, rtol=0.05)
        assert_allclose(curves["bp"].phi, curves["ep"].phi, rtol=0.05)
        assert_allclose(curves["mcmc"].beta, curves["ep"].beta, rtol=0.1)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_errors_that_nothing_mends(self, seed):
        """Two patterns far on the wrong side: no state makes fewer errors; Φ is the log fraction that makes no more."""
        weights, patterns, labels = random_instance(201, 3, 2000)
        margin = np.abs(patterns @ weights.T / np.sqrt(201)).min(axis=1)  # in units where the noise is 0.22
        chosen = np.concatenate([margin.argsort()[-2:], np.flatnonzero((margin > 0.3) & (margin < 0.4))[:10]])
        patterns, labels = patterns[chosen], labels[chosen]
        labels[:2] *= -1
        errors = prior_errors(weights, patterns, labels, 0.05, 100_000)
        assert errors.min() == 2
        fraction = np.mean(errors == 2)
        assert 0.5 < fraction < 0.99
        point = sample(weights, patterns, labels, 0.05, n_errors=2, n_samples=1000, seed=seed)
        assert point.converged
        assert abs(point.phi * weights.size - np.log(fraction)) < 4 * point.std_error * weights.size

    def test_nothing_constrained(self):
        weights, patterns, labels = random_instance(51, 3, 10)
        point = sample(weights, patterns, labels, 0.01, n_errors=5, n_samples=200)
        assert point.beta == 0 and point.log_z == 0


class TestCall:
    def test_seeds(self):
        """A point's numbers depend on seed, reference and place in the grid only, not on threads or company."""
        weights, patterns, labels = random_instance(31, 3, 12)
        other = weights + 0.001
        options = {"method": "mcmc", "seed": 3, "n_samples": 200}
        alone = local_entropy(weights, patterns, labels, [0.1, 1.0], **options)
        threads = local_entropy(weights, patterns, labels, [0.1, 1.0], n_jobs=2, **options)
        both = local_entropy([weights, other], patterns, labels, [0.1, 1.0], **options)
        assert_array_equal(alone.phi, threads.phi)
        assert_array_equal(alone.phi, both.phi[0])
        assert np.all(alone.std_error > 0)
        assert np.all(alone.phi != local_entropy(weights, patterns, labels, [0.1, 1.0], **options | {"seed": 4}).phi)

    def test_at_distances(self):
        problem = random_instance(101, 3, 50)
        curve = local_entropy(*problem, distances=[0.05, 0.2], method="mcmc", seed=0)
        assert_allclose(curve.distance, [0.05, 0.2], rtol=5e-3)


class TestTrainedMachine:
    def test_against_direct_sampling(self, stored):  # noqa: F811
        """SGD slow, Δ = 0.1: more than half of the prior's samples make no error, so they can simply be counted."""
        problems, _ = stored
        right = np.count_nonzero(prior_errors(*problems[1], 0.1, 4000) == 0)
        counted, error = np.log(right / 4000), np.sqrt((1 - right / 4000) / right)
        point = sample(*problems[1], 0.1, n_samples=1000)
        difference = point.log_z * 7056 - counted
        assert abs(difference) < 4 * np.hypot(error, point.std_error * 7056)
