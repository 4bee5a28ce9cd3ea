"""Monte Carlo: known log Z, honest standard errors, direct sampling of the prior on a trained machine."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from bpflat import local_entropy
from bpflat.estimators import monte_carlo
from bpflat.estimators.problem import Problem
from tests.instances import random_instance
from tests.naive import committee as naive


def sample(weights, patterns, labels, delta, *, n_errors=0, beta=None, **options):
    problem = replace(Problem.of(weights, patterns, labels, beta=beta), n_errors=np.array(n_errors))
    return monte_carlo.solve(problem, delta, **{"seed": 0, **options})


def prior_errors(weights, patterns, labels, delta, n_samples, seed=0):
    """Numbers of errors of independent samples of the prior."""
    rng = np.random.default_rng(seed)
    wrong = []
    for _ in range(n_samples // 200):
        samples = weights + np.sqrt(delta) * rng.standard_normal((200, *weights.shape))
        votes = np.count_nonzero(patterns @ samples.swapaxes(1, 2) >= 0, axis=2)
        wrong.append(np.count_nonzero((2 * votes > len(weights)) != (labels > 0), axis=1))
    return np.concatenate(wrong)


def exact_phi(weights, patterns, labels, delta, n_errors, h=1e-3):
    """Φ of two patterns, with d from the derivative of the exact log Z, to h²."""
    log_z, up, down = (naive.two_patterns(weights, patterns, labels, delta * s)[n_errors] for s in (1, 1 + h, 1 - h))
    excess = (up - down) / h / weights.size  # 2 Δ ∂_Δ log Z/n
    return log_z / weights.size + 0.5 * (excess - np.log1p(excess))


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

    @pytest.mark.parametrize("n_errors", [0, 1])
    @pytest.mark.parametrize("n_hidden", [1, 3])
    def test_coverage(self, n_hidden, n_errors):
        """The 95 % intervals of Φ of 92 to 98 % of 400 seeds (2.8 standard errors) hold the exact value."""
        weights, patterns, labels = random_instance(20, n_hidden, 2)
        labels[:n_errors] *= -1
        exact = exact_phi(weights, patterns, labels, 2.0, n_errors)
        points = [sample(weights, patterns, labels, 2.0, n_errors=n_errors, n_samples=300, seed=s) for s in range(400)]
        assert all(p.converged for p in points)
        held = [abs(p.phi - exact) < 1.96 * p.std_error for p in points]
        assert 0.92 <= np.mean(held) <= 0.98

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

    def test_methods_agree(self):
        """Three of 60 labels turned, which the reference gets wrong: Φ and d by all methods."""
        weights, patterns, labels = random_instance(101, 5, 60)
        labels[:3] *= -1
        curves = {m: local_entropy(weights, patterns, labels, [0.5], method=m, seed=0) for m in ("bp", "ep", "mcmc")}
        for method in ("bp", "ep"):
            assert_allclose(curves[method].phi, curves["mcmc"].phi, rtol=0.05)
            assert_allclose(curves[method].distance, curves["mcmc"].distance, rtol=5e-3)
        assert {c.measure for c in curves.values()} == {"count"}

    @pytest.mark.parametrize("beta", [40.0, 1000.0])
    def test_large_beta(self, beta):
        """A cost so large that no error is left is a hard constraint, wherever the ladder ends."""
        weights, patterns, labels = random_instance(31, 3, 12)
        soft, hard = (sample(weights, patterns, labels, 1.0, beta=b, n_samples=2000) for b in (beta, None))
        assert soft.converged and soft.beta == beta
        assert abs(soft.log_z - hard.log_z) < 4 * np.hypot(soft.std_error, hard.std_error)

    @pytest.mark.parametrize("beta", [5.0, None])
    def test_a_ladder_that_ends_too_early_is_not_converged(self, beta, monkeypatch):
        """Its end comes before the β that was given, or before the states that are counted."""
        monkeypatch.setattr(monte_carlo, "_LONGEST", 3)
        problem = random_instance(101, 3, 100)
        options = {"method": "mcmc", "beta": beta, "seed": 0, "n_samples": 200}
        curve = local_entropy(*problem, [1.0], **options)
        assert not curve.converged[0] and np.isnan(curve.phi[0])

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
        assert point.log_z == 0 and point.std_error == pytest.approx(1 / (800 * 153))


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

    def test_the_size_of_a_pattern_does_not_matter(self):
        """A pattern a million times smaller than the others is kept like any other."""
        weights, patterns, labels = random_instance(101, 3, 8)
        sizes = np.array([1e-6, 1, 1, 1e6, 1, 1, 1, 1])[:, None]
        plain, scaled = (sample(weights, x, labels, 0.5, n_samples=500) for x in (patterns, sizes * patterns))
        assert_allclose([scaled.log_z, scaled.distance], [plain.log_z, plain.distance], rtol=1e-9)


class TestTrainedMachine:
    def test_against_direct_sampling(self, stored):
        """SGD slow, Δ = 0.1: more than half of the prior's samples make no error, so they can simply be counted."""
        problems, _ = stored
        right = np.count_nonzero(prior_errors(*problems[1], 0.1, 4000) == 0)
        counted, error = np.log(right / 4000), np.sqrt((1 - right / 4000) / right)
        point = sample(*problems[1], 0.1, n_samples=1000)
        difference = point.log_z * 7056 - counted
        assert abs(difference) < 4 * np.hypot(error, point.std_error * 7056)
