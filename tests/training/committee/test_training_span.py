"""Training in the span of the patterns: the same as in the inputs, and what only it could get wrong."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from bpflat import load_reduced_fashion_mnist
from bpflat.storage import load_npz, save_npz
from tests.training.committee.toy_training import small, toy
from training.committee import kernels, trainer
from training.committee.checkpoints import KIND
from training.committee.ensemble import Ensemble
from training.committee.loss import descent_slopes_
from training.committee.problem import Problem, Span, span_serves
from training.committee.protocols import PROTOCOLS
from training.committee.results import CAPPED, STOPPED
from training.committee.trainer import train

CPU = torch.device("cpu")


def ensembles(protocol, patterns, labels, dtype=torch.float32, restarts=(0,)):
    """The same start in the inputs and in the span."""
    problems = (Problem(patterns, labels, CPU, span=span, dtype=dtype) for span in (False, True))
    return [Ensemble.start(protocol, problem, list(restarts), 0) for problem in problems]


def both_forms(monkeypatch, *arguments, **options):
    """Results of `train` in the inputs and in the span."""
    results = []
    for span in (False, True):
        monkeypatch.setattr(trainer, "span_serves", lambda *_, span=span: span)
        results.append(train(*arguments, **options))
    return results


# the same machines


CONVENTIONS = {
    "sgd-fast": [{}, {"reduction": "mean"}],
    "sgd-slow": [{}],
    "rsgd-fast": [{}, {"start": "equal", "pull": "gamma"}, {"pull": "eta gamma"}],
    "rsgd-slow": [{}, {"start": "equal", "pull": "gamma"}],
}
RUNS = [(name, changes) for name, several in CONVENTIONS.items() for changes in several]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("name", "changes"), RUNS)
def test_the_papers_protocols_agree_after_50_epochs(name, changes, dtype, tolerance):
    data = load_reduced_fashion_mnist(500)
    protocol = dataclasses.replace(PROTOCOLS[name], **changes)
    pair = ensembles(protocol, data.train_patterns, data.train_labels, dtype)
    for epoch in range(50):
        for ensemble in pair:
            ensemble.run_epoch(epoch)
    inputs, span = (ensemble.weights() for ensemble in pair)
    assert np.abs(inputs - span).max() < tolerance
    assert np.abs(inputs - ensembles(protocol, data.train_patterns, data.train_labels)[0].weights()).max() > 1e-3
    assert span.dtype == (np.float32 if dtype == torch.float32 else np.float64)
    assert np.array_equal(*(ensemble.errors() for ensemble in pair))
    losses = [ensemble.mean_loss(protocol.scheduled(50)) for ensemble in pair]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("outer_step", ["eta gamma", "eta"])
def test_esgd_agrees_for_50_epochs_where_it_does_not_amplify_rounding(outer_step):
    patterns, labels = toy(110, 130)
    protocol = small("esgd", epsilon=0.0, eta_prime=5e-4, L=20, outer_step=outer_step)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        pair = ensembles(protocol, patterns, labels, dtype)
        start = pair[0].weights()
        for epoch in range(50):
            for ensemble in pair:
                ensemble.run_epoch(epoch)
        inputs, span = (ensemble.weights() for ensemble in pair)
        assert np.abs(inputs - span).max() < tolerance
        assert np.abs(inputs - start).max() > 1e-3


def test_the_papers_esgd_amplifies_rounding_in_either_form_alike():
    """Its inner steps are so long that 1e-15 grows to 1e-4 within five epochs: no two computations agree after that."""
    data = load_reduced_fashion_mnist(500)
    protocol = dataclasses.replace(PROTOCOLS["esgd"], epsilon=0.0)
    inputs, span = ensembles(protocol, data.train_patterns, data.train_labels, torch.float64)
    other = Ensemble.start(protocol, inputs.problem, [0], 0)
    other.u += 1e-15 * torch.randn(other.u.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for epoch in range(5):
        for ensemble in (inputs, span, other):
            ensemble.run_epoch(epoch)
        if epoch == 1:
            assert np.abs(inputs.weights() - span.weights()).max() < 1e-10
    scattered = np.abs(inputs.weights() - other.weights()).max()
    assert 1e-5 < np.abs(inputs.weights() - span.weights()).max() < 10 * scattered


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sgd-fast", {}),
        ("sgd-slow", {"schedule_speed": 10.0, "max_epochs": 400}),
        ("rsgd-fast", {"schedule_speed": 40.0, "y": 4}),
        ("rsgd-fast", {"schedule_speed": 40.0, "y": 4, "start": "equal", "pull": "gamma"}),
    ],
)
def test_both_forms_stop_in_the_same_epoch(name, changes, monkeypatch):
    data = load_reduced_fashion_mnist(500)
    protocol = dataclasses.replace(PROTOCOLS[name], **changes)
    inputs, span = both_forms(monkeypatch, protocol, data.train_patterns, data.train_labels, restarts=[1, 3])
    assert STOPPED in inputs.status
    assert np.array_equal(span.status, inputs.status)
    assert span.epochs == pytest.approx(inputs.epochs, rel=0.01)
    assert span.distance == pytest.approx(inputs.distance, rel=0.05, nan_ok=True)


# which form


def test_the_span_serves_where_it_costs_less(monkeypatch):
    chosen = []
    original = Problem.__init__

    def watched(self, *arguments, **options):
        chosen.append(options["span"])
        original(self, *arguments, **options)

    monkeypatch.setattr(Problem, "__init__", watched)
    for dropout, n_inputs in ((0.0, 81), (0.0, 21), (0.1, 81)):  # more patterns than inputs, too
        train(small("sgd-fast", dropout=dropout), *toy(60, n_inputs))
    assert chosen == [True, True, False]
    assert not span_serves(small("sgd-fast"), torch.device("cuda"))


# patterns of every kind


@pytest.mark.parametrize(
    ("patterns", "B"),
    [
        (np.repeat(toy(20, 81)[0], 3, axis=0), 20),
        (np.repeat(toy(1, 81)[0], 60, axis=0), 25),
        (np.vstack([toy(30, 81)[0], -toy(30, 81)[0]]), 20),
        (toy(1, 81)[0], 1),
        (toy(47, 81)[0], 20),
        (toy(60, 21)[0], 20),
        (np.vstack([np.zeros((3, 81)), toy(40, 81)[0]]), 20),
        (np.random.default_rng(0).standard_normal((60, 81)) * 1e6, 20),
    ],
    ids=["repeated", "all equal", "opposite", "one", "rest", "more than inputs", "zeros", "large"],
)
@pytest.mark.parametrize("name", ["sgd-fast", "rsgd-fast", "esgd"])
def test_both_forms_agree_on_any_patterns(name, patterns, B):
    labels = np.where(np.arange(len(patterns)) % 3, 1.0, -1.0)
    changes = {"rsgd-fast": {"y": 3}, "esgd": {"epsilon": 0.0, "eta_prime": 5e-4}}.get(name, {})
    protocol = small(name, B=B, **changes)
    if patterns.max() > 1e3:
        protocol = dataclasses.replace(protocol, eta=protocol.eta * 1e-12, beta0=protocol.beta0 * 1e-6)
    pair = ensembles(protocol, patterns, labels, torch.float64, restarts=(0, 1))
    for epoch in range(5):
        for ensemble in pair:
            ensemble.run_epoch(epoch)
    assert pair[1].weights() == pytest.approx(pair[0].weights(), abs=1e-10)
    assert np.array_equal(*(ensemble.errors() for ensemble in pair))


@pytest.mark.parametrize("K", [1, 3, 5, 7])
@pytest.mark.parametrize("B", [1, 3, 4, 10])
def test_units_and_minibatches_of_any_number(K, B):
    patterns, labels = toy(31, 33)
    protocol = small("rsgd-fast", K=K, B=B, y=2)
    pair = ensembles(protocol, patterns, labels, torch.float64)
    for ensemble in pair:
        ensemble.run_epoch(0)
    assert pair[1].weights() == pytest.approx(pair[0].weights(), abs=1e-12)


@pytest.mark.parametrize("n_inputs", [21, 81])
def test_weights_that_overflow_are_an_error(n_inputs):
    patterns, labels = toy(n_inputs=n_inputs)
    with pytest.raises(
        ValueError, match=r"noise are too large: in epoch 1 of esgd, weights of restart 0, 1 leave .* float32"
    ):
        train(small("esgd", epsilon=1e25), patterns, labels, restarts=2)
    result = train(small("sgd-fast", eta=1e6, beta0=1e-15), 1e15 * patterns, labels)  # large, but in range
    assert np.isfinite(result.weights).all()


def test_directions_that_no_pattern_feeds_decay_to_zero_and_not_to_denormals():
    patterns, labels = toy(20, 81)
    ensemble = Ensemble.start(small("sgd-fast", eta=10.0, beta0=0.1), Problem(patterns, labels, CPU, span=True), [0], 0)
    for epoch in range(60):
        ensemble.run_epoch(epoch)
    sizes = ensemble.u[..., 20:81].abs()
    assert (sizes == 0).any()
    assert not ((sizes > 0) & (sizes < 1e-37)).any()


# coordinates


def test_coordinates_are_a_rotation_in_which_patterns_are_triangular():
    patterns, _ = toy(30, 50)
    span = Span(torch.from_numpy(patterns))
    rows = torch.randn(7, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = span.coordinates(rows)
    assert torch.allclose(turned @ turned.T, rows @ rows.T, atol=1e-12)  # so normal noise has the same law
    assert torch.allclose(span.weights(turned), rows, atol=1e-13)
    assert torch.allclose(span.coordinates(torch.from_numpy(patterns)), span.patterns, atol=1e-12)
    assert torch.equal(span.patterns, span.patterns.tril())


def test_coordinates_have_the_same_bits_with_any_number_of_threads():
    data = load_reduced_fashion_mnist(200)
    before = torch.get_num_threads()
    probes = []
    for threads in (1, before + 1, 1):
        torch.set_num_threads(threads)
        problem = Problem(data.train_patterns, data.train_labels, CPU, span=True)
        probes.append(problem.probe)
    torch.set_num_threads(before)
    assert np.array_equal(probes[0], probes[1]) and np.array_equal(probes[0], probes[2])


@pytest.mark.parametrize("name", ["rsgd-fast", "esgd"])
def test_the_number_of_threads_does_not_change_a_bit(name):
    patterns, labels = toy(60, 81)
    serial, threaded = (train(small(name), patterns, labels, restarts=5, threads=threads) for threads in (1, 3))
    assert np.array_equal(serial.weights, threaded.weights)
    assert np.array_equal(serial.distance, threaded.distance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-6), (np.float64, 1e-14)])
def test_compiled_slopes_are_those_of_torch(dtype, tolerance):
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((5, 203)) * 10.0 ** rng.integers(-3, 3, 203)).astype(dtype)
    info = np.finfo(dtype)
    layout = np.array([info.nmant, info.maxexp - 1], f"i{h.itemsize}")
    for beta, omega in ((0.5, 0.5), (3.0, 40.0), (1e12, 1e12)):
        z = torch.from_numpy(h[None]).mul(2 * beta)
        expected = descent_slopes_(z, omega, torch.empty_like(z), z[:, :1].clone())[0].numpy()
        slopes = h.copy()
        kernels._turn_into_slopes(slopes, dtype(2 * beta), dtype(2 * omega / 5**0.5), dtype(1), layout)
        assert slopes == pytest.approx(expected, rel=tolerance * max(1.0, omega if omega < 1e3 else 1.0), abs=1e-29)


# checkpoints


class Killed(Exception):
    pass


def killed_run(path, protocol, patterns, labels, at):
    def kill(report):
        if report.epoch == at:
            raise Killed

    with pytest.raises(Killed):
        train(protocol, patterns, labels, restarts=2, checkpoint=path, checkpoint_every=0.0, progress=kill)


def test_a_checkpoint_in_the_inputs_is_gone_on_from_in_the_span(tmp_path, monkeypatch):
    """Those of the first release are: weights are turned into the coordinates of the span."""
    patterns, labels = toy(60, 81)
    protocol = small("rsgd-fast", y=2, max_epochs=8)
    path = tmp_path / "run.checkpoint.npz"
    whole = train(protocol, patterns, labels, restarts=2)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "span_serves", lambda *_: False)
        killed_run(path, protocol, patterns, labels, 4)
    arrays = load_npz(path, KIND)
    assert arrays.pop("probe").size == 0
    save_npz(path, KIND, **arrays)  # the first release knew no coordinates
    resumed = train(protocol, patterns, labels, restarts=2, checkpoint=path)
    assert resumed.weights == pytest.approx(whole.weights, abs=2e-5)
    assert set(resumed.status) == {CAPPED}


def test_a_checkpoint_in_other_coordinates_is_refused(tmp_path, monkeypatch):
    patterns, labels = toy(60, 81)
    protocol = small("sgd-slow")
    path = tmp_path / "run.checkpoint.npz"
    killed_run(path, protocol, patterns, labels, 3)
    arrays = load_npz(path, KIND)
    assert json.loads(str(arrays["configuration"]))["seed"] == 0
    save_npz(path, KIND, **arrays | {"probe": -arrays["probe"]})
    with pytest.raises(ValueError, match=r"holds weights in other coordinates .* or delete that file"):
        train(protocol, patterns, labels, restarts=2, checkpoint=path)
    save_npz(path, KIND, **arrays)
    monkeypatch.setattr(trainer, "span_serves", lambda *_: False)
    with pytest.raises(ValueError, match="holds weights in other coordinates"):
        train(protocol, patterns, labels, restarts=2, checkpoint=path)
