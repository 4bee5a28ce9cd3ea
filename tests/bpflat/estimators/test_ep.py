"""Expectation propagation: exact cases, its plain twin, prior samples, stored solutions."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import norm

from bpflat import local_entropy
from bpflat.estimators import ep
from bpflat.estimators.problem import Problem
from tests.instances import random_instance
from tests.naive import committee as naive


def solve(weights, patterns, labels, delta, **options):
    return ep.solve(Problem.of(weights, patterns, labels), delta, **{"tolerance": 1e-11, **options})


class TestExactCases:
    def test_no_patterns(self):
        point = ep.solve(Problem.of(np.ones((3, 11)), np.empty((0, 11)), np.empty(0)), 0.7)
        assert point.converged and point.log_z == 0 and point.phi == 0

    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    @pytest.mark.parametrize("n_hidden", [1, 3, 9])
    def test_one_pattern(self, inputs, n_hidden):
        weights, patterns, labels = random_instance(31, n_hidden, 1, inputs=inputs)
        for delta in (0.1, 1.0, 4.0):
            agree = norm.cdf(labels[0] * (weights @ patterns[0]) / np.sqrt(delta * np.sum(patterns[0] ** 2)))
            log_z = solve(weights, patterns, labels, delta).log_z * weights.size
            assert_allclose(log_z, np.log(naive.majority(agree)), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("overlap", [-0.8, -0.2, 0.0, 0.5, 0.9])
    def test_two_patterns(self, overlap):
        """K = 1, w = 0: log(1/4 + asin(σ₁σ₂c)/2π), also for strong overlaps (4 % off at 0.9), unknown to BP."""
        n_inputs = 1000
        patterns = np.ones((2, n_inputs))
        patterns[1, : round(n_inputs * (1 - overlap) / 2)] = -1
        point = solve(np.zeros((1, n_inputs)), patterns, np.ones(2), 1.0)
        assert_allclose(
            point.log_z * n_inputs, np.log(0.25 + np.arcsin(overlap) / (2 * np.pi)), rtol=0.01 + 0.04 * (overlap > 0.8)
        )


class TestAgainstOthers:
    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    def test_naive(self, inputs):
        weights, patterns, labels = random_instance(21, 3, 12, inputs=inputs)
        log_z, distance = naive.expectation_propagation(weights, patterns, labels, 0.5, sweeps=200)
        point = solve(weights, patterns, labels, 0.5)
        assert_allclose([point.log_z, point.distance], [log_z, distance], rtol=1e-9)

    @pytest.mark.parametrize("n_patterns", [8, 15])
    def test_prior_samples(self, n_patterns):
        """K = 1, N = 20: EP, BP to O(1/N), Monte Carlo, against the fraction of 1e7 prior samples without errors."""
        weights, patterns, labels = random_instance(20, 1, n_patterns)
        delta, n_samples = 0.5, 10_000_000
        rng = np.random.default_rng(0)
        right = 0
        for _ in range(20):
            samples = weights[0] + np.sqrt(delta) * rng.standard_normal((n_samples // 20, 20))
            right += np.count_nonzero((samples @ patterns.T * labels > 0).all(axis=1))
        sampled, error = np.log(right / n_samples), np.sqrt((1 - right / n_samples) / right)
        by_ep, by_bp = (
            float(local_entropy(weights, patterns, labels, [delta], method=m).log_z[0]) * 20 for m in ("ep", "bp")
        )
        assert_allclose(by_ep, sampled, atol=4 * error + 0.005 * abs(sampled))  # EP's own error is below 0.5 % here
        assert_allclose(by_bp, sampled, rtol=0.1)
        mcmc = local_entropy(weights, patterns, labels, [delta], method="mcmc", seed=0)
        assert mcmc.converged[0]
        assert abs(20 * mcmc.log_z[0] - sampled) < 4 * np.hypot(20 * mcmc.std_error[0], error)

    def test_derivative_of_log_z_gives_the_distance(self):
        """``d = Δ² ∂_Δ log Z/n + Δ/2`` holds to all digits: EP's log Z is stationary in its sites."""
        weights, patterns, labels = random_instance(101, 5, 60)
        delta, h = 0.5, 1e-4
        up, here, down = (solve(weights, patterns, labels, delta * s) for s in (1 + h, 1, 1 - h))
        slope = (up.log_z - down.log_z) / (2 * h * delta)
        assert_allclose(delta**2 * slope + delta / 2, here.distance, rtol=1e-7)

    def test_warm_start_changes_nothing(self):
        problem = random_instance(101, 5, 60)
        warm = solve(*problem, 0.5, start=solve(*problem, 0.2))
        assert_allclose(warm.log_z, solve(*problem, 0.5).log_z, rtol=1e-10)

    def test_reports_what_did_not_converge(self):
        point = solve(*random_instance(51, 3, 25), 1.0, max_steps=1)
        assert not point.converged and np.isnan(point.phi)


class TestStoredSolutions:
    @pytest.mark.parametrize("index", range(3))
    def test_expected(self, stored, index):
        problems, expected = stored
        points = expected[index]["ep"]
        curve = local_entropy(*problems[index], [p["delta"] for p in points], method="ep")
        for name in ("distance", "log_z", "phi"):
            assert_allclose(getattr(curve, name), [p[name] for p in points], rtol=1e-6)

    @pytest.mark.parametrize("index", range(3))
    def test_whole_range_converges(self, stored, index):
        problems, _ = stored
        curve = local_entropy(*problems[index], [1e-3, 0.1, 1.0, 4.0], method="ep")
        assert curve.converged.all() and np.all(np.diff(curve.phi) < 0) and np.all(curve.phi < 0)


class TestWeakSites:
    """Patterns that pull by less than a rounding are left out of the linear algebra."""

    @pytest.mark.parametrize("by", ["unit", "tensors"])
    @pytest.mark.parametrize("n_strong", [0, 3, 20, 40])
    def test_covariance_and_determinant(self, n_strong, by, monkeypatch):
        """Few strong sites, none, most, positive and negative: the same as from the whole matrix."""
        rng = np.random.default_rng(n_strong)
        patterns = rng.choice([-1.0, 1.0], (40, 60))
        kernel = 0.3 * patterns @ patterns.T / 60
        tau = 10.0 ** rng.uniform(-320, -25, 40)
        tau[:n_strong] = rng.uniform(-0.3, 2.0, n_strong)
        whole = np.eye(40) + kernel * tau
        arrays = kernel, tau[None]
        if by == "tensors":  # as on a GPU
            monkeypatch.setattr(ep, "on_cpu", lambda array: False)
            arrays = tuple(map(torch.from_numpy, arrays))
        covariances = ep.covariances(*arrays)
        (sign,), (log_det,) = ep.log_determinants(*arrays, covariances.diagonal(0, 1, 2))
        covariance = np.asarray(covariances[0])
        assert_allclose(covariance, np.linalg.solve(whole, kernel), rtol=1e-12, atol=1e-14)
        expected = np.linalg.slogdet(whole)
        assert sign == expected[0]
        assert_allclose(log_det, expected[1] if n_strong else np.trace(kernel * tau), rtol=1e-12)
