"""The optimizers against the pseudo-code in numpy, on quadratics of known spectrum, and as each other's limits."""

import numpy as np
import pytest
import torch

from bpflat.optim import EntropySGD, ReplicatedSGD
from bpflat.optim.wrapper import flat_views
from tests.bpflat.optim.toy_networks import SGD, SHAPES, Quadratic, as_vector
from tests.naive.optim import Descent, entropy_sgd_loop, lookahead, replicated_sgd_step

PLAIN = {"momentum": 0.0, "weight_decay": 0.0}
NESTEROV = {"momentum": 0.9, "weight_decay": 1e-2}
PRECISION = [(torch.float32, 1e-6), (torch.float64, 1e-12)]
SIZES = [int(np.prod(s)) for s in SHAPES]


def groups(params, *rates):
    """Two parameter groups with their own learning rates: the first tensor, and the others."""
    return [{"params": params[:1], "lr": rates[0]}, {"params": params[1:], "lr": rates[-1]}]


def rate_vector(*rates):
    return np.repeat(rates, [SIZES[0], sum(SIZES[1:])])


def sgd(params, rates, options):
    return torch.optim.SGD(groups(params, *rates), nesterov=options["momentum"] > 0, **options)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@pytest.mark.parametrize("options", [PLAIN, NESTEROV], ids=["plain", "nesterov"])
def test_entropy_sgd_follows_the_pseudo_code(dtype, tolerance, options):
    L, loops, hyper = 4, 3, {"gamma": 0.7, "epsilon": 0.03, "alpha": 0.6}
    problem = Quadratic(L * loops)
    params = problem.parameters(dtype)
    opt = EntropySGD(sgd(params, (0.02, 0.05), options), sgd(params, (0.5, 0.8), options), L=L, seed=3, **hyper)
    # The same stream of noise, drawn beside.
    stream = torch.Generator().set_state(opt._noise._generator(torch.device("cpu")).get_state())
    (flat,), views = flat_views(params)
    inner, outer = Descent(rate_vector(0.02, 0.05), **options), Descent(rate_vector(0.5, 0.8), **options)
    w = problem.start
    for loop in range(loops):
        steps = range(loop * L, (loop + 1) * L)
        noise = []
        for t in steps:
            problem.backward(params, t)
            opt.step()
            flat.normal_(generator=stream)
            noise.append(as_vector(views))
        w_before = w
        w, w_prime, _ = entropy_sgd_loop(w, [problem.gradient(t) for t in steps], noise, inner, outer, **hyper)
        np.testing.assert_allclose(as_vector(params), w, rtol=0, atol=tolerance * np.abs(w).max())
        np.testing.assert_allclose(float(opt.distance()), ((w_prime - w_before) ** 2).sum() / 2, rtol=10 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISION)
@pytest.mark.parametrize("options", [PLAIN, NESTEROV], ids=["plain", "nesterov"])
@pytest.mark.parametrize("coupling", ["decoupled", "gradient"])
def test_replicated_sgd_follows_the_pseudo_code(dtype, tolerance, options, coupling):
    y, K, gamma, steps = 3, 2, 0.8, 6
    problem = Quadratic(y * steps)
    starts = problem.start + 0.3 * np.random.default_rng(1).normal(size=(y, 12))
    models = [problem.parameters(dtype, start) for start in starts]
    opt = ReplicatedSGD([sgd(m, (0.02, 0.05), options) for m in models], gamma=gamma, K=K, coupling=coupling)
    bases = [Descent(rate_vector(0.02, 0.05), **options) for _ in range(y)]
    w = starts
    for t in range(1, steps + 1):
        batches = [y * (t - 1) + a for a in range(y)]
        for model, batch in zip(models, batches, strict=True):
            problem.backward(model, batch)
        opt.step()
        w = replicated_sgd_step(
            w, [problem.gradient(b) for b in batches], t, bases, gamma=gamma, K=K, coupling=coupling
        )
        got = np.array([as_vector(m) for m in models])
        np.testing.assert_allclose(got, w, rtol=0, atol=tolerance * np.abs(w).max())
    centre = w.mean(0)
    np.testing.assert_allclose(float(opt.distance()), ((w - centre) ** 2).sum() / 2 / y, rtol=10 * tolerance)
    with opt.centre():
        np.testing.assert_allclose(as_vector(models[0]), centre, rtol=0, atol=tolerance * np.abs(w).max())
    np.testing.assert_array_equal(as_vector(models[0]), got[0])


def test_couplings_agree_for_plain_sgd_and_none_overshoots_the_centre():
    problem = Quadratic(2)
    starts = problem.start + np.random.default_rng(1).normal(size=(2, 12))
    ends = []
    for coupling in ("decoupled", "gradient"):
        models = [problem.parameters(torch.float64, s) for s in starts]
        opt = ReplicatedSGD([torch.optim.SGD(m, lr=0.1) for m in models], gamma=9.0, K=1, coupling=coupling)
        for t, model in enumerate(models):
            problem.backward(model, t)
        opt.step()
        ends.append([as_vector(m) for m in models])
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-14)
    models = [problem.parameters(torch.float64, s) for s in starts]
    opt = ReplicatedSGD([torch.optim.SGD(m, lr=0.1) for m in models], gamma=1e9, K=1, coupling="decoupled")
    opt.zero_grad()
    opt.step()
    assert opt.distance() < 1e-30
    np.testing.assert_allclose(as_vector(models[0]), starts.mean(0), rtol=0, atol=1e-15)


@pytest.mark.parametrize("fast", ["sgd", "nesterov", "adam"])
def test_lookahead_is_a_special_case(fast):
    k, rate, steps = 5, 0.5, 20
    problem = Quadratic(steps)
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
        "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, **SGD),
        "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    }[fast]
    params = problem.parameters(torch.float64)
    opt = EntropySGD(make(params), torch.optim.SGD(params, lr=rate), gamma=0, epsilon=0, alpha=0, L=k)
    for t in range(steps):
        problem.backward(params, t)
        opt.step()
    if fast == "adam":  # Adam from torch, Lookahead around it by hand
        plain = problem.parameters(torch.float64)
        adam, slow = make(plain), [p.detach().clone() for p in plain]
        for t in range(steps):
            problem.backward(plain, t)
            adam.step()
            if (t + 1) % k == 0:
                for p, s in zip(plain, slow, strict=True):
                    s += rate * (p.detach() - s)
                    p.data.copy_(s)
        expected = as_vector(plain)
    else:
        descent = Descent(0.05) if fast == "sgd" else Descent(0.05, 0.9, 1e-2)
        expected = lookahead(problem.start, [problem.gradient(t) for t in range(steps)], descent, k, rate)
    np.testing.assert_allclose(as_vector(params), expected, rtol=0, atol=1e-12)


def test_reset_inner_forgets_momentum_at_every_loop():
    problem = Quadratic(6)
    params = problem.parameters(torch.float64)
    inner = torch.optim.SGD(params, lr=0.05, **SGD)
    opt = EntropySGD(inner, torch.optim.SGD(params, lr=0.5), gamma=0.3, epsilon=0, L=3, reset_inner=True)
    w = problem.start
    for t in range(6):
        problem.backward(params, t)
        opt.step()
        if t % 3 == 2:
            gradients = [problem.gradient(s) for s in range(t - 2, t + 1)]
            options = {"gamma": 0.3, "epsilon": 0, "alpha": 0.75}
            w, _, _ = entropy_sgd_loop(
                w, gradients, np.zeros((3, 12)), Descent(0.05, 0.9, 1e-2), Descent(0.5), **options
            )
            np.testing.assert_allclose(as_vector(params), w, rtol=0, atol=1e-12)


def test_entropy_sgd_converges_to_the_minimiser():
    problem = Quadratic(1, spread=0.0)
    params = problem.parameters(torch.float64)
    inner = torch.optim.SGD(params, lr=0.05, momentum=0.5, nesterov=True)
    opt = EntropySGD(inner, torch.optim.SGD(params, lr=1.0), gamma=0.1, epsilon=0, L=10)
    for t in range(4000):
        if t == 3000:
            opt.gamma = 1.0  # the minimiser of the local entropy of a quadratic is that of the loss, for any γ
        problem.backward(params, 0)
        opt.step()
    np.testing.assert_allclose(as_vector(params), problem.minimiser, rtol=0, atol=1e-5)


def test_replicated_sgd_converges_to_the_minimiser():
    problem = Quadratic(1, spread=0.0)
    starts = problem.start + np.random.default_rng(0).normal(size=(3, 12))
    models = [problem.parameters(torch.float64, s) for s in starts]
    bases = [torch.optim.SGD(m, lr=0.05, momentum=0.9, nesterov=True) for m in models]
    opt = ReplicatedSGD(bases, gamma=0.01, K=10)
    for t in range(800):
        opt.gamma = 0.01 * 10 ** (t / 500)
        for model in models:
            problem.backward(model, 0)
        opt.step()
    with opt.centre():
        np.testing.assert_allclose(as_vector(models[0]), problem.minimiser, rtol=0, atol=1e-6)
    assert opt.distance() < 1e-12


def test_noise_is_normal_with_the_stated_width():
    p = torch.nn.Parameter(torch.zeros(40_000, dtype=torch.float64))
    q = torch.nn.Parameter(torch.zeros(40_000, dtype=torch.float64))
    inner = torch.optim.SGD([{"params": [p], "lr": 0.04}, {"params": [q], "lr": 0.25}])
    opt = EntropySGD(inner, torch.optim.SGD([p, q], lr=1.0), gamma=0, epsilon=0.1, seed=0)
    p.grad, q.grad = torch.zeros_like(p), torch.zeros_like(q)
    opt.step()
    z = torch.stack([p.detach() / (0.2 * 0.1), q.detach() / (0.5 * 0.1)]).numpy()
    n = z.shape[1]  # moments within 4.5 of their standard errors
    assert np.abs(z.mean(1)).max() < 4.5 / np.sqrt(n)
    assert np.abs((z**2).mean(1) - 1).max() < 4.5 * np.sqrt(2 / n)
    assert np.abs((z**4).mean(1) - 3).max() < 4.5 * np.sqrt(96 / n)
    assert abs((z[0] * z[1]).mean()) < 4.5 / np.sqrt(n)


def test_noise_depends_on_the_seed_alone():
    ends = []
    for seed in (1, 1, 2, None, None):
        p = torch.nn.Parameter(torch.zeros(5))
        opt = EntropySGD(torch.optim.SGD([p], lr=1.0), torch.optim.SGD([p], lr=1.0), gamma=0, epsilon=1.0, seed=seed)
        p.grad = torch.zeros_like(p)
        opt.step()
        ends.append(tuple(p.tolist()))
    assert ends[0] == ends[1]
    assert len(set(ends)) == 4


def test_balanced_gamma_of_entropy_sgd():
    problem = Quadratic(5)
    params = problem.parameters(torch.float64)
    opt = EntropySGD(torch.optim.SGD(params, lr=0.05), torch.optim.SGD(params, lr=0.5), gamma=0, epsilon=0, L=5)
    assert torch.isnan(opt.distance())
    with pytest.raises(ValueError, match="run one loop"):
        opt.balanced_gamma(1.0)
    w = problem.start
    for t in range(5):
        problem.backward(params, t)
        opt.step()
        w = w - 0.05 * problem.gradient(t)(w)
    distance = ((w - problem.start) ** 2).sum() / 2  # eq. 2: a sum, not a mean over the weights
    np.testing.assert_allclose(opt.balanced_gamma(torch.tensor(2.5)), 2.5 / distance, rtol=1e-12)
    with pytest.raises(ValueError, match="loss must be finite"):
        opt.balanced_gamma(float("nan"))


def test_balanced_gamma_of_replicated_sgd():
    problem = Quadratic(1)
    starts = problem.start + np.random.default_rng(0).normal(size=(3, 12))
    models = [problem.parameters(torch.float64, s) for s in starts]
    opt = ReplicatedSGD([torch.optim.SGD(m, lr=0.1) for m in models], gamma=0)
    distances = ((starts - starts.mean(0)) ** 2).sum(1) / 2
    gamma0 = opt.balanced_gamma([1.0, torch.tensor(2.0), 3.0])
    np.testing.assert_allclose(gamma0, 6.0 / distances.sum(), rtol=1e-6)
    with pytest.raises(ValueError, match="losses are 2"):
        opt.balanced_gamma([1.0, 2.0])
    with pytest.raises(ValueError, match="losses must be finite"):
        opt.balanced_gamma([1.0, 2.0, float("inf")])
    twins = [problem.parameters(torch.float64) for _ in range(2)]
    with pytest.raises(ValueError, match="initialise each"):
        ReplicatedSGD([torch.optim.SGD(m, lr=0.1) for m in twins], gamma=0).balanced_gamma([1.0, 1.0])


def test_inner_and_outer_may_have_other_groups():
    problem = Quadratic(10)
    ends = []
    for arrange in (lambda p: p, lambda p: groups(p[::-1], 0.3, 0.3)):
        params = problem.parameters(torch.float64)
        inner, outer = torch.optim.SGD(params, lr=0.05, **SGD), torch.optim.SGD(arrange(params), lr=0.3, **SGD)
        opt = EntropySGD(inner, outer, gamma=0.5, L=5, seed=0)
        for t in range(10):
            problem.backward(params, t)
            opt.step()
        ends.append(as_vector(params))
    np.testing.assert_array_equal(*ends)
