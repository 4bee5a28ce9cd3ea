"""What decides the numbers of a training: γ and K in shortened runs, precision, sizes, statistics, sudden ends."""

import dataclasses
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional as F

from bpflat.optim import ReplicatedSGD, attraction_limit
from tests.stored import ROOT, WEIGHTS, needs_published_networks
from tests.training.deep.toy_deep import coloured_images, short, stable, toy
from training.deep.augment import Augmentation
from training.deep.images import load_images
from training.deep.recipes import RECIPES, as_plain, find_recipe, with_printed_growth
from training.deep.results import DeepRun
from training.deep.schedules import Drops
from training.deep.trainer import State, begin, centre, evaluate, require_stable_attraction, train
from training.models import make_model
from training.models.cifar_resnet import CifarResNet
from training.published.resnets import load_published


def contraction(recipe, pace, steps):
    """Logarithm of the distance from the centre after a run of so many steps without a loss, over the one before."""
    state = State(recipe, range(2), [], None, recipe.printed_gamma0, pace=pace)
    models = [torch.nn.Linear(1, 1, bias=False).double() for _ in range(2)]
    bases = [recipe.base_optimizer(m) for m in models]
    optimizer = ReplicatedSGD(bases, gamma=0.0, K=1, coupling=recipe.coupling)
    before = optimizer.distance()
    for t in range(steps):
        tau = t / steps * recipe.epochs
        for group in optimizer.param_groups:
            group["lr"] = recipe.eta(tau)
        for m in models:
            m.weight.grad = torch.zeros_like(m.weight)
        optimizer.gamma, optimizer.K = state.gamma(tau), state.K(tau)
        optimizer.step()
    return (optimizer.distance() / before).log().item()


def test_replicas_contract_in_a_shortened_run_as_in_the_whole_one():
    """They contract by ``exp(−Σ η γ / (1 − momentum))``; the distance is quadratic in them."""
    recipe = find_recipe("smallconvnet-cifar10", "rsgd")
    recipe = dataclasses.replace(
        recipe, epochs=5, eta=Drops(0.05, (2.5,)), gamma0=2e-3, gamma_growth=30.0, weight_decay=0.0
    )
    assert recipe.steps == 5 * 390
    tau = np.arange(recipe.steps) / 390
    expected = -2 * sum(recipe.eta(t) * recipe.focusing(2e-3)(t) for t in tau) / (1 - 0.9)
    whole, rescaled, shortened = (contraction(recipe, *how) for how in ((1.0, 1950), (0.1, 195), (1.0, 195)))
    assert whole == pytest.approx(expected, rel=0.1) and whole < -5
    assert rescaled == pytest.approx(whole, rel=0.15)
    assert shortened == pytest.approx(0.1 * whole, rel=0.2)


def test_gamma_and_k_of_a_shortened_run_are_derived_and_recorded(data, tmp_path):
    recipe = toy("rsgd", gamma0=1e-4, K=8)
    whole = short(recipe, tmp_path / "0", data, n_train=100)
    kept = short(recipe, tmp_path / "1", data, n_train=100, keep_contraction=True)
    steps, full = 4 * 5, recipe.epochs * (50_000 // 20)
    assert "gamma_scale" not in whole.configuration
    assert kept.configuration["gamma_scale"] == pytest.approx(full / steps)
    assert_allclose(kept.curve("gamma"), full / steps * whole.curve("gamma"))
    assert kept.gamma0 == pytest.approx(full / steps * 1e-4) and whole.gamma0 == 1e-4
    assert kept.curve("distance")[-1] < whole.curve("distance")[-1]
    with pytest.raises(ValueError, match="its gamma_scale is None"):
        short(recipe, tmp_path / "0", data, n_train=100, keep_contraction=True)
    single = short(toy("baseline"), tmp_path, data, n_train=100, keep_contraction=True)
    assert "gamma_scale" not in single.configuration


def test_k_is_rescaled_with_the_steps():
    recipe = find_recipe("pyramidnet-cifar10", "rsgd-y")
    assert [recipe.interval(0, pace) for pace in (1, 2, 0.25, 0.01)] == [10, 20, 2, 1]
    assert [recipe.interval(299, pace) for pace in (1, 2, 0.25)] == [3, 6, 1]


@pytest.mark.parametrize("row", RECIPES)
def test_replicas_of_no_recipe_overshoot_their_centre(row):
    """``η K γ`` over the whole schedule; automatic γ₀ are 9·10⁻⁴ (ResNet-18) or less."""
    for column in ("rsgd", "rsgd-y"):
        recipe = find_recipe(row, column)
        if recipe.optimizer == "sgd":
            gamma = recipe.focusing(1e-3 if math.isnan(recipe.printed_gamma0) else recipe.printed_gamma0)
            pulls = [recipe.eta(t) * gamma(t) * recipe.interval(t) for t in np.linspace(0, recipe.epochs, 999)[:-1]]
            assert max(pulls) < 0.5 * attraction_limit(recipe.K, 0.9, nesterov=recipe.nesterov)


def test_a_gamma_that_gets_too_large_is_refused_before_the_training(data, tmp_path):
    recipe = toy("rsgd", gamma0=1.0, gamma_growth=1e4)
    with pytest.raises(ValueError, match=r"gamma gets too large from gamma0 = 1: η K γ reaches 1\.3. at epoch 2"):
        short(recipe, tmp_path, data)
    with pytest.raises(ValueError, match="take a smaller gamma0 or gamma_growth"):  # known at the first step
        short(toy("rsgd", gamma_growth=1e6), tmp_path, data)
    for changes in ({"coupling": "decoupled"}, {"optimizer": "rmsprop-tf"}):
        state = State(dataclasses.replace(recipe, **changes), range(3), [], None, 1.0)
        require_stable_attraction(state)


def test_the_convention_of_gamma_doubles_what_is_printed(data):
    recipe = toy("rsgd", gamma0=0.1, gamma_convention="code")
    assert (recipe.printed_gamma0, dataclasses.replace(recipe, gamma_convention="eq6").printed_gamma0) == (0.2, 0.1)
    assert math.isnan(toy("rsgd", gamma_convention="code").printed_gamma0)
    cosine = dataclasses.replace(find_recipe("pyramidnet-cifar10", "rsgd"), gamma_convention="code")
    assert cosine.focusing(math.nan)(cosine.epochs) == pytest.approx(0.2)
    assert toy("esgd", gamma_convention="code").printed_gamma0 == 0.5
    with pytest.raises(ValueError, match="gamma-convention must be one of eq6, code; got 'half'"):
        toy("rsgd", gamma_convention="half")


def test_conventions_of_the_loss():
    """Runs of before have none stored; RMSprop's steps, which do not scale with the loss, have no other."""
    assert "loss_convention" not in as_plain(toy("rsgd"))
    assert as_plain(toy("rsgd", loss_convention="mean"))["loss_convention"] == "mean"
    assert toy("baseline", loss_convention="mean").learning_rate(0) == 0.01
    with pytest.raises(ValueError, match="loss-convention must be one of eq6, mean, mean-y-eta; got 'sum'"):
        toy("rsgd", loss_convention="sum")
    with pytest.raises(ValueError, match="loss-convention mean is known for SGD alone, not for rmsprop-tf"):
        dataclasses.replace(find_recipe("efficientnet-b0-cifar100", "rsgd"), loss_convention="mean")


def test_growth_of_esgd_as_printed_is_per_outer_step():
    small = with_printed_growth(find_recipe("smallconvnet-cifar10", "esgd"))
    assert small.steps == 60 * 390 and small.gamma_growth == pytest.approx((1 + 2e-5) ** (60 * 390))
    dense = with_printed_growth(find_recipe("densenet121-tiny-imagenet", "esgd"))
    assert dense.focusing(1.0)(40) == pytest.approx((1 + 2e-5) ** (40 * 781))
    with pytest.raises(ValueError, match="prints no γ₁ for resnet18-cifar10-esgd"):
        with_printed_growth(find_recipe("resnet18-cifar10", "esgd"))


def test_inner_momentum_of_esgd_is_zeroed_at_every_loop(data):
    recipe = toy("esgd")
    state = begin(recipe, 10, 0, "cpu")
    train(state, load_images("cifar10", data), recipe.augmentation(), epochs=1, seed=0)
    assert not state.optimizer.inner.state and state.optimizer.outer.state


def test_bfloat16_sees_every_step_of_the_weights(data):
    """Autocast keeps what it has cast until its context ends: the first epoch learns as in float32."""
    losses = {}
    for bfloat16 in (False, True):
        recipe = toy("baseline")
        recipe = dataclasses.replace(recipe, eta=dataclasses.replace(recipe.eta, start=0.1), batch=10)
        state = begin(recipe, 10, 0, "cpu")
        train(state, load_images("cifar10", data), recipe.augmentation(), epochs=2, seed=0, bfloat16=bfloat16)
        losses[bfloat16] = [row.train_loss for row in state.curves]
    assert losses[True][0] != losses[False][0]
    assert_allclose(losses[True], losses[False], rtol=0.03)


def test_images_are_resized_once(data, tmp_path, monkeypatch):
    calls = []
    interpolate = F.interpolate
    monkeypatch.setattr(
        F,
        "interpolate",
        lambda images, *arguments, **options: calls.append(len(images)) or interpolate(images, *arguments, **options),
    )
    result = short(toy("baseline", size=36), tmp_path, data, epochs=2)
    assert calls == [110, 60]
    # the training of before, which resized every minibatch
    recipe, images = toy("baseline", size=36), load_images("cifar10", data)
    state = begin(recipe, 10, 0, "cpu")
    train(state, images, recipe.augmentation(), epochs=2, seed=0)
    assert_array_equal(stable(result)[:, 4], [row.train_loss for row in state.curves])


def test_maximum_and_relu_commute():
    """SmallConvNet's order is that of Appendix C.1 to the bit, gradients too."""
    torch.manual_seed(0)
    model, images = make_model("smallconvnet"), torch.randn(16, 3, 32, 32)
    labels = torch.arange(16) % 10
    F.cross_entropy(model(images), labels).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    x = model.pool1(model.conv1(images).relu())
    x = model.pool2(model.conv2(x).relu())
    logits = model.output(model.dense(x.flatten(1)).relu())
    assert torch.equal(model(images), logits)
    F.cross_entropy(logits, labels).backward()
    for ours, printed in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(ours, printed.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("column", "epochs", "options"),
    [("esgd", 60, []), ("rsgd-y", 300, ["--bfloat16", "--flatness-every", "2", "--flatness-samples", "3"])],
)
def test_killed_and_resumed_from_the_command_line(tmp_path, column, epochs, options):
    """Killed after an epoch: as if never stopped, in curves, local energy and weights, to the bit."""
    data = coloured_images(tmp_path / "toy.npz", n_train=140)
    command = [sys.executable, "-m", "training.deep", "smallconvnet-cifar10", "--algorithm", column, "--data", data]
    command += ["--epochs-scale", str(4 / epochs), "--threads", "1", "--device", "cpu", *options]
    command += ["--checkpoint-every", "0", "--evaluate-every", "2", "--out"]
    name = f"smallconvnet-cifar10-{column}-seed0"
    subprocess.run([*command, tmp_path / "whole"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    checkpoint = tmp_path / "cut" / f"{name}.checkpoint.pt"
    killed = subprocess.Popen([*command, tmp_path / "cut"], cwd=ROOT, stdout=subprocess.DEVNULL)
    while not checkpoint.exists() and killed.poll() is None:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert torch.load(checkpoint, weights_only=True)["epoch"] < 4
    subprocess.run([*command, tmp_path / "cut"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    whole, cut = (DeepRun.load(tmp_path / folder / f"{name}.npz") for folder in ("whole", "cut"))
    assert_array_equal(stable(cut), stable(whole))
    assert (cut.curve("seconds") > 0).all() and len(cut.curves) == 4
    if options:
        assert_array_equal(cut.flatness.delta_error, whole.flatness.delta_error)
    whole, resumed = (torch.load(tmp_path / folder / f"{name}.pt", weights_only=True) for folder in ("whole", "cut"))
    assert all(torch.equal(whole[key], resumed[key]) and whole[key].is_contiguous() for key in whole)


@needs_published_networks
def test_statistics_of_the_centre_cost_a_published_resnet_nothing(cifar10):
    """Replicas at the published weights see augmented minibatches: within 0.3 % of the running statistics published."""
    images = load_images("cifar10", cifar10, n_train=1920)
    mean, std = (255 * torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    tested = {name: getattr(images, name)[:2000] for name in ("test_images", "test_labels")}
    images = dataclasses.replace(images, mean=mean, std=std, **tested)
    published = load_published(CifarResNet(20), WEIGHTS / "resnet20-12fca82f.th").eval()
    augmentation = Augmentation(padding=4)
    recipe = dataclasses.replace(toy("rsgd", gamma0=0.0, y=2), model="resnet20", batch=128, eta=Drops(0.0, ()))
    state = begin(recipe, 10, 0, "cpu")
    for model in state.models:
        load_published(model, WEIGHTS / "resnet20-12fca82f.th")
    train(state, images, augmentation, epochs=1, seed=0)
    tests = images.test_images, images.test_labels, images, augmentation
    with centre(state) as model:
        assert model.bn1.running_mean.ne(published.bn1.running_mean).all()
        assert abs(evaluate(model, *tests)[1] - evaluate(published, *tests)[1]) < 0.003
