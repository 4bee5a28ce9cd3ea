"""The trainer of the recipes: against a plain loop, stopped and resumed, and given what it cannot use."""

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.nn import functional as F

from bpflat.flatness import local_energy
from bpflat.optim import ReplicatedSGD
from tests.training.deep.toy_deep import Tiny, read_events, short, stable, toy
from training.deep import run
from training.deep.__main__ import main, parser
from training.deep.augment import Augmentation
from training.deep.events import TAGS
from training.deep.flatness import FlatnessPlan
from training.deep.images import load_images
from training.deep.recipes import COLUMNS
from training.deep.results import METRICS, DeepRun, EpochMetrics
from training.deep.trainer import DeepReport, begin, centre, evaluate, train
from training.deep.training import DeepTraining
from training.progress import StatusLine
from training.randomness import augmentation_stream, device_seeds, minibatch_orders, sequence


def as_vector(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("column", ["baseline", "rsgd"])
def test_ends_at_a_training_loss(column, data, tmp_path):
    """The end comes after the first epoch below it, also when the run was cut off just there."""
    whole = short(toy(column), tmp_path / "whole", data, epochs=6)
    initial = short(toy(column), tmp_path / "initial", data, epochs=6, stop_loss=100)
    assert initial.curves.shape == (0, len(METRICS)) and initial.wall_time == 0
    assert initial.epochs == 0 and initial.train_loss > whole.train_loss
    threshold = 0.5 * (initial.train_loss + whole.train_loss)
    stopped = short(toy(column), tmp_path / "stopped", data, epochs=6, stop_loss=threshold)
    assert stopped.train_loss < threshold and 0 < stopped.epochs < 6
    assert_array_equal(stable(stopped), stable(whole)[: stopped.epochs])

    def cut_off(report):
        if report.epoch == stopped.epochs:
            raise KeyboardInterrupt

    options = {"epochs": 6, "stop_loss": threshold, "checkpoint_every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        short(toy(column), tmp_path / "cut", data, progress=cut_off, **options)
    resumed = short(toy(column), tmp_path / "cut", data, **options)
    assert_array_equal(stable(resumed), stable(stopped))
    with pytest.raises(ValueError, match="its stop_loss is"):
        short(toy(column), tmp_path / "cut", data, epochs=6)


@pytest.mark.parametrize("column", COLUMNS)
def test_stopped_and_resumed_equals_never_stopped(column, data, tmp_path):
    whole = short(toy(column), tmp_path / "whole", data)
    seen = []

    def stop_after_two(report):
        seen.append(report.epoch)
        if report.epoch == 2:
            raise KeyboardInterrupt

    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt, match=r"checkpoint\.pt"):
        short(toy(column), cut, data, checkpoint_every=0, progress=stop_after_two)
    resumed = short(toy(column), cut, data, progress=lambda report: seen.append(report.epoch))
    assert seen == [1, 2, 3, 4]
    assert_array_equal(stable(resumed), stable(whole))
    name = f"resnet18-cifar10-{column}-seed0"
    weights, again = (torch.load(tmp_path / d / f"{name}.pt", weights_only=True) for d in ("whole", "cut"))
    assert weights.keys() == again.keys() and all(torch.equal(weights[k], again[k]) for k in weights)
    assert {p.name for p in cut.iterdir()} == {f"{name}.{end}" for end in ("npz", "pt", "csv")}
    assert whole.test_error == whole.curve("test_error")[-1]
    for result in (whole, resumed):  # of all epochs, those before the stop too
        assert (result.curve("seconds") > 0).all() and 0 < result.training_time < result.wall_time
        assert result.wall_time == pytest.approx(result.curve("seconds").sum())
    passes = {"baseline": 4, "rsgd": 12, "esgd": 20, "rsgd-y": 12}[column]
    assert whole.curve("passes")[-1] == pytest.approx(passes * 100 / 110)
    # what the stored weights do is what was reported
    images = load_images("cifar10", data)
    model = Tiny(10)
    model.load_state_dict(weights)
    augmentation = toy(column).augmentation()
    loss, error = evaluate(model.eval(), images.test_images, images.test_labels, images, augmentation)
    assert (loss, error) == (pytest.approx(whole.test_loss), whole.test_error)
    # and is read again without any data
    again = short(toy(column), cut, tmp_path / "no data")
    assert_array_equal(again.curves, resumed.curves)
    assert again.configuration["recipe"]["column"] == column and again.provenance.versions["torch"] == torch.__version__


def test_all_columns_learn(data, tmp_path):
    for column in COLUMNS:
        result = short(toy(column), tmp_path, data, epochs=12, evaluate_every=5)
        assert result.test_error < 0.5, column  # chance is 0.9
        assert np.flatnonzero(np.isfinite(result.curve("test_error"))).tolist() == [4, 9, 11]
        assert result.curve("train_loss")[-1] < result.curve("train_loss")[0]
        if column == "baseline":
            assert np.isnan(result.curve("gamma")).all() and np.isnan(result.curve("distance")).all()
        else:
            gamma = result.curve("gamma")
            assert result.gamma0 > 0 and (np.diff(gamma) > 0).all() and (result.curve("distance") > 0).all()
            growth = 10 if column == "esgd" else 300
            assert growth / 2.5 < gamma[-1] / result.gamma0 < growth


def test_baseline_is_a_plain_loop(data):
    """One epoch against torch's SGD, the same minibatches and nothing else."""
    recipe = dataclasses.replace(toy("baseline"), model="smallconvnet")
    images, augmentation, epochs = load_images("cifar10", data), recipe.augmentation(), 1
    state = begin(recipe, 10, 7, "cpu")
    twin = begin(recipe, 10, 7, "cpu").models[0]
    train(state, images, augmentation, epochs=epochs, seed=7)
    optimizer = torch.optim.SGD(twin.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    orders = minibatch_orders(7, 0, 0, y=1, passes=1, n_patterns=110, batch=20)[:, 0]
    rng = np.random.default_rng(sequence(7, 0, 0, 0))
    for step, members in enumerate(orders):
        optimizer.param_groups[0]["lr"] = 0.01 if step / 5 < 110 / 160 else 0.001
        optimizer.zero_grad()
        inputs = augmentation(images.train_images[members], images.mean, images.std, rng)
        F.cross_entropy(twin(inputs), images.train_labels[members]).backward()
        optimizer.step()
    for ours, plain in zip(state.models[0].parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize(("convention", "eta"), [("mean", 0.02), ("mean-y-eta", 3 * 0.02)])
def test_conventions_of_rsgd_are_the_authors_loss(convention, eta, data):
    """One epoch against SGD on the mean over the replicas, with ``γ |w^a − w̄|²`` and all replicas in one optimizer."""
    changes = {"K": 1, "gamma0": 0.05, "gamma_convention": "code", "loss_convention": convention, "weight_decay": 0.05}
    recipe = dataclasses.replace(toy("rsgd", **changes), model="smallconvnet")
    images, augmentation = load_images("cifar10", data), recipe.augmentation()
    state = begin(recipe, 10, 7, "cpu")
    twins = begin(recipe, 10, 7, "cpu").models
    train(state, images, augmentation, epochs=1, seed=7)
    weights = [list(twin.parameters()) for twin in twins]
    optimizer = torch.optim.SGD(itertools.chain(*weights), eta, momentum=0.9, nesterov=True, weight_decay=0.05)
    orders = minibatch_orders(7, 0, 0, y=3, passes=1, n_patterns=110, batch=20)
    streams = [augmentation_stream(7, 0, 0, a) for a in range(3)]
    for step, minibatches in enumerate(orders):
        tau = step / len(orders) * recipe.epochs
        optimizer.param_groups[0]["lr"] = eta * recipe.eta(tau) / recipe.eta(0)
        gamma = recipe.focusing(0.05)(tau)
        loss = 0.0
        for twin, members, rng in zip(twins, minibatches, streams, strict=True):
            inputs = augmentation(images.train_images[members], images.mean, images.std, rng)
            loss = loss + F.cross_entropy(twin(inputs), images.train_labels[members]) / 3
        for copies in zip(*weights, strict=True):
            centre = torch.stack(copies).mean(0).detach()
            loss = loss + gamma * sum((w - centre).square().sum() for w in copies) / 3
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for ours, plain in zip(state.models, weights, strict=True):
        for mine, theirs in zip(ours.parameters(), plain, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_first_gamma_of_replicas_balances_loss_and_distance(data):
    recipe = toy("rsgd")
    images, augmentation = load_images("cifar10", data), recipe.augmentation()
    state, twin = (begin(recipe, 10, 3, "cpu") for _ in range(2))
    weights = [as_vector(m) for m in twin.models]
    assert not torch.equal(weights[0], weights[1])
    mean = sum(weights) / 3
    distance = sum(0.5 * (w - mean).square().sum() for w in weights).item()
    train(state, images, augmentation, epochs=1, seed=3)
    # losses of untrained networks on 20 images, around ln 10
    assert 0.5 * 3 * np.log(10) < state.gamma0 * distance < 2 * 3 * np.log(10)
    assert isinstance(state.optimizer, ReplicatedSGD)


def test_first_gamma_of_esgd_is_known_after_a_loop_without_attraction(data):
    recipe = toy("esgd", gamma0=None, gamma_growth=1.0)
    images, augmentation = load_images("cifar10", data), recipe.augmentation()
    state, twin = (begin(recipe, 10, 3, "cpu") for _ in range(2))
    train(state, images, augmentation, epochs=1, seed=3)
    orders = torch.as_tensor(minibatch_orders(3, 0, 0, y=1, passes=5, n_patterns=110, batch=20))[:5, 0]
    rng = np.random.default_rng(sequence(3, 0, 0, 0))
    seeds = device_seeds(3, 0, 0, 0, 5)
    model, first = twin.models[0].train(), None
    start = as_vector(model)
    end = None
    twin.optimizer.alpha = 0.0  # μ is then w' itself
    twin.optimizer.outer.param_groups[0].update(
        lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0
    )  # and w becomes it
    for members, own in zip(orders, seeds, strict=True):
        torch.manual_seed(int(own))
        twin.optimizer.zero_grad()
        inputs = augmentation(images.train_images[members], images.mean, images.std, rng)
        loss = F.cross_entropy(model(inputs), images.train_labels[members])
        loss.backward()
        first = loss.item() if first is None else first
        twin.optimizer.step()
        end = as_vector(model)
    assert state.gamma0 == pytest.approx(first / (0.5 * (end - start).square().sum().item()), rel=1e-3)


@pytest.mark.parametrize("column", ["baseline", "esgd", "rsgd"])
def test_centre_has_running_statistics_of_augmented_minibatches(column, data):
    """Statistics of the minibatches that were trained on: one model's, along w', or the mean over the replicas."""
    recipe = toy(column)
    images, augmentation = load_images("cifar10", data), recipe.augmentation()
    state = begin(recipe, 10, 0, "cpu")
    train(state, images, augmentation, epochs=1, seed=0)
    weights = [m[1].weight.detach().clone() for m in state.models]
    running = [(m[2].running_mean.clone(), m[2].running_var.clone()) for m in state.models]
    with centre(state) as model:
        torch.testing.assert_close(model[1].weight, sum(weights) / len(weights))
        for got, own in zip((model[2].running_mean, model[2].running_var), zip(*running, strict=True), strict=True):
            torch.testing.assert_close(got, sum(own) / len(own))
        assert not model.training
    assert torch.equal(state.models[0][2].running_mean, running[0][0])
    assert torch.equal(state.models[0][1].weight, weights[0])


PLAN = FlatnessPlan(every=2, sigmas=(0.1, 0.4), n_samples=8, subset=50)


@pytest.mark.parametrize("column", ["rsgd", "esgd"])
def test_flatness_along_the_training(column, data, tmp_path):
    """Measured when due, at the centre, the same after a stop; the training itself does not notice."""
    plain = short(toy(column), tmp_path / "plain", data, epochs=5)
    whole = short(toy(column), tmp_path / "whole", data, epochs=5, flatness=PLAN)
    assert plain.flatness is None
    assert_array_equal(stable(whole), stable(plain))

    def stop(report):
        if report.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        short(toy(column), tmp_path / "cut", data, epochs=5, flatness=PLAN, checkpoint_every=0, progress=stop)
    short(toy(column), tmp_path / "cut", data, epochs=5, flatness=PLAN)
    loaded = DeepRun.load(tmp_path / "cut" / f"resnet18-cifar10-{column}-seed0.npz").flatness
    assert loaded.epoch.tolist() == [2, 4, 5] and loaded.sigma.tolist() == [0.1, 0.4] and loaded.n_samples == 8
    for field in dataclasses.fields(loaded):
        assert_array_equal(getattr(loaded, field.name), getattr(whole.flatness, field.name), err_msg=field.name)
    assert whole.flatness.train_error[-1] == whole.train_error and whole.flatness.test_error[-1] == whole.test_error
    assert (whole.flatness.std_error > 0).all() and whole.flatness.delta_error.shape == (3, 2)


def test_flatness_is_that_of_the_stored_weights(data, tmp_path):
    """`local_energy` of the stored model without augmentation, on all images, whose draws are others, agrees."""
    plan = FlatnessPlan(every=10, sigmas=(0.3,), n_samples=200)
    result = short(toy("baseline"), tmp_path, data, epochs=5, flatness=plan, augment=False)
    model, images = Tiny(10), load_images("cifar10", data)
    model.load_state_dict(torch.load(tmp_path / "resnet18-cifar10-baseline-seed0.pt", weights_only=True))
    inputs = Augmentation().plain(images.train_images, images.mean, images.std)
    profile = local_energy(model, (inputs, images.train_labels), [0.3], n_samples=200, seed=1)
    flatness = result.flatness
    assert profile.train_error == result.train_error
    error = np.hypot(profile.std_error, flatness.std_error[-1])
    assert abs(profile.delta_error - flatness.delta_error[-1]) < 4 * error and error < 0.03


def test_without_augmentation_the_images_stay_as_they_are(data, tmp_path):
    result = short(toy("baseline"), tmp_path, data, epochs=2, augment=False)
    assert result.configuration["augment"] is False
    state, images = begin(toy("baseline"), 10, 0, "cpu"), load_images("cifar10", data)
    train(state, images, Augmentation(flip=False), epochs=2, seed=0)
    assert_array_equal(stable(result)[:, 4], [row.train_loss for row in state.curves])


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path):
    recipe = toy("baseline")
    wild = dataclasses.replace(recipe, eta=dataclasses.replace(recipe.eta, start=1e30))
    with pytest.raises(FloatingPointError, match="there is no checkpoint yet"):
        short(wild, tmp_path, data)
    late = dataclasses.replace(recipe, eta=dataclasses.replace(recipe.eta, warm_up=(1e-2, 80.0), start=1e30))
    with pytest.raises(FloatingPointError, match=r"last good checkpoint is .*seed0\.checkpoint\.pt"):
        short(late, tmp_path, data, checkpoint_every=0)
    saved = torch.load(tmp_path / "resnet18-cifar10-baseline-seed0.checkpoint.pt", weights_only=True)
    assert saved["epoch"] == 2 and all(torch.isfinite(w).all() for w in saved["models"][0].values())
    assert not list(tmp_path.glob("*.npz"))


def test_other_and_broken_files_are_left_alone(data, tmp_path):
    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        short(toy("rsgd"), tmp_path, data, checkpoint_every=0, progress=stop)
    checkpoint = tmp_path / "resnet18-cifar10-rsgd-seed0.checkpoint.pt"
    content = checkpoint.read_bytes()
    with pytest.raises(ValueError, match="n_train"):
        short(toy("rsgd"), tmp_path, data, n_train=100)
    with pytest.raises(ValueError, match=r"recipe\.weight_decay is 0.0005, not 0.1"):
        short(toy("rsgd", weight_decay=0.1), tmp_path, data)
    assert checkpoint.read_bytes() == content
    checkpoint.write_bytes(content[:2000])
    with pytest.raises(ValueError, match="no whole file of tensors"):
        short(toy("rsgd"), tmp_path, data)
    assert checkpoint.read_bytes() == content[:2000]
    result = tmp_path / "resnet18-cifar10-baseline-seed0.npz"
    short(toy("baseline"), tmp_path, data, epochs=1)
    with pytest.raises(ValueError, match="is of another run: its epochs"):
        short(toy("baseline"), tmp_path, data, epochs=2)
    result.write_bytes(result.read_bytes()[:500])
    with pytest.raises(ValueError, match="not a whole"):
        short(toy("baseline"), tmp_path, data, epochs=1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs_scale": 0.0}, "epochs-scale must be positive"),
        ({"epochs_scale": float("nan")}, "epochs-scale must be positive"),
        ({"evaluate_every": 0}, "evaluate-every"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"n_train": 10}, "at least the 20 of one minibatch"),
    ],
)
def test_bad_arguments(data, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(toy("baseline"), tmp_path / "out", data=data, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 0}, "flatness-every must be a whole number, at least 1"),
        ({"every": 1, "sigmas": (0.1, -1.0)}, "flatness-sigmas must be positive"),
        ({"every": 1, "n_samples": 1}, "n_samples must be a whole number, at least 2"),
        ({"every": 1, "subset": 0}, "flatness-subset must be a whole number"),
    ],
)
def test_bad_flatness_plans(options, message):
    with pytest.raises(ValueError, match=message):
        FlatnessPlan(**options)


def test_every_field_of_a_training_is_an_option_of_the_command_line():
    """Options reach the training by their names."""
    fields = {field.name for field in dataclasses.fields(DeepTraining)}
    options = vars(parser().parse_args(["smallconvnet-cifar10"]))
    assert fields - options.keys() == {"flatness"}  # made of four
    own = {name: value for name, value in options.items() if name in fields - {"recipe", "out", "device"}}
    defaults = DeepTraining(toy("baseline"), Path("out"))
    assert own == {name: getattr(defaults, name) for name in own}


def test_command_line(data, tmp_path, capsys):
    common = ["smallconvnet-cifar10", "--data", str(data), "--out", str(tmp_path), "--device", "cpu"]
    command = [*common, "--algorithm", "esgd", "--model", "tiny", "--epochs-scale", "0.02", "--seed", "2"]
    assert main([*command, "--n-train", "110"]) == 2  # the recipe's minibatch is 128
    assert "at least the 128" in capsys.readouterr().err
    assert main([*common, "--algorithm", "adam"]) == 2 and "Table 1 has" in capsys.readouterr().err
    assert main([*common, "--policies", str(data)]) == 2 and "is not JSON" in capsys.readouterr().err
    assert main(["smallconvnet-cifar10", "--data", str(tmp_path / "none.npz"), "--out", str(tmp_path)]) == 2
    assert "no file or folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_sub_policies_are_the_recipes_those_of_a_file_or_none(data, tmp_path):
    pytest.importorskip("torchvision")
    file = tmp_path / "policies.json"
    file.write_text('[[["Invert", 1, 0]]]')
    recipe = toy("baseline", policy="fast-autoaugment-imagenet")
    results = {p: short(recipe, tmp_path / Path(str(p)).stem, data, epochs=1, policies=p) for p in (None, file, "none")}
    assert len({r.curve("train_loss")[0] for r in results.values()}) == 3
    plain = short(toy("baseline"), tmp_path / "plain", data, epochs=1)
    assert_array_equal(stable(results["none"]), stable(plain))
    assert results["none"].configuration == plain.configuration
    with pytest.raises(ValueError, match="of another run: its policy"):
        short(recipe, tmp_path / "None", data, epochs=1, policies=file)
    with pytest.raises(ValueError, match=r"of another run: its recipe\.policy"):
        short(recipe, tmp_path / "None", data, epochs=1, policies="none")


def test_results_are_tables_too(data, tmp_path):
    result = short(toy("esgd"), tmp_path, data, epochs=2)
    lines = (tmp_path / "resnet18-cifar10-esgd-seed0.csv").read_text().splitlines()
    assert lines[0].split(",") == list(METRICS) and len(lines) == 3
    loaded = DeepRun.load(tmp_path / "resnet18-cifar10-esgd-seed0.npz")
    assert loaded.summary() == result.summary() and "2 epochs on 110 images" in loaded.summary()
    assert json.dumps(loaded.configuration) == json.dumps(result.configuration)


@pytest.mark.parametrize("column", ["baseline", "rsgd"])
def test_event_files_hold_the_curves_and_no_epoch_twice(column, data, tmp_path):
    """The run is killed twice after epochs that no checkpoint has, first with none at all; those are trained again."""
    interval = 1e9
    for cut in (1, 2):

        def stop(report, cut=cut):
            if report.epoch == cut + 1:
                raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            run_to_events(column, data, tmp_path, interval if cut == 1 else 0, stop)
    folder = tmp_path / f"resnet18-cifar10-{column}-seed0.events"
    assert read_events(folder)["loss/train"][0].tolist() == [1, 2, 3]
    result = run_to_events(column, data, tmp_path, interval)
    events = read_events(folder)
    absent = {"schedule/gamma", "replicas/distance"} if column == "baseline" else set()
    assert set(events) == set(TAGS) - absent
    for tag, (steps, values) in events.items():
        curve = result.curve(TAGS[tag])
        assert_array_equal(steps, 1 + np.flatnonzero(np.isfinite(curve)))
        if tag != "speed/images per second":
            assert_array_equal(values.astype(np.float32), curve[np.isfinite(curve)].astype(np.float32))
    assert events["error/test"][0].tolist() == [2, 4, 5]


def run_to_events(column, data, out, checkpoint_every, progress=lambda report: None):
    options = {"checkpoint_every": checkpoint_every, "tensorboard": True, "evaluate_every": 2, "progress": progress}
    return short(toy(column), out, data, epochs=5, **options)


def test_event_files_without_tensorboard(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install bpflat\[deep\]"):
        short(toy("baseline"), tmp_path, data, tensorboard=True)
    assert not list(tmp_path.iterdir())
    assert short(toy("baseline"), tmp_path, data, epochs=1).epochs == 1


def test_progress_line(capsys):
    metrics = EpochMetrics(3, 9.0, 0.02, 0.5, 1.2345, 0.25, 1.0, 0.3, 0.01, 1234.0)
    line = DeepReport("resnet18-cifar10-rsgd seed 0", 53, metrics).describe(0.5)
    assert line == (
        "resnet18-cifar10-rsgd seed 0 epoch 3/53 | η 0.02 | γ 0.5 distance 1.00e-02 | loss 1.2345 train 25.00% | "
        "test 30.00% | 1234 images/s | 2 min left"
    )
    status = StatusLine(interval=0.0)
    for epoch in (3, 4):
        status(DeepReport("run", 53, dataclasses.replace(metrics, epoch=epoch, gamma=float("nan"))))
    assert capsys.readouterr().err.startswith("run epoch 4/53 | η 0.02 | loss")
