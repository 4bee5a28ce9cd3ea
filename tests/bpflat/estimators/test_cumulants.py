"""The cumulant generating function ``log ⟨e^{-βE}⟩``: from the local energy to the local entropy, by all methods."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bpflat import local_energy, local_entropy
from bpflat.estimators import monte_carlo
from tests.instances import random_instance
from tests.naive import committee as naive

SIGMAS = np.array([0.3, 0.8])
BETAS = [0.0, 0.2, 1.0, 3.0, 40.0]


@pytest.fixture(scope="module", params=[(1, 0), (3, 0), (3, 2)], ids=["K=1", "K=3", "errors"])
def problem(request):
    """Machines with K = 1 and 3, one of which makes two errors."""
    n_hidden, n_errors = request.param
    weights, patterns, labels = random_instance(41, n_hidden, 12, seed=1)
    labels[:n_errors] *= -1
    return weights, patterns, labels


@pytest.fixture(scope="module")
def curves(problem):
    """Curves by all methods, under the noise of eq. 4."""
    options = {"prior_scale": "multiplicative", "betas": BETAS, "seed": 0}
    return {m: local_entropy(*problem, SIGMAS**2, method=m, **options) for m in ("bp", "ep", "mcmc")}


class TestMultiplicative:
    def test_counting(self, problem, curves):
        """Agreement with plain samples: Monte Carlo to 4 standard errors, BP and EP to 5 %."""
        weights, patterns, labels = problem
        for s, sigma in enumerate(SIGMAS):
            errors, _ = naive.prior_samples(weights, patterns, labels, sigma**2, abs(weights), 300_000)
            for method, curve in curves.items():
                cumulants = curve.cumulants()
                for b, beta in enumerate(BETAS[:4]):
                    factors = np.exp(-beta * errors)
                    counted, noise = np.log(factors.mean()), factors.std() / factors.mean() / np.sqrt(len(errors))
                    own = np.nan_to_num(cumulants.std_error[s, b])
                    bias = 0 if method == "mcmc" else 0.05 * abs(counted)
                    assert abs(cumulants.log_mean_exp[s, b] - counted) <= 4 * np.hypot(noise, own) + bias + 1e-12
                    mean = np.mean(factors * errors) / factors.mean()
                    assert_allclose(cumulants.mean_errors[s, b], mean, rtol=0.05, atol=0.02)

    def test_slope_is_the_local_energy(self, problem, curves):
        """``log ⟨e^{-βE}⟩`` is 0 at β = 0, with the slope -P (δE + E_train) of the exact formula of eq. 4."""
        profile = local_energy(*problem, SIGMAS, method="exact")
        mean = len(problem[2]) * (profile.delta_error + profile.train_error)
        for method, curve in curves.items():
            cumulants = curve.cumulants()
            assert_allclose(cumulants.log_mean_exp[:, 0], 0, atol=1e-12)
            assert_allclose(cumulants.mean_errors[:, 0], mean, rtol=0.05 if method == "mcmc" else 1e-10)
        assert_array_equal(curves["mcmc"].cumulants().std_error[:, 0], 0)

    @pytest.mark.parametrize(("method", "rtol"), [("bp", 3e-3), ("ep", 1e-6)])
    def test_derivative(self, problem, method, rtol):
        """``-∂_β log ⟨e^{-βE}⟩ = ⟨E⟩_β``: exactly at β = 0, from one side; elsewhere for EP, and for BP to O(1/N)."""
        h = 1e-4
        betas = [0.0, h, 2 * h, 1 - h, 1.0, 1 + h]
        options = {"prior_scale": "multiplicative", "tolerance": 1e-11}
        cumulants = local_entropy(*problem, [0.1, 0.5], method=method, betas=betas, **options).cumulants()
        log_z, mean = cumulants.log_mean_exp.T, cumulants.mean_errors.T
        assert_allclose((3 * log_z[0] - 4 * log_z[1] + log_z[2]) / (2 * h), mean[0], rtol=1e-5)
        assert_allclose((log_z[3] - log_z[5]) / (2 * h), mean[4], rtol=rtol)

    def test_tail_is_the_local_entropy(self, problem, curves):
        """The limit β → ∞ is log P(E = 0), which is log Z of a reference without errors."""
        for method, curve in curves.items():
            cumulants, n = curve.cumulants(), curve.n_weights
            assert np.all(np.diff(cumulants.log_mean_exp) < 0)
            if curve.train_error:
                assert np.all(cumulants.log_mean_exp[:, -1] < n * curve.log_z)
            elif method == "mcmc":
                error = np.hypot(cumulants.std_error[:, -1], n * curve.std_error)
                assert np.all(np.abs(cumulants.log_mean_exp[:, -1] - n * curve.log_z) < 4 * error)
            else:
                assert_allclose(cumulants.log_mean_exp[:, -1], n * curve.log_z, rtol=1e-8)
            assert np.isnan(cumulants.std_error).all() == (method != "mcmc")


class TestCall:
    def test_points_do_not_depend_on_the_costs(self):
        problem = random_instance(31, 3, 12)
        for method in ("bp", "mcmc"):
            options = {"method": method, "seed": 3, "n_samples": 200}
            plain, with_costs = (local_entropy(*problem, [0.1, 1.0], betas=b, **options) for b in (None, [0.0, 1.0]))
            for name in ("log_z", "distance", "phi", "std_error"):
                assert_array_equal(getattr(with_costs, name), getattr(plain, name))
            with pytest.raises(ValueError, match="holds no cumulants"):
                plain.cumulants()

    @pytest.mark.parametrize("method", ["bp", "mcmc"])
    def test_some_references_at_distances(self, method):
        """Each at the Δ that leads there, as if alone."""
        weights, patterns, labels = random_instance(31, 3, 12)
        options = {"method": method, "seed": 0, "n_samples": 300, "betas": [0.0, 0.5, 2.0]}
        references = [weights, weights + 0.5]
        curve = local_entropy(references, patterns, labels, distances=[0.05, 0.3], **options)
        cumulants = curve.cumulants()
        for array in (cumulants.log_mean_exp, cumulants.std_error, cumulants.mean_errors):
            assert array.shape == (2, 2, 3)
        alone = local_entropy(references[1], patterns, labels, curve.delta[1], **options).cumulants()
        error = 4 * np.hypot(alone.std_error, cumulants.std_error[1]) if method == "mcmc" else 1e-9
        assert np.all(np.abs(alone.log_mean_exp - cumulants.log_mean_exp[1]) <= error)

    def test_coverage(self):
        """The 95 % intervals of 91 to 99 % of 200 seeds hold the exact value, between rungs and beyond."""
        weights, patterns, labels = random_instance(20, 3, 2)
        labels[0] *= -1
        hard, soft = (np.exp(z) for z in naive.two_patterns(weights, patterns, labels, 2.0))  # P(E = 0), P(E ≤ 1)
        betas = [0.3, 1.5, 4.0]
        exact = [np.log(hard + (soft - hard) * np.exp(-b) + (1 - soft) * np.exp(-2 * b)) for b in betas]
        held = []
        for seed in range(200):
            options = {"method": "mcmc", "n_samples": 300, "seed": seed, "betas": betas}
            cumulants = local_entropy(weights, patterns, labels, [2.0], **options).cumulants()
            held.append(np.abs(cumulants.log_mean_exp[0] - exact) < 1.96 * cumulants.std_error[0])
        assert np.all((np.mean(held, axis=0) > 0.91) & (np.mean(held, axis=0) < 0.99))

    def test_errors_that_nothing_mends(self):
        """All the weight is with the fewest errors at a cost of 1e6: no underflow, and -βE on top."""
        weights, patterns, labels = random_instance(31, 1, 6)
        labels[:1] = -labels[:1]
        options = {"method": "mcmc", "n_samples": 300, "seed": 0, "betas": [1e3, 1e6]}
        cumulants = local_entropy(weights, patterns, labels, [1e-4], **options).cumulants()
        assert_array_equal(cumulants.mean_errors, [[1, 1]])
        assert_allclose(cumulants.log_mean_exp, [[-1e3, -1e6]], rtol=1e-3)

    def test_nothing_happens(self):
        """No error in all samples: 0, with a standard error of one event."""
        options = {"method": "mcmc", "n_samples": 200, "seed": 0, "betas": [0.0, 0.5]}
        cumulants = local_entropy(*random_instance(201, 3, 2), [1e-6], **options).cumulants()
        assert_array_equal(cumulants.log_mean_exp, [[0, 0]])
        assert_allclose(cumulants.std_error, [[0, -np.expm1(-0.5) / 800]])

    def test_what_did_not_converge_is_nan(self, monkeypatch):
        """A ladder that ends too early gives the costs that it reaches."""
        monkeypatch.setattr(monte_carlo, "_LONGEST", 3)
        options = {"method": "mcmc", "n_samples": 400, "seed": 0, "betas": [0.0, 0.1, 50.0]}
        cumulants = local_entropy(*random_instance(101, 3, 100), [1.0], **options).cumulants()
        assert_array_equal(np.isnan(cumulants.log_mean_exp), [[False, False, True]])
        assert_array_equal(np.isnan(cumulants.mean_errors), [[False, False, True]])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"betas": [1.0, 0.5]}, "betas must rise strictly"),
            ({"betas": [-1.0]}, "betas must be at least 0"),
            ({"betas": [1e7]}, "betas must lie between 0 and 1e.06"),
            ({"betas": []}, "betas must be a non-empty"),
            ({"betas": [1.0], "method": "bp-edge"}, "betas needs another method"),
        ],
    )
    def test_bad_costs(self, options, message):
        with pytest.raises(ValueError, match=message):
            local_entropy(*random_instance(31, 3, 12), **options)
