"""Belief propagation on random patterns against the theory, within three standard errors over instances."""

import matplotlib
import numpy as np
import pytest

from bpflat import local_entropy, theory
from tests.instances import random_instance

matplotlib.use("Agg")
N, N_INSTANCES = 600, 8


def assert_within_errors(measured, expected):
    """Means over instances, the first axis, within three standard errors, which must be small."""
    measured = np.asarray(measured)
    error = measured.std(axis=0, ddof=1) / np.sqrt(len(measured))
    assert (np.abs(measured.mean(axis=0) - expected) < 3 * error).all(), (measured.mean(axis=0), expected, error)
    assert (error < 0.05 * np.abs(expected)).all()


def instances(alpha, labels, n_inputs=N):
    """Teachers (1, N), patterns and labels by them or by chance."""
    for seed in range(N_INSTANCES):
        teacher, patterns, given = random_instance(n_inputs, 1, int(alpha * n_inputs), seed=seed)
        if labels == "random":
            given = np.random.default_rng(seed).choice([-1.0, 1.0], len(patterns))
        yield teacher, patterns, given


@pytest.mark.parametrize(
    ("labels", "alpha", "method"),
    [
        ("random", 0.5, "bp"),
        ("random", 1.0, "bp"),
        ("teacher", 1.0, "bp"),
        ("teacher", 2.0, "bp"),
        ("random", 0.5, "ep"),
    ],
)
def test_volume(labels, alpha, method):
    """The volume without a reference, under N(0, 1)."""
    curves = [
        local_entropy(None, patterns, given, [1.0], n_hidden=1, method=method)
        for _, patterns, given in instances(alpha, labels)
    ]
    assert all(curve.converged for curve in curves)
    assert_within_errors([curve.phi[0] for curve in curves], theory.volume([alpha], labels=labels).phi[0])


def test_around_a_teacher():
    alpha, distances = 0.5, [0.05, 0.25, 1.0]
    curves = [local_entropy(*instance, distances=distances) for instance in instances(alpha, "teacher")]
    expected = theory.local_entropy(alpha, distances)
    assert_within_errors([curve.phi for curve in curves], expected.phi)
    assert_within_errors([curve.log_z for curve in curves], expected.log_z)
    assert_within_errors([1 / curve.delta for curve in curves], expected.coupling)


def test_around_typical_solutions():
    """References drawn uniformly from the solutions of random labels."""
    alpha, distances, n_inputs = 0.8, [0.05, 0.25, 1.0], 300
    curves = []
    for seed, (_, patterns, labels) in enumerate(instances(alpha, "random", n_inputs)):
        reference = typical_solution(patterns, labels, np.random.default_rng(seed))
        curves.append(local_entropy(reference, patterns, labels, distances=distances))
    assert all(curve.train_error == 0 and curve.converged.all() for curve in curves)
    expected = theory.local_entropy(alpha, distances, reference="typical").phi
    assert_within_errors([curve.phi for curve in curves], expected)
    around_teachers = theory.local_entropy(alpha, distances).phi  # a difference that the test must see
    with pytest.raises(AssertionError):
        assert_within_errors([curve.phi for curve in curves], around_teachers)


def typical_solution(patterns, labels, rng, n_moves=30):
    """A solution (1, N) of the perceptron, uniform in direction: exact Hamiltonian moves of a truncated Gaussian.

    Between walls the weights turn, ``w cos t + v sin t``; at a wall x_μ·w = 0 the velocity v is reflected (Pakman and
    Paninski 2014).
    """
    x = labels[:, None] * patterns
    gram = x @ x.T
    w = rng.normal(size=x.shape[1])
    while (wrong := np.flatnonzero(x @ w <= 0)).size:  # the perceptron rule
        w += x[wrong[0]]
    for _ in range(n_moves):
        v, left = rng.normal(size=len(w)), np.pi / 2
        field, rate = x @ w, x @ v
        while True:
            # x_μ·w ∝ cos(t − φ) falls to zero at φ + π/2; a wall that was just left is π away
            hit = np.mod(np.arctan2(rate, field) + np.pi / 2, np.pi)
            hit[hit < 1e-9] = np.pi
            wall = np.argmin(hit)
            t = min(hit[wall], left)
            w, v = w * np.cos(t) + v * np.sin(t), v * np.cos(t) - w * np.sin(t)
            field, rate = field * np.cos(t) + rate * np.sin(t), rate * np.cos(t) - field * np.sin(t)
            left -= t
            if left <= 0:
                break
            bounce = 2 * rate[wall] / gram[wall, wall]
            v, rate = v - bounce * x[wall], rate - bounce * gram[wall]
            field[wall] = 0.0
    return w[None]
