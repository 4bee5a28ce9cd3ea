"""The local entropy of torch models against closed forms, the committee machine's own estimators, and counting."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from torch import nn

import bpflat
from bpflat.flatness import local_energy, local_entropy
from bpflat.flatness.scales import filter_scale
from tests.bpflat.flatness.toy_models import surest
from tests.instances import random_instance

SIGMAS = np.sqrt([0.05, 0.1, 0.25, 0.5, 1.0])


class Committee(nn.Module):
    """Eq. 7."""

    def __init__(self, weights):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights))

    def forward(self, x):
        return torch.where(x @ self.w.T >= 0, 1.0, -1.0).sum(dim=1)


def squares(outputs, batch):
    return 0.5 * (outputs[:, 0] - batch[1]) ** 2


@pytest.mark.parametrize("n", [10, 100, 1000, 10_000])
def test_linear_gaussian(n):
    """``log Z = −½ log det(1 + βσ² X Xᵀ)``, the learning coefficient and the distance, within 3 standard errors."""
    generator = torch.Generator().manual_seed(n)
    inputs = torch.randn(5, n, generator=generator, dtype=torch.float64) / n**0.5
    model = nn.Linear(n, 1, bias=False).double()
    data = inputs, model(inputs)[:, 0].detach()
    options = {"forward": lambda model, batch: model(batch[0]), "loss": squares, "beta": 1.0, "seed": 1}
    curve = local_entropy(model, data, [2.0], scale="isotropic", n_samples=200, n_chains=8, **options)
    spread = 4.0 * np.linalg.eigvalsh((inputs @ inputs.T).numpy())
    assert curve.converged[0] and curve.measure == "cost" and np.isnan(curve.train_error)
    assert abs(curve.log_z[0] * n + 0.5 * np.log1p(spread).sum()) < 3 * curve.std_error[0] * n < 0.9
    expected = 0.5 * (spread / (1 + spread)).sum()
    assert abs(curve.learning_coefficient[0] - expected) < 3 * curve.learning_coefficient_error[0] < 0.5
    # |z|² has about its prior's variance, 2n, and independent samples are at most as many as those of log Z
    assert abs(curve.distance[0] - 2.0 * (1 - 2 * expected / n)) < 4 * 2.0 * np.sqrt(2 / n / curve.ess[0])
    cumulants = curve.cumulants()
    middle = 0.5 * np.log1p(cumulants.beta[:, None] * spread).sum(axis=1)
    assert (abs(cumulants.log_mean_exp[0] + middle)[1:] < 4 * cumulants.std_error[0, 1:]).all()


@pytest.mark.parametrize(("n_hidden", "n_errors"), [(1, 0), (1, 2), (3, 0), (3, 2)])
def test_committee_machine(n_hidden, n_errors):
    """Five σ within 3 standard errors of the committee machine's own Monte Carlo, and of counting, for two E₀."""
    weights, patterns, labels = random_instance(31, n_hidden, 12, seed=2)
    labels[:n_errors] *= -1
    data = torch.tensor(patterns), torch.tensor(labels)
    options = {"scale": "isotropic", "n_samples": 300, "n_chains": 16, "seed": 0, "together": 256}
    curve = local_entropy(Committee(weights), data, SIGMAS, **options)
    other = bpflat.local_entropy(weights, patterns, labels, SIGMAS**2, method="mcmc", seed=0, n_samples=2000)
    n = weights.size
    assert curve.converged.all() and curve.n_weights == n and curve.train_error == n_errors / 12
    assert_allclose(curve.delta, other.delta)
    for name in ("log_z", "phi"):
        difference = abs(getattr(curve, name) - getattr(other, name))
        assert (difference < 3 * np.hypot(curve.std_error, other.std_error)).all(), name
    assert (abs(curve.distance / other.distance - 1) < 4 * np.sqrt(2 / n / np.minimum(curve.ess, 2000))).all()
    rng = np.random.default_rng(0)
    for sigma, log_z, error in zip(SIGMAS, curve.log_z, curve.std_error, strict=True):
        samples = weights + sigma * rng.standard_normal((20_000, *weights.shape))
        votes = np.count_nonzero(samples @ patterns.T >= 0, axis=1)
        allowed = np.count_nonzero((2 * votes > n_hidden) != (labels > 0), axis=1) <= n_errors
        counted = np.sqrt((1 - allowed.mean()) / allowed.sum())
        assert abs(log_z * n - np.log(allowed.mean())) < 3 * np.hypot(error * n, counted)


def test_multiplicative_scale():
    """The noise of eq. 4 on a committee machine, against its own Monte Carlo with the same prior."""
    weights, patterns, labels = random_instance(31, 3, 20, seed=2)
    data = torch.tensor(patterns), torch.tensor(labels)
    curve = local_entropy(Committee(weights), data, [0.5, 1.0], n_samples=300, n_chains=8, seed=0, together=256)
    options = {"method": "mcmc", "prior_scale": "multiplicative", "seed": 0, "n_samples": 2000}
    other = bpflat.local_entropy(weights, patterns, labels, [0.25, 1.0], **options)
    isotropic = bpflat.local_entropy(weights, patterns, labels, [1.0], **options | {"prior_scale": None})
    assert curve.converged.all() and other.converged.all()
    for name in ("log_z", "phi"):
        difference = abs(getattr(curve, name) - getattr(other, name))
        assert (difference < 3 * np.hypot(curve.std_error, other.std_error)).all(), name
    assert abs(isotropic.log_z[0] - other.log_z[1]) > 3 * np.hypot(isotropic.std_error[0], other.std_error[1])


def test_few_samples(monkeypatch):
    """Chains that disagree after the samples asked for go on until they agree, with the committee machine's result."""
    monkeypatch.setattr("bpflat.estimators.tempering.RHAT", 1.02)  # no harder problem, which would take longer
    weights, patterns, labels = random_instance(11, 1, 30, seed=2)
    data = torch.tensor(patterns), torch.tensor(labels)
    options = {"scale": "isotropic", "n_samples": 100, "seed": 0}
    once = local_entropy(Committee(weights), data, [1.0], max_passes=0, **options)
    assert np.isnan(once.phi[0]) and "raise n_samples, or max_passes" in once.message[0]
    curve = local_entropy(Committee(weights), data, [1.0], **options)
    other = bpflat.local_entropy(weights, patterns, labels, [1.0], method="mcmc", seed=0)
    assert curve.converged[0] and other.converged[0] and curve.n_iter[0] > 4 * 100
    for name in ("log_z", "phi"):
        difference = abs(getattr(curve, name) - getattr(other, name))
        assert (difference < 3 * np.hypot(curve.std_error, other.std_error)).all(), name


class Crossing(nn.Module):
    """``L = Π w_i^{2k_i}``."""

    def __init__(self, k):
        super().__init__()
        self.k, self.w = torch.tensor(k), nn.Parameter(torch.zeros(len(k), dtype=torch.float64))

    def forward(self, x):
        return (self.w ** (2 * self.k)).prod() * x


def crossing(k, beta, n_samples, n_chains):
    loss, forward = (lambda outputs, batch: outputs), (lambda model, batch: model(batch))
    options = {"scale": "isotropic", "n_samples": n_samples, "n_chains": n_chains, "seed": 0, "together": 512}
    ones = torch.ones(1, dtype=torch.float64)
    return local_entropy(Crossing(k), ones, [1.0], loss=loss, forward=forward, beta=beta, **options)


class TestNormalCrossings:
    @pytest.mark.parametrize(("k", "expected", "beta"), [([1], 0.5, 1e3), ([2], 0.25, 1e5), ([1, 2], 0.25, 1e7)])
    def test_learning_coefficient(self, k, expected, beta):
        """``min 1/(2 k_i)`` at large β, within 5 %."""
        curve = crossing(k, beta, 400, 32)
        assert curve.converged[0]
        assert curve.learning_coefficient_error[0] < 0.03 * expected
        assert_allclose(curve.learning_coefficient[0], expected, rtol=0.05)

    def test_multiplicity(self):
        """``w₁² w₂²``, where λ̂(β) nears 1/2 as 1/log β: the exact log Z and λ̂(β) at one β, by quadrature."""
        beta = 100.0
        z, mean = (
            quad(lambda w, p=p: np.exp(-w * w / 2) * (1 + 2 * beta * w * w) ** -p, -np.inf, np.inf, limit=200)[0]
            for p in (0.5, 1.5)
        )
        # w₁² w₂² has mean w₂²/(1 + 2βw₂²) at given w₂, hence ⟨βL⟩ = (1 − Z₃/₂/Z)/2
        curve = crossing([1, 1], beta, 400, 32)
        assert abs(2 * curve.log_z[0] - np.log(z / np.sqrt(2 * np.pi))) < 3 * 2 * curve.std_error[0]
        expected = 0.5 * (1 - mean / z)
        assert abs(curve.learning_coefficient[0] - expected) < 3 * curve.learning_coefficient_error[0] < 0.05


def perceptron():
    """A two-layer ReLU perceptron that makes no errors on 30 patterns, with them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        inputs = surest(model, torch.randn(300, 8).double(), 30)
    return model, (inputs, model(inputs).argmax(1))


class TestScales:
    @pytest.mark.parametrize("scale", ["multiplicative", "filter"])
    def test_rescaled_units(self, scale):
        """Each ReLU unit by a factor of its own, its outputs by the inverse: the same numbers."""
        model, data = perceptron()
        options = {"scale": scale, "n_samples": 100, "seed": 0}
        before = local_entropy(model, data, [0.5, 1.2], **options)
        factors = torch.tensor([0.1, 0.5, 1.0, 2.0, 30.0, 7.0], dtype=torch.float64)
        with torch.no_grad():
            model[0].weight *= factors[:, None]
            model[0].bias *= factors
            model[2].weight /= factors
        after = local_entropy(model, data, [0.5, 1.2], **options)
        assert_array_equal(after.n_temperatures > 1, [False, True])
        assert after.log_z[0] < -0.001
        assert_allclose(after.rhat, before.rhat, rtol=1e-12)
        assert_allclose(after.log_z, before.log_z, rtol=1e-12)
        assert_allclose(after.phi, before.phi, rtol=1e-9)

    def test_isotropic_noise_is_not_invariant(self):
        model, data = perceptron()
        options = {"scale": "isotropic", "n_samples": 100, "seed": 0}
        before = local_entropy(model, data, [0.1], **options)
        with torch.no_grad():
            model[0].weight *= 0.1
            model[0].bias *= 0.1
            model[2].weight /= 0.1
        after = local_entropy(model, data, [0.1], **options)
        assert after.converged[0] and after.log_z[0] < before.log_z[0] - 5 * after.std_error[0]

    @pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2), (6, 1, 3)])
    def test_filters(self, shape):
        """Mean squares of rows and columns of w/s are 1; zeros stay; a plain norm where there is one input."""
        w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        w[1] = 0
        s = filter_scale(w)
        assert s.shape == w.shape and not s[1].any()
        ratio = (w / s)[[i for i in range(len(w)) if i != 1]].square().flatten(2) if len(shape) > 2 else None
        ratio = (w / s)[[0, 2, 3, 4]].square() if ratio is None else ratio.mean(dim=2)
        assert_allclose(ratio.mean(dim=0), 1, rtol=1e-5)
        assert_allclose(ratio.mean(dim=1), 1, rtol=1e-5)
        if shape[1] == 1:
            assert_allclose(s[0, 0, 0], w[0].norm() / 3**0.5, rtol=1e-5)

    def test_zeros_stay(self):
        """Multiplicative noise leaves them, and n counts the others: a pruned weight changes nothing."""
        model, data = perceptron()
        with torch.no_grad():
            model[0].weight[2] = 0
            model[0].bias[2] = 0
        data = data[0], model(data[0]).argmax(1)
        curve = local_entropy(model, data, [0.1], n_samples=100, seed=0, n_chains=8)
        assert curve.n_weights == 6 * 8 + 6 + 6 * 3 + 3 - 9
        assert curve.converged[0] and abs(curve.distance[0] - 0.005) < 0.0005
        isotropic = local_entropy(model, data, [0.01], scale="isotropic", n_samples=100, seed=0)
        assert isotropic.n_weights == 6 * 8 + 6 + 6 * 3 + 3


class TestBridge:
    def test_from_energy_to_entropy(self):
        """The local energy at β = 0, the local entropy at large β, falling and convex between them."""
        model, data = perceptron()
        curve = local_entropy(model, data, [1.2], n_samples=500, n_chains=8, seed=0)
        energy = local_energy(model, data, [1.2], n_samples=400, seed=1)
        cumulants, n = curve.cumulants(), curve.n_weights
        mean, error = cumulants.mean_errors[0, 0], cumulants.mean_std_error[0, 0]
        assert curve.converged[0] and curve.n_temperatures[0] > 1
        assert abs(mean - 30 * energy.delta_error[0]) < 3 * np.hypot(error, 30 * energy.std_error[0])
        assert cumulants.beta[0] == 0 and cumulants.log_mean_exp[0, 0] == 0
        assert_allclose(cumulants.log_mean_exp[0, -1], n * curve.log_z[0], atol=0.01)
        assert (np.diff(cumulants.log_mean_exp[0]) < 0).all() and (np.diff(cumulants.mean_errors[0]) < 0.3).all()

    def test_of_other_curves(self):
        curve = bpflat.local_entropy(*random_instance(21, 3, 5), [0.1])
        with pytest.raises(ValueError, match="holds no cumulants"):
            curve.cumulants()

    def test_given_cost(self):
        """``log ⟨e^{−βE}⟩`` as the committee machine's Monte Carlo has it."""
        weights, patterns, labels = random_instance(31, 3, 12, seed=2)
        labels[:2] *= -1
        data = torch.tensor(patterns), torch.tensor(labels)
        options = {"scale": "isotropic", "n_samples": 200, "n_chains": 16, "seed": 0, "beta": 1.5, "together": 256}
        curve = local_entropy(Committee(weights), data, [0.7], **options)
        other = bpflat.local_entropy(weights, patterns, labels, [0.49], method="mcmc", seed=0, beta=1.5)
        for name in ("log_z", "phi"):
            difference = abs(getattr(curve, name) - getattr(other, name))
            assert difference[0] < 3 * np.hypot(curve.std_error, other.std_error)[0], name
        assert_array_equal(curve.beta, 1.5)
