"""local_entropy without a reference: the volume of all solutions under N(0, Δ)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bpflat import LocalEntropyCurve, local_entropy
from bpflat.bp import make_nodes, solve_nodes
from tests.instances import random_instance
from tests.naive import committee as naive

METHODS = ("bp", "bp-edge", "ep", "mcmc")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_hidden", [1, 3])
def test_one_pattern(method, n_hidden):
    """Half of all weights."""
    pattern = np.random.default_rng(0).normal(size=(1, 7))
    options = {"n_samples": 2000, "seed": 1} if method == "mcmc" else {}
    curve = local_entropy(None, pattern, [1], [0.1, 1.0], n_hidden=n_hidden, method=method, **options)
    n = 7 * n_hidden
    error = 3 * curve.std_error if method == "mcmc" else 1e-12
    assert (np.abs(curve.log_z + np.log(2) / n) < error).all()
    assert curve.n_weights == n and curve.train_error == 0 and curve.reference == ""


@pytest.mark.parametrize("method", ["ep", "mcmc"])
def test_two_patterns(method):
    """Exact by quadrants; expectation propagation is close."""
    _, patterns, labels = random_instance(9, 3, 2, inputs="gauss", seed=3)
    options = {"n_samples": 4000, "seed": 1} if method == "mcmc" else {}
    curve = local_entropy(None, patterns, labels, [1.0], n_hidden=3, method=method, **options)
    exact = naive.two_patterns(np.zeros((3, 9)), patterns, labels, 1.0)[0] / 27
    error = 3 * curve.std_error[0] if method == "mcmc" else 1e-3 * abs(exact)
    assert abs(curve.log_z[0] - exact) < error


def test_counting():
    """Solutions among plain samples of the prior; BP and EP miss some of the correlations of three units."""
    _, patterns, labels = random_instance(40, 3, 8)
    hidden = np.random.default_rng(5).normal(size=(400_000, 3, 8)) @ np.linalg.cholesky(patterns @ patterns.T / 40).T
    n_right = np.count_nonzero(np.all((np.count_nonzero(hidden >= 0, axis=1) >= 2) == (labels > 0), axis=1))
    expected, error = np.log(n_right / len(hidden)) / 120, n_right**-0.5 / 120
    sampled, *solved = (
        local_entropy(None, patterns, labels, distances=[0.5], n_hidden=3, method=method, n_samples=2000, seed=0)
        for method in ("mcmc", "bp", "ep")
    )
    assert sampled.converged.all() and sampled.std_error[0] < 0.02 * abs(expected)
    assert abs(sampled.log_z[0] - expected) < 3 * np.hypot(error, sampled.std_error[0])
    assert_allclose(sampled.delta, 1.0, rtol=1e-9)
    assert abs(sampled.distance[0] - 0.5) < 0.01
    for curve in solved:
        assert_allclose(curve.log_z, expected, rtol=0.03)


def test_monte_carlo_agrees_with_expectation_propagation():
    """The volume of a perceptron, for which the latter is nearly exact."""
    _, patterns, labels = random_instance(40, 1, 15)
    sampled, solved = (
        local_entropy(None, patterns, labels, [1.0], n_hidden=1, method=method, n_samples=2000, seed=0)
        for method in ("mcmc", "ep")
    )
    assert sampled.converged.all() and sampled.std_error[0] < 0.03 * abs(sampled.phi[0])
    assert abs(sampled.phi[0] - solved.phi[0]) < 3 * sampled.std_error[0]


@pytest.mark.parametrize("method", ["bp", "ep"])
def test_the_norm_of_the_weights_does_not_matter(method):
    """The same log Z at any Δ, d = Δ/2 and Φ = log Z (for belief propagation to O(1/N))."""
    _, patterns, labels = random_instance(101, 3, 50)
    curve = local_entropy(None, patterns, labels, [1e-12, 1e-3, 1.0, 1e12], n_hidden=3, method=method)
    assert_allclose(curve.log_z, curve.log_z[0], rtol=1e-7)
    assert_allclose(curve.distance, curve.delta / 2, rtol=1e-3 if method == "bp" else 1e-9)
    assert_allclose(curve.phi, curve.log_z, rtol=1e-5)
    alone = local_entropy(None, patterns, labels, [1.0], n_hidden=3, method=method)
    assert_allclose(curve.phi[2], alone.phi[0], rtol=1e-9)


def test_agrees_with_the_routine():
    _, patterns, labels = random_instance(51, 3, 20, inputs="gauss")
    curve = local_entropy(None, patterns, labels, [0.7], n_hidden=3)
    point = solve_nodes(make_nodes(np.zeros((3, 51)), patterns), labels, 0.7)
    assert_allclose([curve.log_z[0], curve.distance[0]], [point.log_z, point.distance], rtol=1e-12)


def test_together():
    """References solved through torch, with a cost of errors and cumulants: the same as alone."""
    _, patterns, labels = random_instance(51, 3, 20)
    options = {"n_hidden": 3, "beta": 2.0, "betas": [0.0, 1.0]}
    alone, together = (
        local_entropy(None, patterns, labels, [0.5, 1.0], **options, **more) for more in ({}, {"device": "cpu"})
    )
    assert_allclose(together.phi, alone.phi, rtol=1e-9)
    assert_allclose(together.cumulants().log_mean_exp, alone.cumulants().log_mean_exp, rtol=1e-9, atol=1e-9)


def test_scales():
    """A prior on some weights alone is that of a smaller machine."""
    _, patterns, labels = random_instance(51, 3, 20)
    scale = np.zeros((3, 51))
    scale[:, :30] = 2.0
    part = local_entropy(None, patterns, labels, [1.0], n_hidden=3, prior_scale=scale)
    small = local_entropy(None, patterns[:, :30], labels, [1.0], n_hidden=3)
    assert part.n_weights == 90
    assert_allclose(part.log_z, small.log_z, rtol=1e-7)


def test_file(tmp_path):
    curve = local_entropy(None, [[1.0, -1.0, 1.0]], [1], [1.0], n_hidden=1)
    curve.save(tmp_path / "curve.npz")
    assert LocalEntropyCurve.load(tmp_path / "curve.npz") == curve


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_hidden": None}, "weights are None, which stands for no reference; then give n_hidden"),
        ({"n_hidden": 4}, "K must be odd"),
        ({"n_hidden": 0}, "n_hidden must be a whole number, at least 1"),
        ({"n_hidden": 2.5}, "n_hidden must be a whole number"),
        ({"weights": np.ones((3, 5))}, "weights and n_hidden are both given"),
        ({"prior_scale": "multiplicative"}, "prior_scale 'multiplicative' needs a reference"),
        ({"prior_scale": np.full((3, 5), 1e13)}, "prior_scale must be at most 1e[+]12"),
        ({"patterns": np.zeros((2, 5))}, "patterns hold one of zeros only"),
        ({"patterns": np.ones(5)}, r"patterns must have shape \(P, N\)"),
    ],
)
def test_bad_input(change, message):
    given = {"weights": None, "patterns": np.ones((2, 5)), "labels": [1, 1], "deltas": [1.0], "n_hidden": 3}
    with pytest.raises(ValueError, match=message):
        local_entropy(**given | change)
