"""Weights ±1: belief propagation and Monte Carlo against enumeration, on trees, and at large N against the theory."""

from dataclasses import replace
from functools import cache

import matplotlib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bpflat import binary, committee, theory
from bpflat.binary import BinaryEntropyCurve, FlipEnergyProfile
from bpflat.estimators import binary as node_form
from bpflat.estimators import flips
from bpflat.estimators.problem import Problem
from tests.naive.binary import Enumeration, relaxed_edges

matplotlib.use("Agg")
GAMMAS = [0.0, 0.4, 1.5]


def instance(n_hidden, n_inputs, n_patterns, *, inputs="binary", wrong=0, seed=0):
    """A reference ±1, patterns, and the reference's labels but for some wrong ones."""
    rng = np.random.default_rng([seed, n_hidden, n_inputs, n_patterns])
    weights, shape = rng.choice([-1.0, 1.0], (n_hidden, n_inputs)), (n_patterns, n_inputs)
    if inputs == "real":
        patterns = rng.normal(size=shape)
    else:
        patterns = rng.choice([-1.0, 1.0] if inputs == "binary" else [-2.0, 0.0, 2.0], shape)
    if inputs == "disjoint":  # no two patterns share an input
        patterns = np.where(np.arange(n_inputs) % n_patterns == np.arange(n_patterns)[:, None], 1.0, 0.0)
        patterns *= rng.choice([-1.0, 1.0], shape)
    labels = committee.predict(weights, patterns).astype(float)
    labels[:wrong] *= -1
    return weights, patterns, labels


TREES = {
    "one unit": instance(1, 9, 1),
    "even": instance(1, 8, 1),
    "three units": instance(3, 5, 1),
    "ties": instance(3, 6, 1, seed=3),
    "zeros": instance(3, 6, 1, inputs="zeros"),
    "disjoint": instance(3, 6, 2, inputs="disjoint"),
}
SMALL = {
    "loops": instance(3, 5, 4),
    "loops of one unit": instance(1, 15, 5),
    "loops and ties": instance(3, 4, 3),
    "real": instance(3, 5, 4, inputs="real"),
    "an error": instance(3, 5, 4, wrong=1),
    "two errors": instance(1, 14, 6, wrong=2),
}


@cache
def enumerated(name):
    """All machines on a problem."""
    return Enumeration(*(SMALL | TREES)[name])


def exact(name, gammas=GAMMAS, beta=None):
    """``log Z/n``, d and Φ at couplings, in the order of d."""
    return np.array([enumerated(name).measure(gamma, beta) for gamma in gammas[::-1]]).T


class TestEnumeration:
    @pytest.mark.parametrize("beta", [None, 0.7])
    @pytest.mark.parametrize("tree", TREES)
    def test_messages_are_exact_on_trees(self, tree, beta):
        curve = binary.local_entropy(*TREES[tree], GAMMAS, method="bp-edge", tolerance=1e-12, beta=beta)
        assert curve.converged.all()
        assert_allclose([curve.log_z, curve.distance, curve.phi], exact(tree, beta=beta), atol=1e-10, rtol=0)

    def test_messages_are_exact_on_trees_at_a_distance(self):
        curve = binary.local_entropy(*TREES["disjoint"], distances=[0.1, 0.3], method="bp-edge", tolerance=1e-12)
        assert_allclose(curve.distance, [0.1, 0.3], rtol=1e-9)
        assert_allclose(curve.phi, exact("disjoint", curve.gamma[::-1])[2], atol=1e-10)

    @pytest.mark.parametrize("beta", [None, 0.7])
    @pytest.mark.parametrize("name", SMALL)
    def test_monte_carlo(self, name, beta):
        """Φ within three standard errors; log Z and d, whose errors are not given, within about as much."""
        curve = binary.local_entropy(*SMALL[name], GAMMAS, method="mcmc", seed=1, n_samples=2000, beta=beta)
        log_z, distance, phi = exact(name, beta=beta)
        assert curve.converged.all()
        assert (np.abs(curve.phi - phi) < 3 * curve.std_error).all()
        assert (curve.std_error < 0.006).all()
        assert_allclose(curve.log_z, log_z, atol=0.004)
        assert_allclose(curve.distance, distance, atol=0.006)

    def test_coverage(self):
        """The 95 % intervals of Φ hold the exact value for 91 to 99 % of 200 seeds: 2.6 standard errors."""
        weights, patterns, labels = SMALL["an error"]
        problem, expected = Problem.of(weights, patterns, labels), exact("an error", [0.4])[2, 0]
        points = [flips.solve(problem, np.exp(-0.8), seed=seed, n_samples=200) for seed in range(200)]
        held = [abs(point.phi - expected) < 1.96 * point.std_error for point in points]
        assert 0.91 <= np.mean(held) <= 0.99

    @pytest.mark.parametrize("beta", [None, 0.7])
    @pytest.mark.parametrize("name", SMALL)
    def test_deviations(self, name, beta):
        """Belief propagation with 12 to 15 weights and loops is off by up to 0.05 nats per weight in Φ, 0.02 in d."""
        curve = binary.local_entropy(*SMALL[name], GAMMAS[:2], beta=beta)
        _, distance, phi = exact(name, GAMMAS[:2], beta=beta)
        assert_allclose(curve.phi, phi, atol=0.05)
        assert_allclose(curve.distance, distance, atol=0.02)

    @pytest.mark.parametrize("name", ["loops", "loops and ties", "zeros", "an error"])
    def test_local_energy(self, name):
        problem, chances = (SMALL | TREES)[name], [0.0, 1e-3, 0.2, 0.5, 1.0]
        expected = np.array([enumerated(name).rise(p) for p in chances]) / len(problem[2])
        profile = binary.local_energy(*problem, chances)
        assert_allclose(profile.delta_error, expected, atol=1e-13, rtol=1e-11)
        sampled = binary.local_energy(*problem, [0.2, 0.5], method="sampling", n_samples=500, seed=0)
        assert (np.abs(sampled.delta_error - expected[2:4]) < 3 * sampled.std_error).all()

    def test_local_energy_of_real_inputs(self):
        profile = binary.local_energy(*SMALL["real"], [0.1, 0.4], n_samples=1000, seed=0)
        expected = np.array([enumerated("real").rise(p) for p in (0.1, 0.4)]) / 4
        assert profile.n_samples == 1000 and (np.abs(profile.delta_error - expected) < 3 * profile.std_error).all()


class TestNodeForm:
    def test_without_edges(self):
        """Gaussian messages on edges have the same fixed point to O(1/N): n log Z differs by less than 0.04 nats."""
        for n_inputs in (31, 101):
            weights, patterns, labels = instance(3, n_inputs, n_inputs // 4)
            point = node_form.solve(Problem.of(weights, patterns, labels), np.exp(-1.0))
            field, log_z = relaxed_edges(weights, patterns, labels, 0.5, sweeps=100)
            assert_allclose(np.tanh(point.messages[0] + 0.5 * weights), np.tanh(field), atol=0.15 / n_inputs)
            assert_allclose(point.log_z * weights.size, log_z, atol=0.04)

    @pytest.mark.parametrize("n_inputs", [100, 101])
    def test_central_limit(self, n_inputs):
        """Exact counting, ties included, gives the same Φ to 1 % at N = 100: without the shift by half a step 5 %."""
        problem = instance(3, n_inputs, 20)
        curves = [binary.local_entropy(*problem, GAMMAS[:2], method=method) for method in ("bp", "bp-edge")]
        assert_allclose(curves[0].phi, curves[1].phi, rtol=0.01)

    @pytest.mark.parametrize("options", [{}, {"inputs": "real"}, {"wrong": 2}, {"beta": 0.8}, {"inputs": "zeros"}])
    def test_slope_is_the_distance(self, options):
        """``d(log Z/n)/dγ = q - tanh γ``: the free energy is stationary in all else."""
        beta = options.pop("beta", None)
        problem = Problem.of(*instance(3, 51, 20, **options), beta=beta)
        gammas = 0.5 + 1e-4 * np.array([-1, 0, 1])
        low, at, high = (node_form.solve(problem, np.exp(-2 * gamma), tolerance=1e-11) for gamma in gammas)
        slope = (high.log_z - low.log_z) / 2e-4
        assert at.converged and abs(slope - (1 - 2 * at.distance - np.tanh(0.5))) < 1e-8

    def test_replicas(self):
        """Mean and slope of weights under a centre are derivatives of their ψ; one replica is free of it."""
        field, step = np.array([-2.0, -0.1, 0.0, 0.3, 5.0]), 1e-5
        for y in (1.0, 3.5):
            low, at, high = (node_form.replicated(0.8, y, field + s) for s in (-step, 0.0, step))
            assert_allclose((high.log_z - low.log_z) / (2 * step), at.mean, atol=1e-9)
            assert_allclose((high.mean - low.mean) / (2 * step), at.slope, atol=1e-9)
            assert_allclose(at.variance, 1 - at.mean**2, atol=1e-12)
        free = node_form.anchored(0.0, field)
        for found, expected in zip(node_form.replicated(0.8, 1.0, field), free, strict=True):
            assert_allclose(found, expected, atol=1e-12)

    def test_far_and_near(self):
        """Φ → 0 at the reference, and at γ = 0 the reference does not matter: log fraction of all weights."""
        problem = instance(1, 101, 20)
        curve = binary.local_entropy(*problem, [0.0, 9.0])
        assert abs(curve.phi[0]) < 1e-9 and curve.distance[0] < 1e-7
        other = binary.local_entropy(-problem[0], *problem[1:], [0.0], beta=20.0)
        volume = binary.volume(*problem[1:])
        assert_allclose(curve.log_z[1], volume.log_z, rtol=1e-9)
        assert_allclose(other.log_z[0], volume.log_z, rtol=1e-4)

    def test_thousands_of_weights(self):
        problem = instance(3, 801, 120)
        curve = binary.local_entropy(*problem, distances=[0.02, 0.1, 0.4])
        assert curve.converged.all() and (np.diff(curve.phi) < 0).all()
        assert_allclose(curve.distance, [0.02, 0.1, 0.4], rtol=1e-9)


def random_labels(n_patterns, seed):
    """Labels by chance."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], n_patterns)


class TestTheory:
    """Random patterns of N = 401 inputs, eight instances: three standard errors."""

    @staticmethod
    def close(measured, expected):
        measured = np.array(measured)
        error = measured.std(axis=0, ddof=1) / np.sqrt(len(measured))
        assert (np.abs(measured.mean(axis=0) - expected) < 3 * error).all(), (measured.mean(axis=0), expected, error)
        assert (error < 0.04 * np.abs(expected)).all()

    @pytest.mark.parametrize("n_patterns", [120, 240])
    def test_volume(self, n_patterns):
        problems = (instance(1, 401, n_patterns, seed=s)[1] for s in range(8))
        points = [binary.volume(patterns, random_labels(n_patterns, s)) for s, patterns in enumerate(problems)]
        assert all(point.converged for point in points)
        self.close([p.log_z for p in points], theory.volume([n_patterns / 401], weights="binary").phi[0])

    def test_around_a_teacher(self):
        curves = [binary.local_entropy(*instance(1, 401, 200, seed=s), distances=[0.1, 0.3]) for s in range(8)]
        expected = theory.local_entropy(200 / 401, [0.1, 0.3], weights="binary")
        self.close([curve.phi for curve in curves], expected.phi)

    def test_beyond_capacity(self):
        rng = np.random.default_rng(0)
        point = binary.volume(rng.choice([-1.0, 1.0], (400, 401)), rng.choice([-1.0, 1.0], 400))
        assert not point.converged and np.isnan(point.phi)


class TestResults:
    def test_curve(self, tmp_path):
        weights, patterns, labels = instance(3, 21, 8)
        curve = binary.local_entropy(np.stack([weights, -weights]), patterns, labels, [0.2, 0.8])
        one = binary.local_entropy(-weights, patterns, labels, [0.2, 0.8])
        assert curve.phi.shape == (2, 2) and curve.train_error[1] == one.train_error > 0 == curve.train_error[0]
        assert_array_equal(curve.phi[1], one.phi)
        assert_allclose(curve.gamma, [[0.8, 0.2]] * 2, rtol=1e-15)
        curve.save(tmp_path / "curve.npz")
        assert BinaryEntropyCurve.load(tmp_path / "curve.npz") == curve
        assert len(curve.plot().lines) == 2
        with pytest.raises(ValueError, match="phi"):
            replace(curve, phi=curve.phi[0, :1]).check()

    def test_profile(self, tmp_path):
        problem = instance(3, 21, 8)
        profile = binary.local_energy(*problem, [0.0, 0.1])
        profile.save(tmp_path / "profile.npz")
        assert FlipEnergyProfile.load(tmp_path / "profile.npz") == profile
        assert profile.plot().get_xlabel() == profile.labels[0]

    def test_streams(self):
        """Points of Monte Carlo are the same whatever else is asked for."""
        weights, patterns, labels = instance(3, 11, 4)
        options = {"method": "mcmc", "seed": 3, "n_samples": 200}
        alone = binary.local_entropy(weights, patterns, labels, [0.5], **options)
        both = binary.local_entropy(np.stack([weights] * 2), patterns, labels, [0.1, 0.5], **options)
        assert_array_equal(both.phi[0, 0], alone.phi[0])
        assert both.phi[1, 0] != both.phi[0, 0]


WEIGHTS, PATTERNS, LABELS = instance(3, 7, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": WEIGHTS * 0.5}, r"weights must be -1 or \+1; found -?0.5.*Gaussian prior: bpflat.local_entropy"),
        ({"weights": WEIGHTS * 0}, "weights have a hidden unit"),
        ({"weights": WEIGHTS[:2]}, "must be odd"),
        ({"labels": LABELS * 0}, "labels must be -1 or"),
        ({"gammas": [0.5, 0.1]}, "gammas must rise"),
        ({"gammas": [-0.5]}, "gammas must be at least 0"),
        ({"gammas": [20.0]}, "gammas must lie between 0 and 13.8"),
        ({"gammas": None, "distances": [0.6]}, "distances must lie between 1e-12 and 0.5"),
        ({"distances": [0.2]}, "gammas and distances are both given"),
        ({"method": "ep"}, "method 'ep' is unknown"),
        ({"method": "bp-edge", "patterns": PATTERNS * np.arange(1.0, 8)}, "inputs of different sizes"),
        ({"method": "bp-edge", "labels": -LABELS}, "1 of 1 references make training errors"),
        ({"beta": -1.0}, "beta must be"),
    ],
)
def test_refusals(changes, message):
    arguments = {"weights": WEIGHTS, "patterns": PATTERNS, "labels": LABELS, "gammas": [0.5]} | changes
    with pytest.raises(ValueError, match=message):
        binary.local_entropy(**arguments)


def test_refusals_of_others():
    with pytest.raises(ValueError, match="n_hidden is 2; it must be odd"):
        binary.volume(PATTERNS, LABELS, 2)
    with pytest.raises(ValueError, match="flip_probabilities must lie between 0 and 1"):
        binary.local_energy(WEIGHTS, PATTERNS, LABELS, [0.1, 1.2])
    with pytest.raises(ValueError, match="inputs of different sizes"):
        binary.local_energy(WEIGHTS, PATTERNS * np.arange(1.0, 8), LABELS, [0.1], method="exact")
