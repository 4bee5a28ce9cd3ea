"""Switches that make a training faster: they reach torch, and change no more than they say."""

import shutil

import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks import deep as benchmark
from tests.training.deep.toy_deep import Tiny, short, stable, toy
from training import models
from training.deep import __main__ as command
from training.deep.images import load_images
from training.deep.trainer import begin, train


class Sure(Tiny):
    """A network without dropout."""

    def __init__(self, classes):
        super().__init__(classes)
        self[5].p = 0.0


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", Sure)


@pytest.mark.parametrize("column", ["esgd", "rsgd"])
def test_compiled_networks_train_and_plain_ones_are_evaluated(column, data, tmp_path, monkeypatch):
    """The compiler here only counts the calls."""
    calls = []

    class Counted(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, inputs):
            calls.append(self.model.training)
            return self.model(inputs)

    plain = short(toy(column), tmp_path / "plain", data, epochs=2)
    monkeypatch.setattr(torch, "compile", Counted)
    result = short(toy(column), tmp_path / "compiled", data, epochs=2, compiled=True)
    assert calls == [True] * (2 * 5 * {"esgd": 5, "rsgd": 3}[column])
    assert_array_equal(stable(result), stable(plain))
    assert result.configuration["compiled"] is True and "compiled" not in plain.configuration
    with pytest.raises(ValueError, match="compiled"):
        short(toy(column), tmp_path / "compiled", data, epochs=2)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_compiled_training_differs_by_rounding(data):
    losses = []
    for compiled in (False, True):
        recipe = toy("baseline")
        state = begin(recipe, 10, 0, "cpu")
        train(state, load_images("cifar10", data), recipe.augmentation(), epochs=2, seed=0, compiled=compiled)
        losses.append([row.train_loss for row in state.curves])
    assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_cudnn_tries_its_algorithms_in_the_training_alone(data, monkeypatch):
    assert torch.backends.cudnn.benchmark is False
    seen = []

    class Watching(Sure):
        def forward(self, inputs):
            seen.append((self.training, torch.backends.cudnn.benchmark))
            return super().forward(inputs)

    monkeypatch.setitem(models.MODELS, "tiny", Watching)
    recipe = toy("baseline")
    state = begin(recipe, 10, 0, "cpu")
    train(state, load_images("cifar10", data), recipe.augmentation(), epochs=1, seed=0, cudnn_benchmark=True)
    assert set(seen) == {(True, True), (False, False)} and torch.backends.cudnn.benchmark is False


def test_switches_of_the_command_line(monkeypatch, tmp_path):
    given = {}

    def run(recipe, out, **options):
        given.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(command, "run", run)
    switches = ["--compile", "--cudnn-benchmark", "--bfloat16"]
    assert command.main(["resnet18-cifar10", "--device", "cpu", "--out", str(tmp_path), *switches]) == 2
    assert given["compiled"] and given["cudnn_benchmark"] and given["bfloat16"]
    assert command.main(["resnet18-cifar10", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert not (given["compiled"] or given["cudnn_benchmark"] or given["bfloat16"])


@pytest.mark.parametrize(("bfloat16", "rtol"), [(False, 1e-4), (True, 1e-2)])
def test_the_benchmark_compares_the_same_training(bfloat16, rtol):
    """What is timed does the same steps: losses of the training of today, of a plain loop and of before agree."""
    losses = benchmark.losses(n_images=256, bfloat16=bfloat16)
    assert len(losses) == 3
    assert_allclose(losses, losses[0], rtol=rtol)
    assert 0 < benchmark.disagreement(256, bfloat16=bfloat16) < benchmark.TOLERANCE[bfloat16]


def test_the_benchmark_notices_another_training(monkeypatch):
    """Other minibatches than the trainer's take the weights elsewhere."""
    orders = benchmark.PlainLoop._orders
    monkeypatch.setattr(benchmark.PlainLoop, "_orders", lambda self, n: orders(self, n).flip(0, 1))
    assert benchmark.disagreement(256) > 5 * benchmark.TOLERANCE[True]
