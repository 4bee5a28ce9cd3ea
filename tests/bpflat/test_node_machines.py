"""Machines with other output nodes: every method against exact cases, counting, theory and one another."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_ndtr

from bpflat import LocalEntropyCurve, committee, local_entropy, nodes, theory
from bpflat.bp import make_nodes, solve_edges, solve_nodes
from tests.naive import committee as naive
from tests.output_nodes import NODES, energies_of_sets

SMALL = {
    "lead": nodes.majority(3, lead=3),
    "margin": nodes.majority(3, margin=0.4),
    "ties right": nodes.majority(4, ties="right"),
    "ties by coin": nodes.majority(4, ties="coin"),
    "parity": nodes.parity(2),
    "cross-entropy": nodes.cross_entropy(3, omega=1.0, beta=2.0),
    "weights": nodes.weighted([1.0, -0.7, 0.5]),
}
SAMPLING = {"n_samples": 1500, "seed": 0}


def instance(node, n_inputs=31, n_patterns=6, seed=0):
    """A reference with the labels of least energy."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(node.n_hidden, n_inputs))
    weights *= np.sqrt(n_inputs) / np.linalg.norm(weights, axis=1, keepdims=True)
    patterns = rng.choice([-1.0, 1.0], (n_patterns, n_inputs))
    hidden = weights @ patterns.T / np.sqrt(n_inputs)
    energies = [node.energy(hidden, np.full(n_patterns, label)) for label in (1.0, -1.0)]
    return weights, patterns, np.where(energies[0] <= energies[1], 1.0, -1.0), hidden


def counted(node, hidden, patterns, labels, delta, allowed, n_samples=200_000):
    """Log Z and its standard error from samples of the prior: those of few enough errors, or all by their factors."""
    lower = np.linalg.cholesky(patterns @ patterns.T / patterns.shape[1])
    sampled = hidden + np.sqrt(delta) * np.random.default_rng(7).normal(size=(n_samples, *hidden.shape)) @ lower.T
    energies = node.energy(sampled, labels)
    factors = np.isinf(energies).sum(axis=-1) <= allowed if node.is_hard else np.exp(-energies.sum(axis=-1))
    return np.log(factors.mean()), factors.std() / factors.mean() / np.sqrt(n_samples)


@pytest.mark.parametrize("name", SMALL)
def test_counting(name):
    """Monte Carlo within three standard errors; EP and BP, on 31 inputs, within 3 and 6 per cent and these errors.

    Within 10 where the reference makes errors, which both count as if patterns were independent.
    """
    node, delta = SMALL[name], 0.5
    weights, patterns, labels, hidden = instance(node)
    n_errors = np.isinf(node.energy(hidden, labels)).sum()
    expected, error = counted(node, hidden, patterns, labels, delta, n_errors)
    n = weights.size
    for method, bias in (("mcmc", 0.0), ("ep", 0.1 if n_errors else 0.03), ("bp", 0.1 if n_errors else 0.06)):
        curve = local_entropy(weights, patterns, labels, [delta], node=node, method=method, **SAMPLING)
        assert curve.converged.all() and curve.train_error == n_errors / len(labels)
        own = curve.std_error[0] * n if method == "mcmc" else 0.0
        assert abs(n * curve.log_z[0] - expected) < 3 * np.hypot(error, own) + bias * abs(expected), method
        assert curve.phi[0] <= 0


@pytest.mark.parametrize("name", ["one that leads", "ties by coin", "parity of six", "cold cross-entropy", "any set"])
def test_one_pattern(name):
    """All methods but sampling are exact."""
    node = NODES[name]
    rng = np.random.default_rng(3)
    weights, pattern, label = rng.normal(size=(node.n_hidden, 15)), rng.normal(size=(1, 15)), np.array([-1.0])
    weights /= np.sqrt(np.mean(weights**2, axis=1, keepdims=True))
    y = label * (weights @ pattern[0]) / np.sqrt(0.3 * np.sum(pattern**2))
    expected = naive.factor_node(y, energies_of_sets(node, 1))[2]
    violated = node.is_hard and np.isinf(node.energy(weights @ pattern.T, label)).any()
    methods = ["bp", "ep"] if violated or not isinstance(node, nodes.CountNode) else ["bp", "ep", "bp-edge"]
    for method in methods:
        curve = local_entropy(weights, pattern, label, [0.3], node=node, method=method)
        assert_allclose(curve.log_z[0] * weights.size, 0.0 if violated else expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["margin", "ties by coin", "cross-entropy", "parity"])
def test_routines_agree(name):
    """Node form, edges, and many references through torch."""
    node = SMALL[name]
    weights, patterns, labels, hidden = instance(node, n_patterns=8)
    right = np.isfinite(node.energy(hidden, labels))
    patterns, labels = patterns[right], labels[right]
    at = local_entropy([weights, weights], patterns, labels, [0.4], node=node, device="cpu", tolerance=1e-11)
    point = solve_nodes(make_nodes(weights, patterns, node=node), labels, 0.4, tolerance=1e-11)
    edges = solve_edges(weights, patterns, labels, 0.4, node=node)
    for got in (point.log_z, edges.log_z, at.log_z[1, 0]):
        assert_allclose(got, at.log_z[0, 0], rtol=1e-8)
    for got in (point.distance, edges.distance, at.distance[1, 0]):
        assert_allclose(got, at.distance[0, 0], rtol=1e-8)


def test_margin_of_a_perceptron():
    """The volume of the sphere that keeps a margin κ, without a reference, as Gardner has it."""
    n, kappa, volumes = 600, 0.5, []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        patterns, labels = rng.choice([-1.0, 1.0], (n // 2, n)), rng.choice([-1.0, 1.0], n // 2)
        node = nodes.majority(1, margin=kappa)
        curve = local_entropy(None, patterns, labels, distances=[0.5], n_hidden=1, node=node)
        volumes.append(curve.phi[0])
    error = np.std(volumes, ddof=1) / np.sqrt(len(volumes))
    expected = theory.volume([0.5], kappa=kappa).phi[0]
    assert abs(np.mean(volumes) - expected) < 3 * error < 0.15 * abs(expected)


def test_tree_committee():
    """Units with inputs of their own, against the quadrants of two patterns."""
    rng = np.random.default_rng(0)
    blocks, patterns = rng.normal(size=(3, 7)), rng.normal(size=(2, 21))
    weights, scale = committee.tree(blocks)
    labels = committee.predict(weights, patterns).astype(float)
    own = blocks / np.sqrt(np.mean(blocks**2, axis=1, keepdims=True))
    exact = naive.two_patterns(own, np.split(patterns, 3, axis=1), labels, 0.5)[0]
    for method, off in (("ep", 1e-3), ("bp", 0.05), ("bp-edge", 0.05), ("mcmc", 0.0)):
        curve = local_entropy(weights, patterns, labels, [0.5], prior_scale=scale, method=method, **SAMPLING)
        assert curve.n_weights == 21
        error = 3 * 21 * curve.std_error[0] if method == "mcmc" else off * abs(exact)
        assert abs(21 * curve.log_z[0] - exact) < error, method


class SmoothPerceptron:
    """A node of one's own that reads more than signs: ``P(right) = Φ(σh/τ)`` of one unit, ``Z = Φ(σω/√(V + τ²))``."""

    is_hard = False

    def __init__(self, tau):
        self.tau = tau

    def output(self, omega, variance, labels):
        root = np.sqrt(variance + self.tau**2)
        y = labels * omega / root
        log_z = log_ndtr(y)
        ratio = np.exp(-0.5 * y**2 - 0.5 * np.log(2 * np.pi) - log_z)
        return labels * ratio / root, ratio * (ratio + y) / root**2, log_z[..., 0, :]

    def energy(self, hidden, labels):
        return -log_ndtr(labels * hidden / self.tau)[..., 0, :]


def test_a_node_of_ones_own():
    """Noise on the pre-activations: exact for one pattern, alike by all methods for a few."""
    node = SmoothPerceptron(0.5)
    rng = np.random.default_rng(0)
    weights, patterns = rng.normal(size=(1, 31)), rng.choice([-1.0, 1.0], (6, 31))
    labels = committee.predict(weights, patterns).astype(float)
    one = local_entropy(weights, patterns[:1], labels[:1], [0.5], node=node)
    y = labels[0] * weights[0] @ patterns[0] / np.linalg.norm(weights) / np.sqrt(0.5 + 0.5**2)
    assert_allclose(31 * one.log_z[0], log_ndtr(y), rtol=1e-9)
    hidden = weights @ patterns.T / np.linalg.norm(weights)
    expected, error = counted(node, hidden, patterns, labels, 0.5, 0)
    for method, bias in (("mcmc", 0.0), ("ep", 0.01), ("bp", 0.05)):
        options = {"n_samples": 300, "n_chains": 2, "seed": 0} if method == "mcmc" else {}
        curve = local_entropy(weights, patterns, labels, [0.5], node=node, method=method, **options)
        own = 31 * curve.std_error[0] if method == "mcmc" else 0.0
        assert curve.converged.all()
        assert abs(31 * curve.log_z[0] - expected) < 3 * np.hypot(error, own) + bias * abs(expected), method


class Wrong(SmoothPerceptron):
    """Derivatives that belong to another τ."""

    def output(self, omega, variance, labels):
        g, curvature, _ = super().output(omega, 1.1 * variance, labels)
        return g, curvature, super().output(omega, variance, labels)[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node": Wrong(0.5), "n_hidden": 1}, "node: g of unit 0 is"),
        ({"node": SmoothPerceptron(0.5), "n_hidden": 1, "method": "bp-edge"}, "node must count hidden units"),
        ({"node": SmoothPerceptron(0.5), "n_hidden": 1, "device": "cpu"}, "device is for the nodes of bpflat.nodes"),
        ({"node": nodes.weighted([1.0, 2.0, 0.5]), "method": "bp-edge"}, "node must count hidden units"),
        ({"node": nodes.majority(4, ties="coin"), "n_hidden": 4, "beta": 1.0}, "beta is about patterns that are right"),
        ({"node": nodes.cross_entropy(3, 1.0), "betas": [1.0]}, "betas is about patterns that are right"),
        ({"node": nodes.parity(5)}, "node is for K = 5 hidden units, weights or n_hidden for 3"),
        ({"node": "parity"}, "node must have is_hard, output and energy"),
        ({"node": nodes.parity(3), "check": 1}, "check must be True or False"),
        ({"n_hidden": 4}, "K must be odd"),
    ],
)
def test_refusals(options, message):
    given = {"weights": None, "patterns": np.ones((2, 5)), "labels": [1, 1], "deltas": [1.0], "n_hidden": 3}
    with pytest.raises(ValueError, match=message):
        local_entropy(**given | options)


def test_refusals_of_the_routines():
    weights, patterns = np.ones((3, 5)), np.ones((2, 5))
    with pytest.raises(ValueError, match="beta is about patterns that are right or wrong"):
        solve_nodes(make_nodes(weights, patterns, node=nodes.cross_entropy(3, 1.0)), [1, 1], 0.1, beta=1.0)
    with pytest.raises(ValueError, match="n_errors is about patterns"):
        solve_nodes(make_nodes(weights, patterns, node=nodes.cross_entropy(3, 1.0)), [1, 1], 0.1, n_errors=1)
    with pytest.raises(ValueError, match="node must count hidden units"):
        solve_edges(weights, patterns, [1, 1], 0.1, node=nodes.weighted([1.0, 2.0, 0.5]))
    with pytest.raises(ValueError, match="node is for K = 4"):
        make_nodes(weights, patterns, node=nodes.parity(4))


@pytest.mark.parametrize(
    ("node", "name"),
    [
        (None, "majority"),
        (nodes.majority(3, lead=2, margin=0.5), "majority, lead 2, margin 0.5"),
        (nodes.cross_entropy(3, 1.0), "cross-entropy, omega 1.0, beta 1.0"),
        (nodes.CountNode([1.0, 0.0, 0.0, 0.0]), "count"),
        (nodes.weighted([3.0, 1.0, 1.0]), "weighted"),
    ],
)
def test_curves_name_their_node(node, name, tmp_path):
    curve = local_entropy(None, [[1.0, -1.0]], [1], [1.0], n_hidden=3, node=node)
    curve.save(tmp_path / "curve.npz")
    assert curve.node == LocalEntropyCurve.load(tmp_path / "curve.npz").node == name


def test_a_wrong_node_that_is_not_checked():
    """The user's own business."""
    curve = local_entropy(None, np.ones((1, 5)), [1], [1.0], n_hidden=1, node=Wrong(0.5), check=False)
    assert curve.node == "Wrong"
