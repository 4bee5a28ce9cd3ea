"""local_entropy: curves, limits, stored solutions, bad input, files."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bpflat import LocalEntropyCurve, committee, local_entropy
from bpflat.bp import make_nodes, solve_edges, solve_nodes
from tests.instances import random_instance


@pytest.fixture(scope="module")
def instance():
    return random_instance(101, 5, 60)


@pytest.fixture(scope="module")
def curve(instance):
    return local_entropy(*instance, np.geomspace(1e-4, 4, 20))


class TestCurve:
    def test_physics(self, curve):
        """Φ ≤ 0, → 0 with d → 0, and falls with d; d is near Δ/2 at small Δ and below it."""
        assert curve.converged.all() and np.all(curve.phi <= 0) and np.all(np.diff(curve.phi) < 0)
        assert abs(curve.phi[0]) < 0.02 * abs(curve.phi[-1])
        assert np.all(np.diff(curve.distance) > 0)
        assert_allclose(curve.distance[0], curve.delta[0] / 2, rtol=1e-2)

    def test_legendre_transform(self, curve):
        expected = curve.log_z + curve.distance / curve.delta - 0.5 - 0.5 * np.log(2 * curve.distance / curve.delta)
        assert_allclose(curve.phi, expected, rtol=1e-9, atol=1e-15)

    def test_slope(self, curve):
        """The Legendre transform's other half: dΦ/dd = 1/Δ - 1/2d (to BP's O(1/N))."""
        slope = np.diff(curve.phi) / np.diff(curve.distance)
        middle = [(1 / curve.delta - 0.5 / curve.distance)[i : len(slope) + i] for i in (0, 1)]
        assert np.all((np.min(middle, axis=0) * 1.02 < slope) & (slope < np.max(middle, axis=0) * 0.98))

    def test_at_distances(self, instance, curve):
        """Φ at a given d is the Φ of the Δ that leads there."""
        at = local_entropy(*instance, distances=curve.distance)
        assert_allclose(at.distance, curve.distance, rtol=1e-9)
        assert_allclose(at.delta, curve.delta, rtol=1e-6)
        assert_allclose(at.phi, curve.phi, rtol=1e-7)

    def test_methods_agree(self, instance):
        deltas = [0.01, 0.3, 2.0]
        node, edge = (local_entropy(*instance, deltas, method=m, tolerance=1e-11) for m in ("bp", "bp-edge"))
        for name in ("log_z", "distance", "phi"):
            assert_allclose(getattr(node, name), getattr(edge, name), rtol=1e-8)
        assert (node.method, edge.method) == ("bp", "bp-edge")

    def test_row_scale_does_not_matter(self, instance, curve):
        weights, patterns, labels = instance
        scaled = local_entropy(weights * np.array([[0.1], [1], [3], [10], [50]]), patterns, labels, curve.delta)
        assert_allclose(scaled.phi, curve.phi, rtol=1e-7)

    @pytest.mark.parametrize("method", ["bp", "bp-edge", "ep"])
    def test_any_finite_scale(self, instance, method):
        """Rows from 1e-200 to 1e200, all alike or not: one curve (to 1e-11 on edges, whose sums cancel digits)."""
        weights, patterns, labels = instance
        rows = 10.0 ** np.array([[-200], [-100], [0], [100], [200]])
        plain, *scaled = (
            local_entropy(s * weights, patterns, labels, [0.01, 0.5], method=method, tolerance=1e-11)
            for s in (1, 1e-200, 1e200, rows)
        )
        for curve in scaled:
            assert curve.train_error == plain.train_error
            for name in ("log_z", "distance", "phi"):
                assert_allclose(getattr(curve, name), getattr(plain, name), rtol=1e-11 if "edge" in method else 1e-12)

    def test_routines_take_rows_of_any_norm(self, instance):
        """What Δ means does not depend on the door: curve, node form and edge form agree for any rows."""
        weights, patterns, labels = instance
        scaled = weights * np.array([[0.1], [1], [3], [1e-200], [1e200]])
        at = local_entropy(weights, patterns, labels, [0.3], tolerance=1e-11)
        node = solve_nodes(make_nodes(scaled, patterns), labels, 0.3, tolerance=1e-11)
        edge = solve_edges(scaled, patterns, labels, 0.3, tolerance=1e-11)
        for point in (node, edge):
            assert_allclose([point.log_z, point.distance], [at.log_z[0], at.distance[0]], rtol=1e-8)

    def test_largest_tolerance(self, instance):
        """Φ is still good to a thousandth of itself at the loosest tolerance that is allowed."""
        loose, tight = (local_entropy(*instance, [0.05, 0.5, 2.0], tolerance=t).phi for t in (1e-3, 1e-10))
        assert_allclose(loose, tight, rtol=1e-3)

    def test_one_point_equals_its_place_on_a_curve(self, instance, curve):
        """No memory of the path: Δ = 4 alone, cold, gives the curve's last point."""
        assert_allclose(local_entropy(*instance, [4.0]).phi, curve.phi[-1:], rtol=1e-7)

    def test_default_grid(self, instance):
        assert_allclose(local_entropy(*instance).delta, np.geomspace(1e-3, 4, 12))

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_many_references(self, n_jobs):
        weights, patterns, labels = random_instance(51, 3, 12)
        other = weights + 1e-3 * np.random.default_rng(0).normal(size=weights.shape)
        both = local_entropy([weights, other], patterns, labels, [0.1, 1.0], n_jobs=n_jobs)
        assert both.phi.shape == (2, 2) and both.train_error.shape == (2,)
        for row, reference in zip(both.phi, (weights, other), strict=True):
            assert_allclose(row, local_entropy(reference, patterns, labels, [0.1, 1.0]).phi, rtol=1e-9)

    def test_a_point_that_fails_leaves_the_others(self, instance, monkeypatch):
        from bpflat.estimators import node_bp

        solve = node_bp.solve

        def failing(problem, delta, **options):
            return solve(problem, delta, **(options | {"max_steps": 0} if 0.3 < delta < 0.7 else options))

        monkeypatch.setattr(node_bp, "solve", failing)
        curve = local_entropy(*instance, [0.1, 0.5, 1.0])
        assert_array_equal(curve.converged, [True, False, True])
        for name in ("phi", "log_z", "distance"):
            assert_array_equal(np.isnan(getattr(curve, name)), [False, True, False])


class TestStoredSolutions:
    """Trained machines on the real data, against an independent implementation."""

    @pytest.mark.parametrize("index", range(3))
    def test_expected(self, stored, index):
        problems, expected = stored
        points = expected[index]["bp"]
        curve = local_entropy(*problems[index], [p["delta"] for p in points])
        for name in ("distance", "log_z", "phi"):
            assert_allclose(getattr(curve, name), [p[name] for p in points], rtol=1e-4)

    @pytest.mark.parametrize("index", range(3))
    def test_two_forms(self, stored, index):
        """N = 784, K = 9, P = 500: both forms to 1e-6, where the edges converge within the sweeps allowed here."""
        problems, _ = stored
        deltas = [[0.003, 0.01], [0.01, 0.1], [0.1, 1.0]][index]
        curves = [local_entropy(*problems[index], deltas, method=m) for m in ("bp", "bp-edge")]
        assert curves[1].converged.all()
        for name in ("distance", "log_z", "phi"):
            assert_allclose(getattr(curves[0], name), getattr(curves[1], name), rtol=1e-6)

    def test_the_path_does_not_matter(self, stored):
        """Belief propagation has several fixed points near Δ = 4 around some minima: always the reference's branch."""
        problems, _ = stored
        for problem in problems:
            alone, curve = (local_entropy(*problem, deltas) for deltas in ([4.0], np.geomspace(1e-3, 4, 30)))
            assert_allclose(alone.phi[-1], curve.phi[-1], rtol=1e-7)

    @pytest.mark.parametrize("index", range(3))
    def test_whole_range_converges(self, stored, index):
        problems, _ = stored
        curve = local_entropy(*problems[index], np.geomspace(1e-3, 4, 12))
        assert curve.converged.all()
        assert np.all(np.diff(curve.phi) < 0) and np.all(curve.phi < 0)


class TestTies:
    """Ternary weights: exact ties of a hidden unit, which rescaled rows may turn."""

    @pytest.fixture
    def ternary(self):
        rng = np.random.default_rng(0)
        weights = rng.choice([-1.0, 0.0, 1.0], size=(200, 3, 50))
        patterns = rng.choice([-1.0, 1.0], size=(40, 50))
        assert np.count_nonzero(patterns @ weights.swapaxes(1, 2) == 0) > 500
        return weights, patterns

    def test_no_reference_errs_on_its_own_answers(self, ternary):
        weights, patterns = ternary
        errors = [local_entropy(w, patterns, committee.predict(w, patterns), [0.1]).train_error for w in weights]
        assert np.count_nonzero(errors) == 0

    def test_families(self, ternary):
        """Counted from the weights as given also where references are solved together."""
        weights, patterns = ternary
        labels = committee.predict(weights[0], patterns)
        alone, together = (local_entropy(weights[:8], patterns, labels, [0.1], device=d) for d in (None, "cpu"))
        assert_array_equal(alone.train_error, committee.error(weights[:8], patterns, labels))
        assert alone.train_error[0] == 0
        assert_allclose(together.phi, alone.phi, rtol=1e-7)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"weights": np.ones((4, 101))}, "K must be odd"),
            ({"weights": np.ones((5, 100))}, "weights have N = 100"),
            ({"weights": np.empty((0, 101))}, "weights are empty"),
            ({"weights": np.ones(101)}, "weights must have shape"),
            ({"weights": np.full((5, 101), np.nan)}, "weights contain NaN"),
            ({"weights": np.zeros((5, 101))}, "all zero"),
            ({"patterns": np.full((60, 101), np.inf)}, "patterns contain NaN or infinite"),
            ({"patterns": np.empty((0, 101))}, "patterns are empty"),
            ({"patterns": np.zeros((60, 101))}, "patterns hold one of zeros only"),
            ({"labels": np.arange(60)}, "labels must be -1 or"),
            ({"labels": np.ones(59)}, "labels must have shape"),
            ({"deltas": [0.0, 1.0]}, "deltas must be positive"),
            ({"deltas": [-1.0]}, "deltas must be positive"),
            ({"deltas": [np.nan]}, "deltas must be positive and finite"),
            ({"deltas": [1.0, 0.5]}, "deltas must rise strictly"),
            ({"deltas": [0.5, 0.5]}, "deltas must rise strictly"),
            ({"deltas": []}, "deltas must be a non-empty"),
            ({"deltas": [[0.5]]}, "deltas must be a non-empty one-dimensional"),
            ({"distances": [0.3, 0.1]}, "distances must rise strictly"),
            ({"deltas": [0.1], "distances": [0.1]}, "both given"),
            ({"method": "tap"}, "method 'tap' is unknown"),
            ({"tolerance": 0}, "tolerance must be finite and greater than 0"),
            ({"tolerance": 0.1}, "tolerance must be finite and at most 0.001"),
            ({"n_samples": 10}, "n_samples must be a whole number, at least 100"),
            ({"n_samples": 1000.5}, "n_samples must be a whole number"),
            ({"n_chains": 1}, "n_chains must be a whole number, at least 2"),
            ({"beta": 0.0}, "beta must be finite and greater than 0"),
            ({"beta": "2"}, "beta must be a number"),
            ({"n_jobs": "x"}, "n_jobs must be a whole number"),
            ({"deltas": [1e-320]}, "deltas must lie between"),
            ({"distances": [1e308]}, "distances must lie between"),
            ({"patterns": np.full((60, 101), 1e300)}, "patterns must be of sizes between"),
            ({"beta": 2.0, "method": "bp-edge"}, "beta needs another method"),
        ],
    )
    def test_message_names_the_argument(self, instance, change, message):
        arguments = dict(zip(("weights", "patterns", "labels"), instance, strict=True)) | change
        with pytest.raises(ValueError, match=message):
            local_entropy(**arguments)

    def test_edges_refuse_training_errors(self, instance):
        weights, patterns, labels = instance
        with pytest.raises(ValueError, match="1 of 2 references make training errors"):
            local_entropy([weights, -weights], patterns, labels, method="bp-edge")


class TestFiles:
    def test_round_trip(self, curve, tmp_path):
        curve.save(tmp_path / "curve.npz")
        again = LocalEntropyCurve.load(tmp_path / "curve.npz")
        for name in curve.__dataclass_fields__:
            assert_array_equal(getattr(again, name), getattr(curve, name), err_msg=name)
            assert type(getattr(again, name)) is type(getattr(curve, name))

    def test_truncated(self, curve, tmp_path):
        path = tmp_path / "curve.npz"
        curve.save(path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ValueError, match=r"curve\.npz is not a whole bpflat file"):
            LocalEntropyCurve.load(path)

    def test_plot(self, curve):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("Agg")
        axes = curve.plot(color="C1")
        assert_array_equal(axes.lines[0].get_ydata(), curve.phi)
        assert "d" in axes.get_xlabel() and "Phi" in axes.get_ylabel()
