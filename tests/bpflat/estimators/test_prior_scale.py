"""A prior variance for every weight: plain samples of the prior, plain twins, what scales mean."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bpflat import local_energy, local_entropy
from tests.instances import random_instance
from tests.naive import committee as naive

METHODS = ("bp", "bp-edge", "ep", "mcmc")
NAMES = ("log_z", "distance", "phi")


def instance(n_hidden, inputs="binary", n_errors=0, n_patterns=8):
    """A machine with N = 21, whose first labels are turned, and scales of its prior."""
    weights, patterns, labels = random_instance(21, n_hidden, n_patterns, inputs=inputs)
    labels[:n_errors] *= -1
    return weights, patterns, labels, np.random.default_rng(5).gamma(2.0, 0.5, weights.shape)


def measure(weights, patterns, labels, scale, deltas, method="bp", **options):
    options = {"seed": 0, "tolerance": 1e-11, **options}
    return local_entropy(weights, patterns, labels, deltas, method=method, prior_scale=scale, **options)


def assert_same(curves, expected, rtol=1e-9):
    for name in NAMES:
        assert_allclose(getattr(curves, name), getattr(expected, name), rtol=rtol, err_msg=name)


def check_counting(problem, delta, rtol_bp, rtol_ep):
    """Log Z and d by all methods against 200,000 samples: Monte Carlo to 4 standard errors, the others to their own."""
    weights, patterns, labels, scale = problem
    errors, squares = naive.prior_samples(weights, patterns, labels, delta, scale, 200_000)
    n_weights = np.count_nonzero(scale)
    for method in METHODS:
        if method == "bp-edge" and local_entropy(weights, patterns, labels, [delta]).train_error:
            continue
        curve = measure(*problem, [delta], method)
        assert curve.converged[0] and curve.n_weights == n_weights and curve.scale == "given"
        allowed = errors <= round(curve.train_error * len(labels))
        counted, noise = np.log(allowed.mean()), np.sqrt((1 - allowed.mean()) / allowed.sum())
        own = np.nan_to_num(curve.std_error[0] * n_weights)
        bias = {"mcmc": 0.0, "ep": rtol_ep}.get(method, rtol_bp) * abs(counted)
        assert abs(curve.log_z[0] * n_weights - counted) < 4 * np.hypot(noise, own) + bias, method
        assert_allclose(2 * n_weights * curve.distance[0], squares[allowed].mean(), rtol=0.01)


class TestCounting:
    @pytest.mark.parametrize("delta", [0.3, 1.0])
    @pytest.mark.parametrize(
        ("n_hidden", "inputs", "n_errors"), [(1, "binary", 0), (3, "binary", 1), (3, "gaussian", 0)]
    )
    def test_random_scales(self, n_hidden, inputs, n_errors, delta):
        check_counting(instance(n_hidden, inputs, n_errors), delta, 0.08, 0.03)

    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    def test_weights_that_stay(self, inputs):
        """Six of the first unit's weights stay: the others make d and n."""
        weights, patterns, labels, scale = instance(3, inputs)
        scale[0, :6] = 0
        check_counting((weights, patterns, labels, scale), 0.5, 0.08, 0.03)

    @pytest.mark.parametrize("n_errors", [0, 1])
    def test_a_unit_that_stays(self, n_errors):
        """No noise enters the first unit: its signs are certain, and one tie of it is a +1.  With errors or without."""
        weights, patterns, labels, scale = instance(3)
        scale[0] = 0
        weights[0, :2], weights[0, 2:] = 1.0, 0.0
        labels = np.where(np.count_nonzero(patterns @ weights.T >= 0, axis=1) >= 2, 1.0, -1.0)
        labels[:n_errors] *= -1
        assert np.any(patterns @ weights[0] == 0)
        check_counting((weights, patterns, labels, scale), 0.5, 0.08, 0.05)

    def test_patterns_that_only_see_weights_that_stay(self):
        """Answers that nothing can change, one of them wrong, cost nothing; what is left is the other patterns'."""
        weights, patterns, labels, scale = instance(3, "gaussian")
        scale[:, :10], patterns[:2, 10:] = 0, 0
        labels[:2] = np.sign(np.sign(patterns[:2] @ weights.T).sum(axis=1)) * [1, -1]
        problem = weights, patterns, labels, scale
        betas = np.array([1.0, 100.0])
        for method in ("bp", "ep", "mcmc"):
            everything = measure(*problem, [0.5], method, betas=betas)
            others = measure(weights, patterns[2:], labels[2:], scale, [0.5], method, betas=betas)
            assert everything.train_error == 1 / 8 and others.train_error == 0
            log_mean_exp = everything.log_mean_exp + betas
            if method == "mcmc":
                assert abs(everything.phi - others.phi) < 4 * np.hypot(everything.std_error, others.std_error)
                error = np.hypot(everything.log_mean_exp_error, others.log_mean_exp_error)
                assert np.all(np.abs(log_mean_exp - others.log_mean_exp) < 4 * error)
            else:
                assert_same(everything, others)
                assert_allclose(log_mean_exp, others.log_mean_exp, rtol=1e-9)
                assert_allclose(everything.mean_errors - 1, others.mean_errors, atol=1e-12)


class TestPlainTwins:
    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    @pytest.mark.parametrize("method", ["bp", "bp-edge", "ep"])
    def test_naive(self, method, inputs):
        problem = instance(3, inputs, n_patterns=6)
        plain = naive.expectation_propagation if method == "ep" else naive.belief_propagation
        *machine, scale = problem
        curve = measure(*problem, [0.5], method)
        assert_allclose([curve.log_z[0], curve.distance[0]], plain(*machine, 0.5, 100, scale), rtol=1e-9)

    @pytest.mark.parametrize("method", ["bp", "ep"])
    @pytest.mark.parametrize("options", [{}, {"beta": 2.0}, {"betas": [0.0, 2.0]}, {"distances": [0.05, 0.25]}])
    def test_references_together(self, method, options):
        """Machines without errors and with some, one of which has weights that stay, through torch."""
        weights, patterns, labels, scale = instance(3, n_patterns=20)
        references = weights + 0.1 * np.arange(3)[:, None, None] * np.random.default_rng(0).normal(size=weights.shape)
        scales = scale * np.array([1.0, 1.0, 0.5])[:, None, None]
        scales[1, 0, :4] = 0
        deltas = None if "distances" in options else [0.01, 0.3, 1.0]
        apart, together = (
            measure(references, patterns, labels, scales, deltas, method, device=device, **options)
            for device in (None, "cpu")
        )
        assert together.converged.all() and together.train_error[2] > 0
        assert_same(together, apart, rtol=1e-8)
        assert_array_equal(together.n_weights, [63, 59, 63])
        if "betas" in options:
            for name in ("log_mean_exp", "mean_errors"):
                assert_allclose(getattr(together, name), getattr(apart, name), rtol=1e-8, atol=1e-12)


class TestMeaning:
    @pytest.mark.parametrize("method", METHODS)
    def test_default(self, method):
        """No scales are the root mean square of each row, in the units of the weights as given."""
        weights, patterns, labels, _ = instance(3)
        weights *= [[0.1], [1.0], [7.0]]
        scale = np.broadcast_to(np.sqrt(np.mean(weights**2, axis=1, keepdims=True)), weights.shape)
        given, default = (measure(weights, patterns, labels, s, [0.01, 0.5], method) for s in (scale, None))
        assert (given.scale, default.scale, default.n_weights) == ("given", "isotropic", 63)
        if method == "mcmc":
            assert np.all(np.abs(given.phi - default.phi) < 4 * np.hypot(given.std_error, default.std_error))
        else:
            assert_same(given, default)

    @pytest.mark.parametrize("method", ["bp", "bp-edge", "ep"])
    def test_rows_and_their_scales_together(self, method):
        """Any positive factor for each row changes nothing; also in `test_any_finite_scale` of the default."""
        weights, patterns, labels, scale = instance(3, "gaussian")
        rows = np.array([[1e-200], [3.0], [1e200]])
        deltas = [0.01, 0.5]
        plain, scaled = (
            measure(w, patterns, labels, s, deltas, method)
            for w, s in ((weights, scale), (rows * weights, rows * scale))
        )
        assert_same(scaled, plain)
        word, array = (
            measure(rows * weights, patterns, labels, s, deltas, method)
            for s in ("multiplicative", abs(rows * weights))
        )
        assert (word.scale, array.scale) == ("multiplicative", "given")
        assert_same(word, array, rtol=0)
        assert_same(word, measure(weights, patterns, labels, abs(weights), deltas, method))

    @pytest.mark.parametrize("method", ["bp", "bp-edge", "ep"])
    def test_units(self, method):
        """The prior is N(w, Δ s²): scales c times as large at Δ/c², and d in units of them."""
        problem = instance(3)
        plain = measure(*problem, [0.09, 0.9], method)
        wide = measure(*problem[:3], 3 * problem[3], [0.01, 0.1], method)
        assert_allclose([wide.log_z, 9 * wide.distance, wide.phi], [plain.log_z, plain.distance, plain.phi], rtol=1e-9)

    @pytest.mark.parametrize("method", ["bp", "bp-edge", "ep"])
    def test_tiny_scales_are_zeros(self, method):
        """A weight stays as s → 0; n alone tells."""
        weights, patterns, labels, scale = instance(3, "gaussian")
        stay, tiny = scale.copy(), scale.copy()
        stay[:, ::2], tiny[:, ::2] = 0, 1e-9
        at_zero, nearly = (measure(weights, patterns, labels, s, [0.5], method) for s in (stay, tiny))
        assert (at_zero.n_weights, nearly.n_weights) == (30, 63)
        assert_allclose(30 * at_zero.log_z, 63 * nearly.log_z, rtol=1e-9)
        assert_allclose(30 * (at_zero.distance - 0.25), 63 * (nearly.distance - 0.25), rtol=1e-9)

    def test_one_array_for_all_references(self):
        weights, patterns, labels, scale = instance(3)
        both = measure([weights, -weights], patterns, labels, scale, [0.1, 0.5])
        assert_same(both, measure([weights, -weights], patterns, labels, [scale, scale], [0.1, 0.5]), rtol=0)
        assert_array_equal(both.phi[0], measure(weights, patterns, labels, scale, [0.1, 0.5]).phi)
        assert_array_equal(both.n_weights, [63, 63])

    def test_derivative_of_log_z_gives_the_distance(self):
        """``d = Δ² ∂_Δ log Z/n + Δ/2`` for scales too: exact for EP, to O(1/N) for BP."""
        problem, h = instance(3, "gaussian", n_patterns=12), 1e-4
        for method, rtol in (("ep", 1e-7), ("bp", 0.02)):
            curve = measure(*problem, [0.5 * (1 - h), 0.5, 0.5 * (1 + h)], method)
            down, _, up = curve.log_z
            assert_allclose(0.25 * (up - down) / h + 0.25, curve.distance[1], rtol=rtol)


def test_trained_machine(stored):
    """The noise of eq. 4 on SGD slow, σ = 0.3: more than half of its samples make no error, so they can be counted.

    Expectation propagation is as far off as under the isotropic prior, and log ⟨e^{-βE}⟩ begins at the local energy.
    """
    weights, _, labels = problem = stored[0][1]
    errors, _ = naive.prior_samples(*problem, 0.09, abs(weights), 3000)
    right = np.mean(errors == 0)
    by_mcmc, by_ep = (
        measure(*problem, "multiplicative", [0.09], method, n_samples=400, tolerance=1e-9) for method in ("mcmc", "ep")
    )
    noise = np.hypot(by_mcmc.std_error[0] * 7056, np.sqrt((1 - right) / right / len(errors)))
    assert abs(by_mcmc.log_z[0] * 7056 - np.log(right)) < 4 * noise
    assert 1.0 < by_ep.log_z[0] * 7056 / np.log(right) < 1.22
    cumulants = measure(*problem, "multiplicative", [0.09], betas=[0.0], tolerance=1e-9).cumulants()
    profile = local_energy(*problem, [0.3], method="exact")
    assert_allclose(cumulants.mean_errors[0, 0], len(labels) * profile.delta_error[0], rtol=1e-10)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("additive", "prior_scale 'additive' is unknown; choose one of 'multiplicative'"),
        (np.ones((3, 20)), r"prior_scale must have the shape of weights, \(2, 3, 21\), not \(3, 20\)"),
        (1.0, r"prior_scale must have the shape of weights, \(2, 3, 21\), not \(\)"),
        (np.full((3, 21), np.nan), "prior_scale contain NaN or infinite"),
        (np.full((3, 21), -0.5), "prior_scale must be at least 0; found -0.5"),
        (np.ones((2, 3, 21)) * [[[1.0]], [[0.0]]], "prior_scale is zero for all weights of a reference"),
        (np.full((3, 21), 1e14), "prior_scale must be at most 1e.12 times the largest weight of its hidden unit"),
        (np.ones((3, 21), bool), "prior_scale must be an array of real numbers"),
    ],
)
def test_bad_scales(scale, message):
    weights, patterns, labels, _ = instance(3)
    with pytest.raises(ValueError, match=message):
        measure([weights, weights], patterns, labels, scale, [0.5])
