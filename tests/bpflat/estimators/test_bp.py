"""Belief propagation: the output node by enumeration, exact cases, the two forms."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

from bpflat.bp import make_nodes, output_node, solve_edges, solve_nodes
from bpflat.estimators import edge_bp, node_bp
from bpflat.estimators.problem import Inputs, Problem
from tests.instances import random_instance
from tests.naive import committee as naive


class TestOutputNode:
    @pytest.mark.parametrize("n_hidden", [1, 3, 5, 9])
    def test_enumeration(self, n_hidden):
        rng = np.random.default_rng(n_hidden)
        omega = rng.normal(size=(40, n_hidden)) * 2
        variance = rng.uniform(0.2, 3, size=omega.shape)
        labels = rng.choice([-1.0, 1.0], 40)
        for got, expected in zip(
            output_node(omega, variance, labels), naive.output_node(omega, variance, labels), strict=True
        ):
            assert_allclose(got, expected, rtol=1e-11, atol=1e-14)

    def test_derivatives(self):
        rng = np.random.default_rng(3)
        omega, variance = rng.normal(size=(1, 5)) * 2, rng.uniform(0.2, 3, size=(1, 5))
        label, h = np.array([-1.0]), 1e-5
        g, curvature, _ = output_node(omega, variance, label)
        for k in range(5):
            step = h * (np.arange(5) == k)
            up, down = (output_node(omega + sign * step, variance, label) for sign in (1, -1))
            assert_allclose((up[2][0] - down[2][0]) / (2 * h), g[0, k], rtol=1e-8, atol=1e-10)
            assert_allclose((down[0][0, k] - up[0][0, k]) / (2 * h), curvature[0, k], rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("shift", [-3.0, -8.0, -20.0, -60.0, -1000.0])
    def test_hopeless_patterns_do_not_underflow(self, shift):
        """The same as 60-digit arithmetic where Z is far below the smallest float."""
        omega = shift + np.array([[0.0, 0.3, -0.5, 1.0, 2.0]])
        got = output_node(omega, np.ones((1, 5)), np.ones(1))
        rounding = 1e-14 * shift**2  # of the logarithms that g is the exponential of; Γ = g (g + y) magnifies it
        for value, expected, magnified in zip(
            got, naive.output_node_multiprecision(omega[0]), (10 - shift, 10 + shift**2, 1), strict=True
        ):
            assert_allclose(np.ravel(value), expected, rtol=1e-11, atol=rounding * magnified)

    def test_a_few_hopeless_units(self):
        omega = np.array([[-50.0, 0.3, -45.0, 1.0, -60.0]])
        got = output_node(omega, np.ones((1, 5)), np.ones(1))
        for value, expected in zip(got, naive.output_node_multiprecision(omega[0]), strict=True):
            assert_allclose(np.ravel(value), expected, rtol=1e-9)

    def test_safe_patterns_keep_relative_precision(self):
        """One unit alone: 1 - Z = H(y) to all digits, far below the rounding of 1."""
        for y in (9.0, 20.0, 35.0):
            g, curvature, log_z = output_node([[y]], [[1.0]], [1.0])
            assert_allclose(-log_z[0], norm.sf(y), rtol=1e-13)
            assert_allclose(g[0, 0], norm.pdf(y), rtol=1e-12)
            assert_allclose(curvature[0, 0], y * norm.pdf(y), rtol=1e-12)

    def test_no_denormal_numbers(self):
        """Derivatives that would be denormal, which slows all products with them, are 0; log Z stays what it is."""
        y = np.linspace(35, 38.5, 200)[:, None]
        g, curvature, log_z = output_node(y, np.ones_like(y), np.ones(len(y)))
        assert ((g == 0) | (g > 1e-290)).all() and ((curvature == 0) | (curvature > 1e-290)).all()
        assert (g[0] > 0).all() and (g[-1] == 0).all()
        assert_allclose(-log_z, norm.sf(y[:, 0]), rtol=1e-11, atol=1e-307)  # scipy has no denormal numbers

    def test_certain_patterns(self):
        for value in output_node(np.full((1, 3), 1e3), np.ones((1, 3)), np.ones(1)):
            assert np.all(value == 0)

    def test_bounds(self):
        """Conditioning leaves a variance V - V²Γ ≥ 0 to each pre-activation."""
        rng = np.random.default_rng(0)
        omega = rng.normal(size=(2000, 7)) * 10
        _, curvature, log_z = output_node(omega, np.full(omega.shape, 0.5), rng.choice([-1.0, 1.0], 2000))
        assert np.all(curvature * 0.5 <= 1 + 1e-9) and np.all(log_z <= 0)


class TestManyUnits:
    @pytest.mark.parametrize("n_hidden", [49, 51, 99, 201])
    def test_likely_tail(self, n_hidden):
        """Where nearly all units agree, log Z is a tiny negative number, known to full relative precision."""
        y = np.random.default_rng(0).uniform(2.0, 2.5, size=(3, n_hidden))
        log_z = output_node(y, np.ones(y.shape), np.ones(3))[2]
        for value, row in zip(log_z, y, strict=True):
            assert value < 0
            assert_allclose(value, naive.log_majority(row), rtol=1e-12)

    @pytest.mark.parametrize("y", [-3.0, -8.0, -20.0])
    def test_unlikely_tail(self, y):
        row = y + np.random.default_rng(0).normal(size=101)
        g, _, log_z = output_node(row[None], np.ones((1, 101)), np.ones(1))
        assert_allclose(log_z[0], naive.log_majority(row), rtol=1e-12)
        h = 1e-5
        step = h * (np.arange(101) == 7)
        up, down = (output_node((row + s * step)[None], np.ones((1, 101)), [1.0])[2] for s in (1, -1))
        assert_allclose((up - down) / (2 * h), g[:, 7], rtol=1e-6, atol=1e-9)


class TestChecks:
    """What the routines for import refuse; the calls below are right but for the change."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"weights": np.ones((4, 11))}, "K must be odd"),
            ({"weights": np.ones((2, 3, 11))}, r"weights must have shape \(K, N\), not"),
            ({"weights": np.full((3, 11), np.nan)}, "weights contain NaN"),
            ({"patterns": np.ones((6, 10))}, "patterns have N = 10"),
            ({"patterns": np.ones((6, 11)) * 1j}, "patterns must be an array of real numbers"),
            ({"labels": np.zeros(6)}, "labels must be -1 or"),
            ({"labels": np.ones(5)}, "labels must have shape"),
            ({"delta": 0.0}, "delta must be finite and at least 1e-12"),
            ({"delta": -1.0}, "delta must be finite and at least 1e-12"),
            ({"delta": np.inf}, "delta must be finite"),
            ({"delta": "1"}, "delta must be a number"),
            ({"tolerance": 0.0}, "tolerance must be finite and greater than 0"),
            ({"tolerance": 0.1}, r"tolerance must be finite and at most 0.001 \(beyond it"),
            ({"start": 3}, "start must be a Point"),
        ],
    )
    @pytest.mark.parametrize("routine", ["edges", "nodes"])
    def test_solvers(self, routine, change, message):
        weights, patterns, labels = random_instance(11, 3, 6)
        arguments = {"weights": weights, "patterns": patterns, "labels": labels, "delta": 0.5} | change
        with pytest.raises(ValueError, match=message):
            if routine == "edges":
                solve_edges(**arguments)
            else:
                nodes = make_nodes(arguments.pop("weights"), arguments.pop("patterns"))
                solve_nodes(nodes, **arguments)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"omega": np.ones((6, 4))}, "K must be odd"),
            ({"omega": np.full((6, 3), np.inf)}, "omega contain NaN"),
            ({"variance": np.zeros((6, 3))}, "variance must lie between"),
            ({"variance": np.ones((5, 3))}, "does not match omega"),
            ({"labels": np.full(6, 2.0)}, "labels must be -1 or"),
        ],
    )
    def test_output_node(self, change, message):
        right = {"omega": np.zeros((6, 3)), "variance": np.ones((6, 3)), "labels": np.ones(6)}
        with pytest.raises(ValueError, match=message):
            output_node(**right | change)

    def test_start_of_another_problem(self):
        weights, patterns, labels = random_instance(11, 3, 6)
        other = solve_nodes(make_nodes(weights, patterns[:5]), labels[:5], 0.5)
        with pytest.raises(ValueError, match="start holds messages of shapes"):
            solve_nodes(make_nodes(weights, patterns), labels, 0.5, start=other)
        with pytest.raises(ValueError, match="nodes must come from make_nodes"):
            solve_nodes(weights, labels, 0.5)
        with pytest.raises(ValueError, match="n_errors must be a whole number, at most 6"):
            solve_nodes(make_nodes(weights, patterns), labels, 0.5, n_errors=7)
        with pytest.raises(ValueError, match="beta must be finite and greater than 0"):
            solve_nodes(make_nodes(weights, patterns), labels, 0.5, beta=0.0)


SOLVERS = {
    "edges": lambda w, x, labels, delta: solve_edges(w, x, labels, delta, tolerance=1e-12),
    "nodes": lambda w, x, labels, delta: solve_nodes(make_nodes(w, x), labels, delta, tolerance=1e-11),
}


def test_no_patterns():
    """Which the routines for import refuse, as a mistake."""
    problem = Problem.of(np.ones((3, 11)), np.empty((0, 11)), np.empty(0))
    for point in (edge_bp.solve(problem, 0.7), node_bp.solve(problem, 0.7)):
        assert point.converged and point.log_z == 0
        assert_allclose([point.distance, point.phi], [0.35, 0], atol=1e-15)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
class TestExactCases:
    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    @pytest.mark.parametrize("n_hidden", [1, 3, 9])
    def test_one_pattern(self, solve, inputs, n_hidden):
        """The hidden signs are independent: a Poisson-binomial majority."""
        weights, patterns, labels = random_instance(31, n_hidden, 1, inputs=inputs)
        for delta in (0.1, 1.0, 4.0):
            agree = norm.cdf(labels[0] * (weights @ patterns[0]) / np.sqrt(delta * np.sum(patterns[0] ** 2)))
            point = solve(weights, patterns, labels, delta)
            assert_allclose(point.log_z * weights.size, np.log(naive.majority(agree)), rtol=1e-12, atol=1e-13)

    def test_one_pattern_without_reference(self, solve):
        for n_hidden in (1, 3, 5):
            point = solve(np.zeros((n_hidden, 20)), np.ones((1, 20)), np.ones(1), 1.0)
            assert_allclose(point.log_z * 20 * n_hidden, -np.log(2), rtol=1e-12)

    def test_two_orthogonal_patterns(self, solve):
        """K = 1, w = 0: log(1/4 + asin(σ₁σ₂c)/2π) with overlap c = x₁·x₂/N, which BP knows at c = 0 only, to O(1/N)."""
        for n_inputs in (100, 1000):
            patterns = np.ones((2, n_inputs))
            patterns[1, ::2] = -1
            point = solve(np.zeros((1, n_inputs)), patterns, np.array([1.0, -1.0]), 1.0)
            assert_allclose(point.log_z * n_inputs, np.log(0.25), atol=1 / n_inputs)


class TestTwoForms:
    @pytest.mark.parametrize("n_hidden", [1, 3, 5])
    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    @pytest.mark.parametrize("n_inputs", [51, 201])
    def test_agree(self, n_inputs, inputs, n_hidden):
        weights, patterns, labels = random_instance(n_inputs, n_hidden, n_inputs // 2, inputs=inputs)
        for delta in (0.01, 0.5, 2.0):
            edge, node = (solve(weights, patterns, labels, delta) for solve in SOLVERS.values())
            assert edge.converged and node.converged
            for name in ("log_z", "distance", "phi"):
                assert_allclose(getattr(node, name), getattr(edge, name), rtol=1e-8, err_msg=name)

    def test_naive(self):
        """Both against an iteration written out edge by edge."""
        weights, patterns, labels = random_instance(21, 3, 8)
        log_z, distance = naive.belief_propagation(weights, patterns, labels, 0.5, sweeps=300)
        for solve in SOLVERS.values():
            point = solve(weights, patterns, labels, 0.5)
            assert_allclose([point.log_z, point.distance], [log_z, distance], rtol=1e-9)

    def test_real_sums_contain_the_binary_ones(self, monkeypatch):
        problem = Problem.of(*random_instance(101, 5, 60))
        points, forms = [], []
        for is_binary in (True, False):
            monkeypatch.setattr(Inputs, "is_binary", property(lambda _, answer=is_binary: answer))
            forms.append(type(node_bp.equations(problem, 1.0)))
            points.append(node_bp.solve(problem, 0.7, tolerance=1e-11))
        assert forms == [node_bp.BinaryNodes, node_bp.RealNodes]
        assert_allclose(points[0].log_z, points[1].log_z, rtol=1e-11)
        assert_allclose(points[0].excess, points[1].excess, rtol=1e-11)

    def test_warm_start_and_damping_change_nothing(self):
        weights, patterns, labels = random_instance(101, 3, 50)
        nodes = make_nodes(weights, patterns)
        first = solve_nodes(nodes, labels, 0.3)
        warm, cold = (solve_nodes(nodes, labels, 0.5, start=s) for s in (first, None))
        damped = solve_edges(weights, patterns, labels, 0.5, damping=0.5)
        warm_edges = solve_edges(
            weights, patterns, labels, 0.5, start=solve_edges(weights, patterns, labels, 0.3, tolerance=1e-12)
        )
        assert_allclose([p.log_z for p in (warm, damped, warm_edges)], cold.log_z, rtol=1e-9)

    def test_edges_report_what_did_not_converge(self):
        weights, patterns, labels = random_instance(51, 3, 25)
        point = solve_edges(weights, patterns, labels, 1.0, max_sweeps=2)
        assert not point.converged and np.isnan(point.phi) and point.n_iter == 2

    def test_nodes_report_what_did_not_converge(self):
        weights, patterns, labels = random_instance(51, 3, 25)
        point = solve_nodes(make_nodes(weights, patterns), labels, 1.0, max_steps=1, tolerance=1e-14)
        assert not point.converged and np.isnan(point.phi)


class TestPhysics:
    @pytest.mark.parametrize("n_inputs", [201, 801])
    def test_derivative_of_log_z_gives_the_distance(self, n_inputs):
        """``d = Δ² ∂_Δ log Z/n + Δ/2`` for exact log Z; BP's own d differs by O(1/N)."""
        weights, patterns, labels = random_instance(n_inputs, 3, n_inputs // 2)
        nodes, delta, h = make_nodes(weights, patterns), 0.5, 1e-4
        up, here, down = (solve_nodes(nodes, labels, delta * s, tolerance=1e-11) for s in (1 + h, 1, 1 - h))
        slope = (up.log_z - down.log_z) / (2 * h * delta)
        assert_allclose(delta**2 * slope + delta / 2, here.distance, rtol=0.5 / n_inputs)
