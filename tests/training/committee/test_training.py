"""The batched trainer: loss, steps against plain twins, stopping rules, independence of neighbours."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bpflat import committee
from tests.naive import training as naive
from tests.training.committee.toy_training import small, toy
from training import randomness
from training.committee.ensemble import Ensemble, normalize_rows_
from training.committee.loss import descent_slopes_, pattern_loss, stability
from training.committee.problem import Problem
from training.committee.protocols import PROTOCOLS
from training.committee.results import CAPPED, OVERSHOT, STOPPED
from training.committee.trainer import train

CPU = torch.device("cpu")


# loss


@pytest.mark.parametrize("omega", [0.1, 1.0, 20.0])
def test_loss_is_the_papers(omega):
    s = np.linspace(-3, 3, 61)
    assert pattern_loss(torch.from_numpy(s), omega).numpy() == pytest.approx(naive.loss(s, omega), abs=1e-14)


def test_loss_and_slopes_survive_enormous_scales():
    s = torch.tensor([-3.0, -1e-20, 0.0, 1e-20, 3.0])
    values = pattern_loss(s, 1e12)
    assert torch.isfinite(values).all()
    assert values.tolist() == pytest.approx([3.0, 0.0, 0.0, 0.0, 0.0], abs=1e-12)
    h = torch.tensor([[-2.0, -1e-13, 0.0, 1e-13, 2.0], [2.0, 0.0, 0.0, -2.0, 1.0], [0.0, 0.0, 0.0, 1e-30, -1.0]])
    z = (2 * 1e12 * h)[None]
    slopes = descent_slopes_(z.clone(), 1e12, torch.empty_like(z), torch.empty(1, 1, 5))
    assert torch.isfinite(slopes).all()
    assert (slopes >= 0).all()
    assert torch.isfinite(stability(z)).all()


@pytest.mark.parametrize(("beta", "omega"), [(0.5, 0.5), (2.0, 5.0), (30.0, 7.0)])
def test_slopes_are_those_of_autograd(beta, omega):
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(4, 5, 50, generator=generator, dtype=torch.float64, requires_grad=True)
    s = torch.tanh(beta * h).sum(1) / 5**0.5
    (torch.nn.functional.softplus(-2 * omega * s) / (2 * omega)).sum().backward()  # the loss, written differently
    z = (2 * beta * h).detach().float()
    slopes = descent_slopes_(z, omega, torch.empty_like(z), torch.empty(4, 1, 50))
    expected = -h.grad
    assert (slopes.double() * 4 * beta / 5**0.5).numpy() == pytest.approx(expected.numpy(), rel=2e-4, abs=1e-5)


def test_slopes_keep_their_precision_in_the_tail_and_never_become_denormal():
    z = torch.tensor([4.0, 20.0, 40.0, 60.0, 79.0, 1e9, -40.0, -1e9]).view(1, 1, -1)
    slopes = descent_slopes_(z.clone(), 1e-6, torch.empty_like(z), torch.empty(1, 1, 8)).flatten().double().numpy()
    x = z.flatten().double().numpy() / 2
    expected = 0.25 / np.cosh(np.minimum(np.abs(x), 300)) ** 2 * 0.5
    large = expected > 1e-29
    assert slopes[large] == pytest.approx(expected[large], rel=1e-4)
    assert np.all((slopes == 0) | (slopes >= 1e-30))


# one step against the plain twin


FORMS = pytest.mark.parametrize("span", [False, True], ids=["inputs", "span"])


def one_epoch(protocol, patterns, labels, span, seed=3):
    """Weights (y, K, N) float64 before and after one epoch of restart 0, the minibatches, and the ensemble."""
    ensemble = Ensemble.start(protocol, Problem(patterns, labels, CPU, span=span), [0, 1], seed)
    before = ensemble.weights()[0].astype(float)
    ensemble.run_epoch(0)
    after = ensemble.weights()[0].astype(float)
    orders = randomness.minibatch_orders(
        seed, 0, 0, y=protocol.y, passes=protocol.L, n_patterns=len(patterns), batch=protocol.B
    )
    return before, after, orders, ensemble


@FORMS
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sgd_epoch_matches_the_twin(reduction, span):
    patterns, labels = toy(n_inputs=81 if span else 21)
    protocol = small("sgd-fast", eta=0.05, reduction=reduction)
    before, after, orders, _ = one_epoch(protocol, patterns, labels, span)
    u, eta = before[0], protocol.eta / (20 if reduction == "mean" else 1)
    assert len(orders) == 3
    for index in orders[:, 0]:
        u = naive.sgd_step(u, patterns[index], labels[index], eta, 2.0, 5.0)
    assert after[0] == pytest.approx(u, abs=2e-6)
    assert np.abs(after[0] - before[0]).max() > 1e-3


@FORMS
@pytest.mark.parametrize("start", ["independent", "equal"])
@pytest.mark.parametrize("pull", ["gamma", "eta gamma", "eta B gamma"])
def test_rsgd_epoch_matches_the_twin(pull, start, span):
    patterns, labels = toy(n_inputs=81 if span else 21)
    protocol = small("rsgd-fast", y=4, eta=0.02, gamma0=0.3, pull=pull, start=start)
    u, after, orders, ensemble = one_epoch(protocol, patterns, labels, span)
    equal = np.ptp(u, axis=0).max() == 0
    assert equal == (start == "equal")
    first = randomness.initial_weights(3, 0, (4, 3, patterns.shape[1]))[0]  # of the independent ones
    assert u[0] == pytest.approx(first, abs=1e-7 if span else 0)
    for index in orders:
        strength = naive.product(pull, eta=0.02, batch=20, gamma=0.3)
        u = naive.rsgd_step(u, patterns[index], labels[index], 0.02, strength, 1.0, 0.5)
    assert after == pytest.approx(u, abs=2e-6)
    distance = ((u - u.mean(axis=0)) ** 2).sum(axis=(1, 2)).mean()
    assert ensemble.distances()[0] == pytest.approx(distance, rel=1e-4)
    assert ensemble.solutions([0])[0] == pytest.approx(naive.norm(u.mean(axis=0)), abs=2e-6)


@FORMS
@pytest.mark.parametrize("pull", ["gamma", "eta gamma", "eta B gamma"])
@pytest.mark.parametrize("outer_step", ["eta", "eta gamma", "eta B gamma"])
def test_esgd_epoch_matches_the_twin(pull, outer_step, span):
    patterns, labels = toy(n_inputs=81 if span else 21)
    rates = {"eta": 0.05, "eta_prime": 0.03, "gamma0": 0.4}
    protocol = small("esgd", L=4, epsilon=0.01, pull=pull, outer_step=outer_step, **rates)
    before, after, orders, ensemble = one_epoch(protocol, patterns, labels, span)
    generator = torch.Generator().manual_seed(randomness.device_seed(3, 0, 0, 0))
    u = before[0]
    assert orders.shape == (4 * 3, 1, 20)
    for indices in orders[:, 0].reshape(3, 4, 20):
        noise = torch.empty(4, 3, 96 if span else 32).normal_(generator=generator)[..., : patterns.shape[1]].double()
        noise = (ensemble.problem.span.weights(noise) if span else noise).numpy()  # in the coordinates of the weights
        u, mean = naive.esgd_step(
            u,
            patterns[indices],
            labels[indices],
            noise,
            eta_prime=0.03,
            pull=naive.product(pull, eta=0.03, batch=20, gamma=0.4),
            outer_step=naive.product(outer_step, eta=0.05, batch=20, gamma=0.4),
            epsilon=0.01,
            alpha=0.75,
            beta=1.0,
            omega=0.5,
        )
    assert after[0] == pytest.approx(u, abs=2e-6)
    assert ensemble.distances()[0] == pytest.approx(((u - mean) ** 2).sum(), rel=1e-4)


def test_dropout_drops_whole_inputs_and_rescales_the_rest():
    patterns, labels = toy(n_inputs=200)
    ensemble = Ensemble.start(small("sgd-fast", dropout=0.3), Problem(patterns, labels, CPU), [0, 1], 0)
    ensemble.run_epoch(0)
    x = ensemble._descent._x.view(2, 20, -1)[..., :200]
    kept = x != 0
    assert 0.6 < kept.float().mean() < 0.8
    assert torch.allclose(x[kept].abs(), torch.tensor(1 / 0.7))
    assert not torch.equal(kept[0], kept[1])


# randomness


def test_minibatches_cover_every_pattern_once_a_pass():
    orders = randomness.minibatch_orders(1, 2, 3, y=4, passes=5, n_patterns=60, batch=20)
    assert orders.shape == (15, 4, 20)
    for replica in range(4):
        for one_pass in orders[:, replica].reshape(5, 60):
            assert np.array_equal(np.sort(one_pass), np.arange(60))
    assert not np.array_equal(orders[:, 0], orders[:, 1])


def test_leftover_patterns_wait():
    orders = randomness.minibatch_orders(1, 2, 3, y=1, passes=1, n_patterns=47, batch=20)
    assert orders.shape == (2, 1, 20)
    assert len(np.unique(orders)) == 40


def test_random_numbers_differ_by_seed_restart_and_epoch():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    orders = [randomness.minibatch_orders(*k, y=1, passes=1, n_patterns=60, batch=20).tobytes() for k in keys]
    seeds = [randomness.device_seed(*k, replica) for k in keys for replica in range(2)]
    starts = [randomness.initial_weights(s, r, (1, 3, 21)).tobytes() for s, r in [(0, 0), (1, 0), (0, 1)]]
    for values in (orders, seeds, starts):
        assert len(set(values)) == len(values)


def test_initial_rows_have_norm_one():
    weights = randomness.initial_weights(0, 0, (2, 3, 784))
    assert weights.dtype == np.float32
    assert np.linalg.norm(weights, axis=-1) == pytest.approx(np.ones((2, 3)), rel=1e-6)


# stopping rules and results


def test_sgd_fast_stops_at_the_first_epoch_without_errors():
    patterns, labels = toy()
    protocol = small("sgd-fast", max_epochs=400, eta=5e-3)
    result = train(protocol, patterns, labels, restarts=4, test_patterns=patterns, test_labels=labels)
    assert set(result.status) == {STOPPED}
    assert np.all(result.train_error == 0)
    assert np.array_equal(result.test_error, result.train_error)
    assert np.linalg.norm(result.weights, axis=-1) == pytest.approx(np.full((4, 3), 21**0.5), rel=1e-6)
    assert np.isnan(result.distance).all()
    shorter = dataclasses.replace(protocol, max_epochs=int(result.epochs[0]) - 1)
    earlier = train(shorter, patterns, labels)
    assert earlier.status[0] == CAPPED
    assert earlier.train_error[0] > 0
    assert np.isnan(earlier.test_error[0])


def test_sgd_slow_stops_below_its_loss():
    patterns, labels = toy(40)
    protocol = small("sgd-slow", max_epochs=3000, eta=5e-3, tolerance=1e-5)
    result = train(protocol, patterns, labels, restarts=2)
    assert set(result.status) == {STOPPED}
    assert np.all(result.train_loss < 1e-5)
    assert np.all(result.train_loss > 1e-6)  # one epoch earlier it was above 1e-5
    assert np.all(result.train_error == 0)


def test_rsgd_stops_when_its_replicas_have_met():
    patterns, labels = toy()
    protocol = small("rsgd-fast", y=3, eta=3e-3, gamma0=0.1, schedule_speed=5.0, max_epochs=2000)
    result = train(protocol, patterns, labels, restarts=2)
    assert set(result.status) == {STOPPED}
    assert np.all(result.distance < 1e-8)


def test_esgd_stops_when_u_and_mean_have_met():
    patterns, labels = toy()
    protocol = small("esgd", schedule_speed=50.0, eta=0.02, max_epochs=500)
    result = train(protocol, patterns, labels, restarts=2)
    assert set(result.status) == {STOPPED}
    assert np.all(result.distance < 1e-8)


@FORMS
def test_a_tie_is_an_error_or_not_as_in_predict(span):
    """Hidden signs of 0 are +1 for the trainer, too, whatever the label."""
    patterns, labels = toy(40, 81 if span else 21)
    patterns[:2], labels[:2] = 0, (-1, 1)  # every pre-activation of these is 0
    ensemble = Ensemble.start(small("sgd-fast"), Problem(patterns, labels, CPU, span=span), [0, 1, 2], 0)
    weights = ensemble.weights()[:, 0]
    assert np.array_equal(ensemble.errors(), 40 * committee.error(weights, patterns, labels))
    result = train(small("sgd-fast", eta=5e-3, max_epochs=300), patterns, labels)
    assert result.train_error[0] > 0 and result.status[0] == CAPPED


def test_a_pull_beyond_1_is_refused():
    patterns, labels = toy()
    for protocol, message in (
        (small("rsgd-fast", pull="gamma", gamma0=1.5), r"pull = 'gamma' is 1\.5 in the first epoch of rsgd"),
        (small("esgd", pull="eta B gamma", gamma0=11.0), "pull = 'eta B gamma' is 1\\.1 in the first epoch"),
        (small("esgd", eta=0.2), "outer_step = 'eta gamma' is 2 in the first epoch"),
        (small("esgd", eta=1.5, outer_step="eta"), "outer_step = 'eta' is 1\\.5 in the first epoch"),
    ):
        with pytest.raises(ValueError, match=message):
            train(protocol, patterns, labels, progress=lambda report: pytest.fail("trained"))


@pytest.mark.parametrize("name", ["rsgd-fast", "esgd"])
def test_a_restart_ends_before_its_pull_passes_1(name):
    patterns, labels = toy()
    changes = {"rsgd-fast": {"y": 2, "pull": "gamma", "gamma0": 1 / 17}, "esgd": {"gamma0": 200 / 17}}[name]
    protocol = small(name, gamma1=1.0, max_epochs=100, stop="mean-loss", tolerance=1e-30, **changes)
    result = train(protocol, patterns, labels, restarts=2)  # 2⁴/17 < 1 < 2⁵/17
    assert set(result.status) == {OVERSHOT}
    assert result.epochs.tolist() == [5, 5]
    undisturbed = train(dataclasses.replace(protocol, max_epochs=5), patterns, labels, restarts=2)
    assert np.array_equal(result.weights, undisturbed.weights) and set(undisturbed.status) == {CAPPED}


# independence of neighbours


@pytest.mark.parametrize("K", [1, 3, 5])
@pytest.mark.parametrize("n_inputs", [50, 70])  # fewer and more than patterns
@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_restart_has_the_same_bits_in_any_company(name, n_inputs, K):
    patterns, labels = toy(n_inputs=n_inputs)
    protocol = small(name, K=K, y=3 if name.startswith("rsgd") else 1, dropout=0.1 if name == "sgd-slow" else 0.0)
    protocol = dataclasses.replace(protocol, stop="mean-loss", tolerance=1e-12)  # none stops before the cap
    together = train(protocol, patterns, labels, restarts=7)
    for chosen in ([5], [2, 5], [0, 3, 5]):
        apart = train(protocol, patterns, labels, restarts=chosen)
        assert np.array_equal(apart.weights, together.weights[chosen])
        assert np.array_equal(apart.distance, together.distance[chosen], equal_nan=True)


def test_the_end_of_its_neighbours_does_not_touch_a_restart():
    patterns, labels = toy()
    protocol = small("sgd-fast", max_epochs=400, eta=5e-3)
    together = train(protocol, patterns, labels, restarts=6)
    assert len(np.unique(together.epochs)) > 2  # the batch has shrunk on the way
    for restart in range(6):
        alone = train(protocol, patterns, labels, restarts=[restart])
        assert np.array_equal(alone.weights[0], together.weights[restart])
        assert alone.epochs[0] == together.epochs[restart]


def test_the_bits_survive_chunks_at_the_size_of_fig_1():
    rng = np.random.default_rng(0)
    patterns, labels = rng.choice([-1.0, 1.0], (200, 784)), rng.choice([-1.0, 1.0], 200)
    protocol = dataclasses.replace(PROTOCOLS["rsgd-fast"], max_epochs=2)
    together = train(protocol, patterns, labels, restarts=3)  # 30 machines: several chunks
    alone = train(protocol, patterns, labels, restarts=[1])
    assert np.array_equal(alone.weights[0], together.weights[1])


def test_rows_are_normalised():
    u = normalize_rows_(torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(u.norm(dim=-1), torch.ones(2, 3))
