"""The local posterior: exact moments, rejection sampling, limits, and one answer however it is computed."""

import doctest
import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal, norm, truncnorm

from bpflat import LocalEntropyCurve, committee, local_energy, local_entropy, posterior
from bpflat.estimators import ep
from bpflat.estimators.continuation import reach
from bpflat.estimators.problem import Problem
from tests.instances import random_instance

METHODS = ("bp", "bp-edge", "ep", "mcmc")
SAMPLING = {"seed": 0, "n_chains": 8, "n_samples": 1500}
MOMENTS = ("weight_mean", "weight_variance")


def new_patterns(n_inputs, n_patterns=40, inputs="binary"):
    return random_instance(n_inputs, 1, n_patterns, inputs=inputs, seed=9)[1]


def measure(weights, patterns, labels, deltas, method="bp", **options):
    options = (SAMPLING if method == "mcmc" else {"tolerance": 1e-11}) | {"marginals": True} | options
    return local_entropy(weights, patterns, labels, deltas, method=method, **options)


class TestOnePattern:
    """All that follows from one training pattern, by enumeration of the signs of K = 1 or 3 hidden units."""

    DELTA = 0.8

    @pytest.fixture(params=[1, 3])
    def problem(self, request):
        weights, patterns, _ = random_instance(31, request.param, 1)
        return weights, patterns, committee.predict(weights, patterns).astype(float)

    @staticmethod
    def right_signs(n_hidden, label):
        return [s for s in itertools.product((-1, 1), repeat=n_hidden) if sum(s) * label > 0]

    def moments(self, weights, patterns, labels):
        """Z, means and variances of the pre-activations under N(w, Δ) where the vote is right."""
        hidden, deviation = weights @ patterns[0] / np.sqrt(31), np.sqrt(self.DELTA)
        total, first, second = 0.0, 0.0, 0.0
        for signs in self.right_signs(len(weights), labels[0]):
            ends = (np.where(np.array(signs) > 0, [0.0], -np.inf), np.where(np.array(signs) > 0, np.inf, 0.0))
            half = truncnorm(*((end - hidden) / deviation for end in ends), hidden, deviation)
            weight = np.prod(norm.cdf(np.array(signs) * hidden / deviation))
            total += weight
            first += weight * half.mean()
            second += weight * (half.var() + half.mean() ** 2)
        return total, first / total, second / total - (first / total) ** 2

    @pytest.fixture
    def exact(self, problem):
        weights, patterns, _ = problem
        _, mean, variance = self.moments(*problem)
        along = patterns[0] / np.sqrt(31)  # of length 1
        shift = mean - weights @ along
        return (
            weights + shift[:, None] * along,
            self.DELTA + (variance - self.DELTA)[:, None] * along**2,
            np.mean((weights + shift[:, None] * along) ** 2),
        )

    def votes(self, problem, new):
        """Probabilities of votes for +1, from orthants of the two pre-activations of each unit."""
        weights, patterns, labels = problem
        both = np.stack([np.broadcast_to(patterns[0], new.shape), new], axis=1) / np.sqrt(31)
        probabilities = []
        for pair in both:
            hidden, covariance = weights @ pair.T, self.DELTA * pair @ pair.T
            orthant = {}
            for s, t in itertools.product((-1, 1), repeat=2):
                signs = np.array([s, t])
                flipped = covariance * np.outer(signs, signs)
                orthant[s, t] = [multivariate_normal(np.zeros(2), flipped).cdf(signs * h) for h in hidden]
            joint = {1: 0.0, -1: 0.0}
            for signs in self.right_signs(len(weights), labels[0]):
                for votes in itertools.product((-1, 1), repeat=len(weights)):
                    share = np.prod([orthant[st][k] for k, st in enumerate(zip(signs, votes, strict=True))])
                    joint[1 if sum(votes) > 0 else -1] += share
            probabilities.append(joint[1] / (joint[1] + joint[-1]))
        return np.array(probabilities)

    def test_moments(self, problem, exact):
        """Exact by EP; BP's variances to O(1/N²); by Monte Carlo to its standard errors."""
        mean, variance, overlap = exact
        for method in METHODS:
            curve = measure(*problem, [self.DELTA], method)
            if method == "mcmc":
                for name, value in zip(MOMENTS, (mean, variance), strict=True):
                    pulls = (getattr(curve, name)[0] - value) / getattr(curve, f"{name}_error")[0]
                    assert np.all(np.abs(pulls) < 4) and np.any(np.abs(pulls) > 0.01)
                assert abs(curve.overlap[0] - overlap) < 3 * curve.overlap_error[0]
            else:
                assert_allclose(curve.weight_mean[0], mean, atol=1e-9 if method == "ep" else 2e-3)
                assert_allclose(curve.weight_variance[0], variance, atol=1e-9 if method == "ep" else 2e-3)
                assert_allclose(curve.overlap, overlap, rtol=1e-9 if method == "ep" else 2e-3)

    def test_votes(self, problem):
        new = new_patterns(31, 8)
        exact = self.votes(problem, new)
        assert np.ptp(exact) > 0.3
        for method in METHODS:
            curve = measure(*problem, [self.DELTA], method, predict_at=new)
            if method == "mcmc":
                spread = curve.vote_jackknife[0].std(axis=0) * np.sqrt(SAMPLING["n_chains"] - 1)
                assert np.all(np.abs(curve.vote_probability[0] - exact) < 4 * spread)
            else:  # pre-activations that are not Gaussian, of units that are not independent
                assert_allclose(curve.vote_probability[0], exact, atol=0.02)


CASES = {
    "binary": ("binary", 0, False),
    "gaussian": ("gaussian", 0, False),
    "errors": ("binary", 2, False),
    "scales": ("gaussian", 0, True),
}


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


class TestRejection:
    """K = 3 against samples of the prior, of which those are kept that make no more errors than the reference."""

    @pytest.fixture(params=CASES, scope="class")
    @classmethod
    def case(cls, request):
        """A problem, its scales if it has some, new patterns with the reference's labels, and samples (M, K, N)."""
        inputs, n_errors, scaled = CASES[request.param]
        weights, patterns, labels = random_instance(21, 3, 8, inputs=inputs)
        labels[:n_errors] *= -1
        rng = np.random.default_rng(2)
        scale = rng.gamma(2.0, 0.5, weights.shape) if scaled else np.ones(weights.shape)
        if scaled:
            scale[0, :6] = 0
        samples = weights + np.sqrt(0.6) * scale * rng.normal(size=(40_000, 3, 21))
        kept = np.count_nonzero(committee.predict(samples, patterns) != labels, axis=1) <= n_errors
        new = new_patterns(21, inputs=inputs)
        options = {"prior_scale": scale} if scaled else {}
        return (weights, patterns, labels), options, (new, committee.predict(weights, new)), samples[kept]

    @pytest.mark.parametrize("method", METHODS)
    def test_all(self, case, method):
        problem, options, (new, truth), samples = case
        if method == "bp-edge" and committee.error(*problem):
            pytest.skip("messages on edges allow no errors")
        curve = measure(*problem, [0.6], method, predict_at=new, **options)
        assert curve.converged[0] and len(samples) > 2000
        wrong = committee.predict(samples, new) != truth
        counted, noise = wrong.mean(), wrong.mean(axis=1).std() / np.sqrt(len(samples))
        gibbs, own = curve.test_error(truth)
        bias = {"mcmc": 0.0, "ep": 0.01}.get(method, 0.03) * counted
        assert abs(gibbs[0] - counted) < 3 * np.hypot(noise, np.nan_to_num(own[0])) + bias
        sampled = 1 - np.abs((truth < 0) - wrong.mean(axis=0))  # probability of +1
        clear = np.abs(sampled - 0.5) > 0.05
        assert_array_equal(curve.predict()[0][clear], np.where(sampled > 0.5, 1, -1)[clear])
        bayes, _ = curve.test_error(truth, rule="bayes")
        assert_allclose(bayes[0], np.mean(curve.predict()[0] != truth), rtol=1e-12)
        variance = samples.var(axis=0)
        noises = np.sqrt(variance / len(samples)), np.sqrt(2 / len(samples)) * variance
        for name, value, noise in zip(MOMENTS, (samples.mean(axis=0), variance), noises, strict=True):
            own = getattr(curve, f"{name}_error")[0] if method == "mcmc" else 0.0
            bias = {"mcmc": 0.0, "ep": 0.01}.get(method, 0.03)
            assert rms(getattr(curve, name)[0] - value) < 1.6 * rms(np.hypot(noise, own)) + bias
        half = len(samples) // 2
        pairs = np.sum(samples[:half].mean(axis=0) * samples[half:].mean(axis=0)) / samples[0].size
        assert_allclose(curve.overlap[0], pairs, rtol=0.03)
        along = np.sum(samples * problem[0], axis=(1, 2)) / samples[0].size
        error = np.hypot(along.std() / np.sqrt(len(along)), np.nan_to_num(curve.reference_overlap_error[0]))
        assert abs(curve.reference_overlap[0] - along.mean()) < 3 * error + (0 if method == "mcmc" else 0.002)


class TestLimits:
    @pytest.fixture
    def instance(self):
        return random_instance(51, 3, 30)

    @pytest.mark.parametrize("method", METHODS)
    def test_near_the_reference(self, instance, method):
        """The limit d → 0: its own predictions and test error, and nothing but itself."""
        new = new_patterns(51)
        labels = np.random.default_rng(0).choice([-1.0, 1.0], 40)
        curve = measure(*instance, [1e-10], method, predict_at=new)
        assert_array_equal(curve.predict()[0], committee.predict(instance[0], new))
        for balanced in (False, True):
            for rule in ("gibbs", "bayes"):
                error, _ = curve.test_error(labels, rule=rule, balanced=balanced)
                assert_allclose(error, committee.error(instance[0], new, labels, balanced=balanced), atol=1e-9)
        assert_allclose([curve.overlap, curve.reference_overlap], 1, atol=1e-5)
        assert_allclose(curve.weight_mean[0], instance[0], atol=1e-4)

    @pytest.mark.parametrize("scale", [None, "multiplicative"])
    @pytest.mark.parametrize("method", ["bp", "ep", "mcmc"])
    def test_prior(self, instance, method, scale):
        """Training patterns whose errors cost nothing leave the prior: the local energy, at new patterns.

        On patterns of ±1 isotropic and multiplicative noise move a pre-activation alike.
        """
        new, labels = new_patterns(51), np.random.default_rng(0).choice([-1.0, 1.0], 40)
        deltas = np.array([0.1, 1.0])
        curve = measure(*instance, deltas, method, predict_at=new, beta=1e-12, prior_scale=scale)
        energy = local_energy(instance[0], new, labels, np.sqrt(deltas), method="exact")
        gibbs, error = curve.test_error(labels)
        variance = deltas[:, None, None] * (1 if scale is None else instance[0] ** 2)
        if method == "mcmc":
            assert np.all(np.abs(gibbs - energy.train_error - energy.delta_error) < 4 * error)
            assert np.all(np.abs(curve.overlap - 1) < 4 * curve.overlap_error)
            pulls = (curve.weight_variance - variance) / curve.weight_variance_error
            assert np.mean(np.abs(pulls) < 3) > 0.95
        else:
            assert_allclose(gibbs, energy.train_error + energy.delta_error, rtol=1e-9)
            assert_allclose([curve.overlap, curve.reference_overlap], 1, rtol=1e-9)
            assert_allclose(curve.weight_variance, np.broadcast_to(variance, curve.weight_variance.shape), rtol=1e-9)

    @pytest.mark.parametrize("method", METHODS)
    def test_distance(self, instance, method):
        """``2d = ⟨|w' - w|²⟩/n``, from the marginals."""
        curve = measure(*instance, [0.1, 1.0], method)
        squares = np.mean((curve.weight_mean - instance[0]) ** 2 + curve.weight_variance, axis=(-2, -1))
        assert_allclose(squares, 2 * curve.distance, rtol=0.02 if method == "mcmc" else 1e-9)
        norms = np.mean(curve.weight_mean**2 + curve.weight_variance, axis=(-2, -1))
        assert_allclose(norms, 2 * curve.distance + 2 * curve.reference_overlap - 1, rtol=0.02)

    @pytest.mark.parametrize("scaled", [False, True])
    def test_covariances_of_ep(self, scaled):
        """Variances of weights and of pre-activations from the inverse of ``1/(Δs²) + x̂ᵀ τ x̂``."""
        weights, patterns, labels = random_instance(15, 3, 20, inputs="gaussian")
        scale = np.random.default_rng(0).gamma(2.0, 0.5, weights.shape) if scaled else np.ones(weights.shape)
        problem = Problem.of(weights, patterns, labels, scale=scale if scaled else None)
        point = ep.solve(problem, 0.7)
        found, new, x = ep.posterior(problem, point), new_patterns(15), patterns / np.sqrt(15)
        for k, tau in enumerate(point.messages[1]):
            covariance = np.linalg.inv(np.diag(1 / (0.7 * scale[k] ** 2)) + x.T * tau @ x)
            assert_allclose(found.variance[k], np.diag(covariance), rtol=1e-9)
            assert_allclose(found.variance_along(new)[k], np.sum(new @ covariance * new, axis=1), rtol=1e-9)


class TestOneAnswer:
    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    def test_edges(self, inputs):
        problem, new = random_instance(31, 3, 20, inputs=inputs), new_patterns(31)
        nodes, edges = (measure(*problem, [0.1, 1.0], m, predict_at=new) for m in ("bp", "bp-edge"))
        for name in ("overlap", "reference_overlap", "vote_probability", *MOMENTS):
            assert_allclose(getattr(nodes, name), getattr(edges, name), rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("scale", [None, "multiplicative"])
    @pytest.mark.parametrize("method", ["bp", "ep"])
    def test_references_together(self, method, scale):
        weights, patterns, labels = random_instance(31, 3, 20)
        references = weights + 0.1 * np.arange(3)[:, None, None] * np.random.default_rng(0).normal(size=weights.shape)
        options = {"distances": [0.05, 0.2], "predict_at": new_patterns(31), "prior_scale": scale}
        apart, together = (
            measure(references, patterns, labels, None, method, device=device, **options) for device in (None, "cpu")
        )
        assert apart.vote_probability.shape == (3, 2, 40) and apart.weight_mean.shape == (3, 2, 3, 31)
        for name in ("overlap", "reference_overlap", "vote_probability", *MOMENTS):
            assert_allclose(getattr(apart, name), getattr(together, name), rtol=1e-7)

    def test_chains_do_not_depend_on_the_question(self):
        problem, new = random_instance(31, 3, 20), new_patterns(31)
        options = {"n_samples": 205, "n_chains": 2, "seed": 3}
        plain = local_entropy(*problem, [0.1, 1.0], method="mcmc", **options)
        asked = local_entropy(*problem, [0.1, 1.0], method="mcmc", predict_at=new, marginals=True, **options)
        for name in ("phi", "std_error", "distance", "n_iter"):
            assert_array_equal(getattr(plain, name), getattr(asked, name))


def test_examples():
    """Those of methods that the curve inherits."""
    results = doctest.testmod(posterior)
    assert results.attempted and not results.failed


class TestHeld:
    @pytest.fixture(params=["bp", "mcmc"])
    def curve(self, request):
        """A curve with one point that did not converge: a ladder, or Newton's method, is given no room."""
        options = {"seed": 0, "n_samples": 200, "n_chains": 2} if request.param == "mcmc" else {}
        problem = random_instance(31, 3, 20)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bpflat.estimators.monte_carlo._LONGEST", 2)
            if request.param == "bp":
                patch.setattr("bpflat.estimators.continuation.reach", failing(0.5))
            deltas = [1e-3, 100.0] if request.param == "mcmc" else [0.1, 1.0]
            return local_entropy(
                *problem, deltas, method=request.param, predict_at=new_patterns(31), marginals=True, **options
            )

    def test_not_converged(self, curve):
        assert_array_equal(curve.converged, [True, False])
        for name in ("overlap", "vote_probability", *MOMENTS):
            unknown = np.isnan(getattr(curve, name))
            assert not unknown[0].any() and unknown[1].all()
        assert set(curve.predict()[0]) == {-1, 1} and not curve.predict()[1].any()
        for rule in ("gibbs", "bayes"):
            assert_array_equal(np.isnan(curve.test_error(np.ones(40), rule=rule)[0]), [False, True])

    def test_round_trip(self, curve, tmp_path):
        curve.save(tmp_path / "curve.npz")
        back = LocalEntropyCurve.load(tmp_path / "curve.npz")
        assert back == curve
        assert_array_equal(back.predict(), curve.predict())

    def test_nothing_held(self):
        problem = random_instance(31, 3, 20)
        curve = local_entropy(*problem, [0.1])
        assert curve.overlap is None and curve.weight_mean is None
        for call in (curve.predict, lambda: curve.test_error([1.0])):
            with pytest.raises(ValueError, match="holds no predictions; measure it with predict_at"):
                call()
        assert local_entropy(*problem, [0.1], marginals=True).vote_probability is None
        assert local_entropy(*problem, [0.1], predict_at=problem[1]).weight_mean is None

    def test_refused(self, curve):
        with pytest.raises(ValueError, match="one class only"):
            curve.test_error(np.ones(40), balanced=True)
        with pytest.raises(ValueError, match="labels must have shape"):
            curve.test_error(np.ones(39))
        with pytest.raises(ValueError, match="rule"):
            curve.test_error(np.ones(40), rule="vote")


def failing(largest):
    """`continuation.reach` that fails beyond a Δ."""

    def stopped(delta, start, **options):
        point = yield from reach(delta, start, **options)
        return replace(point, converged=point.converged and delta < largest)

    return stopped
