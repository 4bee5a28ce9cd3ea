"""Many references at once through torch: against one at a time, which other tests compare with plain twins."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from bpflat import local_entropy
from bpflat.bp import make_nodes, output_node, solve_nodes
from bpflat.estimators import ep, node_bp, tables
from bpflat.estimators import output_node as output
from bpflat.estimators.newton import _gmres
from bpflat.estimators.problem import Problem
from tests.instances import random_instance
from tests.naive import committee as naive

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
DELTAS = [1e-3, 0.1, 1.0, 3.0]


def family(n_hidden=3, inputs="binary", step=0.01, n=4):
    """A teacher and machines further and further from it: without training errors, or with a large `step` with some."""
    weights, patterns, labels = random_instance(101, n_hidden, 40, inputs=inputs)
    noise = np.random.default_rng(1).normal(size=(n, *weights.shape))
    return weights + step * np.arange(n)[:, None, None] * noise, patterns, labels


def vote(n_hidden):
    """Factors of a majority vote."""
    return tables.majority_vote(n_hidden).factors[0]


@pytest.mark.parametrize("compute", [output.votes, output._votes_by_tensors], ids=["kernel", "tensors"])
class TestOutputNodes:
    @pytest.mark.parametrize("n_hidden", [1, 3, 5, 9])
    def test_enumeration(self, compute, n_hidden):
        rng = np.random.default_rng(n_hidden)
        omega, labels = 2 * rng.normal(size=(20, n_hidden)), rng.choice([-1.0, 1.0], 20)
        variance = rng.uniform(0.2, 3, size=omega.shape)
        tensors = torch.from_numpy(omega.T[None]), torch.from_numpy(variance.T[None]), torch.from_numpy(labels)
        g, curvature, log_z = compute(*tensors, vote(n_hidden))
        for got, expected in zip(
            (g[0].T, curvature[0].T, log_z[0]), naive.output_node(omega, variance, labels), strict=True
        ):
            assert_allclose(got, expected, rtol=1e-11, atol=1e-14)

    @pytest.mark.parametrize("n_hidden", [3, 9, 51])
    @pytest.mark.parametrize("beta", [None, 3.0])
    def test_one_reference_at_a_time(self, compute, n_hidden, beta, monkeypatch):
        """Certain to hopeless patterns, some of which underflow, are as the compiled kernel has them, one by one."""
        rng = np.random.default_rng(0)
        shift = np.array([-200.0, -30.0, -5.0, 0.0, 5.0, 30.0, 200.0])[:, None, None]
        omega = shift + 3 * rng.normal(size=(7, n_hidden, 11))
        variance, labels = rng.uniform(0.2, 3, size=omega.shape), rng.choice([-1.0, 1.0], 11)
        n_errors, node = np.array([0, 1, 3, 0, 2, 1, 0]), tables.majority_vote(n_hidden)
        apart = [
            output.output_nodes(node, *row, labels, e, beta) for *row, e in zip(omega, variance, n_errors, strict=True)
        ]
        monkeypatch.setattr(tables, "votes", compute)
        together = output.output_nodes(node, *map(torch.from_numpy, (omega, variance, labels)), n_errors, beta)
        for r, alone in enumerate(apart):
            # Γ = g (g + y) magnifies the rounding of g, where hopeless patterns pull hard
            size = np.abs(alone.curvature).max()
            assert_allclose(together.g[r], alone.g, rtol=1e-9, atol=1e-289)
            assert_allclose(together.curvature[r], alone.curvature, rtol=1e-9, atol=1e-11 * size + 1e-289)
            assert_allclose(together.log_z[r], alone.log_z, rtol=1e-10, atol=1e-13)
            assert_allclose(together.errors[r], alone.errors, rtol=1e-9, atol=1e-12)

    def test_safe_patterns_keep_relative_precision(self, compute):
        for y in (9.0, 20.0, 35.0):
            tensor = torch.full((1, 1, 1), y, dtype=torch.float64)
            got = compute(tensor, torch.ones_like(tensor), torch.ones(1, dtype=torch.float64), vote(1))
            expected = output_node(np.array([[y]]), np.array([[1.0]]), np.array([1.0]))
            for a, b in zip(got, expected, strict=True):
                assert_allclose(a.ravel(), b.ravel(), rtol=1e-12)


@pytest.mark.parametrize("sum_", ["cavity_variance", "log_cavity_ratio"])
def test_sums_over_inputs(sum_, monkeypatch):
    """Compiled, and through tensors as on a GPU, some patterns at a time; NaN where a variance has no sense."""
    rng = np.random.default_rng(0)
    squares, precision = rng.uniform(size=(7, 11)) / 11, rng.uniform(1, 2, size=(2, 3, 11))
    curvature = rng.normal(size=(2, 3, 7))
    if sum_ == "cavity_variance":
        curvature[1, 2, 3] = 1e3
    arrays = squares, precision, curvature
    compiled = getattr(node_bp, sum_)(*arrays)
    monkeypatch.setattr(node_bp, "on_cpu", lambda array: False)
    monkeypatch.setattr(node_bp, "_SCRATCH_BYTES", 3 * 8 * precision.size)
    assert_allclose(getattr(node_bp, sum_)(*map(torch.from_numpy, arrays)), compiled, rtol=1e-12)


def test_gmres_solves_each_system_to_its_own_precision():
    """Well and badly conditioned systems together, against a direct solution."""
    rng = np.random.default_rng(0)
    n = 50
    spectra = [np.linspace(1, 2, n), np.linspace(1, 40, n), np.ones(n)]
    rotations = [np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in spectra]
    matrices = torch.from_numpy(np.array([q * s @ q.T for q, s in zip(rotations, spectra, strict=True)]))
    b = torch.from_numpy(rng.normal(size=(3, n)))
    rtol = np.array([1e-2, 1e-4, 1e-4])

    def linearize(rows):
        return lambda directions: (matrices[rows] @ directions[:, :, None].double())[:, :, 0], None

    x, used = _gmres(linearize, b, rtol)
    rest = (b - (matrices @ x[:, :, None])[:, :, 0]).norm(dim=1) / b.norm(dim=1)
    assert (rest.numpy() <= 1.1 * rtol).all()
    assert used[2] == 1 and 1 < used[0] < used[1] < n


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["bp", "ep"])
class TestAgainstOneAtATime:
    @pytest.mark.parametrize("n_hidden", [1, 3, 9])
    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    @pytest.mark.parametrize(
        "options", [{}, {"step": 0.3}, {"beta": 3.0}, {"distances": [0.05, 0.25]}], ids=["plain", "errors", "beta", "d"]
    )
    def test_same_curves(self, method, device, n_hidden, inputs, options):
        options = {"deltas": None if "distances" in options else DELTAS, **options}
        problem = family(n_hidden, inputs, options.pop("step", 0.01))
        apart, together = (local_entropy(*problem, method=method, device=d, **options) for d in (None, device))
        assert together.converged.all() and apart.converged.all()
        for name in ("delta", "distance", "log_z", "phi", "beta"):
            assert_allclose(getattr(together, name), getattr(apart, name), rtol=1e-8, atol=1e-16, err_msg=name)
        for name in ("train_error", "reference"):
            assert_array_equal(getattr(together, name), getattr(apart, name))

    def test_one_reference(self, method, device):
        weights, patterns, labels = family()
        one = local_entropy(weights[1], patterns, labels, DELTAS, method=method, device=device)
        assert one.phi.shape == (4,) and isinstance(one.train_error, float)
        assert_allclose(one.phi, local_entropy(weights[1], patterns, labels, DELTAS, method=method).phi, rtol=1e-8)

    def test_families_that_do_not_fit_are_divided(self, method, device, monkeypatch):
        import bpflat.entropy as entropy

        problem = family()
        whole = local_entropy(*problem, DELTAS, method=method, device=device)
        monkeypatch.setattr(entropy, "_room", lambda device: 1)
        divided = local_entropy(*problem, DELTAS, method=method, device=device)
        assert_allclose(divided.phi, whole.phi, rtol=1e-8)

    def test_each_at_its_own_delta_from_its_own_start(self, method, device):
        problem = Problem.of(*family()).on(device)
        solve = {"bp": node_bp, "ep": ep}[method].solve_together
        first = solve(problem, [0.1] * 4, [None] * 4)
        points = solve(problem, [0.2, 0.3, 0.2, 0.5], [first[0], None, first[2], None])
        cold = solve(problem, [0.2, 0.3, 0.2, 0.5], [None] * 4)
        for warm, again in zip(points, cold, strict=True):
            assert warm.converged and warm.delta == again.delta
            assert_allclose([warm.log_z, warm.excess], [again.log_z, again.excess], rtol=1e-8)


def test_a_reference_that_fails_leaves_the_others():
    """Steps are cut off before the hard one is done: it says so, and the easy one is right."""
    weights, patterns, labels = family(9)
    problem = Problem.of(weights[[0, 0]], patterns, labels).on("cpu")
    hard, easy = node_bp.solve_together(problem, [2.0, 1e-4], [None, None], max_steps=2)
    assert not hard.converged and np.isnan(hard.phi) and easy.converged
    assert_allclose(easy.log_z, solve_nodes(make_nodes(weights[0], patterns), labels, 1e-4).log_z, rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu", "method": "mcmc"}, "device is for the methods 'bp' and 'ep', not 'mcmc'"),
        ({"device": "cpu", "method": "bp-edge"}, "not 'bp-edge'"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"device": "nowhere"}, "device 'nowhere' cannot be used"),
    ],
)
def test_bad_devices(options, message):
    with pytest.raises(ValueError, match=message):
        local_entropy(*family(), **options)
