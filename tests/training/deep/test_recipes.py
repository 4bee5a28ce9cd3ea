"""Recipes of Table 1: Appendix C's values, and schedules that stretch."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.deep.images import SOURCES
from training.deep.recipes import COLUMNS, POLICIES, RECIPES, as_plain, find_recipe
from training.deep.results import DeepRun
from training.deep.rmsprop import TensorFlowRMSprop
from training.deep.schedules import Annealing, Decay, Drops
from training.deep.sub_policies import autoaugment_cifar10
from training.models import MODELS

RESULTS = Path(__file__).parents[3] / "figures" / "results" / "table1"
ALL = [recipe for row in RECIPES.values() for recipe in row.values()]


def test_cells_and_blanks():
    assert len(RECIPES) == 8 and len(ALL) == 30
    for row, cells in RECIPES.items():
        assert set(cells) == set(COLUMNS) - ({"esgd"} if row.startswith("pyramidnet") else set())
        assert all(recipe.name == f"{row}-{column}" for column, recipe in cells.items())
    assert {r.model for r in ALL} <= set(MODELS) and {r.data for r in ALL} <= set(SOURCES)
    with pytest.raises(ValueError, match="only baseline, rsgd, rsgd-y"):
        find_recipe("pyramidnet-cifar10", "esgd")
    with pytest.raises(ValueError, match="one of smallconvnet-cifar10"):
        find_recipe("resnet18", "rsgd")


@pytest.mark.parametrize(
    "row, epochs, first_eta, last_eta",
    [  # epochs of baseline, rSGD, eSGD; first and last η of the three
        ("smallconvnet-cifar10", (300, 100, 60), (0.01, 0.05, 0.5), (1e-4, 5e-4, 5e-3)),
        ("resnet18-cifar10", (160, 53, 32), (0.01, 0.02, 0.25), (1e-3, 2e-3, 2.5e-3)),
        ("resnet110-cifar10", (164, 55, 32), (0.01, 0.1, 0.9), (1e-3, 1e-3, 9e-3)),
        ("pyramidnet-cifar10", (300, 100, None), (0.05, 0.05, None), (0.0, 0.0, None)),
        ("pyramidnet-cifar100", (300, 100, None), (0.05, 0.05, None), (0.0, 0.0, None)),
        (
            "efficientnet-b0-cifar100",
            (350, 117, 70),
            (0.01, 0.01, 0.5),
            (0.01 * 0.97**174, 0.01 * 0.97 ** (58 * 350 / 117), 0.5 * 0.92**34),
        ),
        ("resnet50-tiny-imagenet", (270, 90, 50), (0.05, 0.05, 0.8), (5e-5, 5e-5, 8e-4)),
        ("densenet121-tiny-imagenet", (200, 67, 40), (0.05, 0.05, 0.5), (5e-4, 5e-4, 5e-3)),
    ],
)
def test_schedules_begin_and_end_where_appendix_c_says(row, epochs, first_eta, last_eta):
    for i, column in enumerate(("baseline", "rsgd", "esgd")):
        if epochs[i] is None:
            continue
        recipe = find_recipe(row, column)
        assert recipe.epochs == epochs[i]
        assert recipe.eta(0) == pytest.approx(first_eta[i])
        assert recipe.eta(recipe.epochs - 1e-6) == pytest.approx(last_eta[i], abs=1e-12)
        assert (recipe.y, recipe.L) == {"baseline": (1, 1), "rsgd": (3, 1), "esgd": (1, 5)}[column]
    parallel = find_recipe(row, "rsgd-y")
    assert (parallel.epochs, parallel.eta(0)) == (epochs[0], pytest.approx(first_eta[1]))


def test_replicas_without_a_printed_gamma_focus_by_ten_thousand():
    for recipe in ALL:
        if recipe.algorithm == "rsgd" and not recipe.gamma_max:
            assert recipe.focusing(2.0)(recipe.epochs) == pytest.approx(2e4)


def test_pyramidnet_focuses_by_a_cosine_and_meets_more_often_in_the_end():
    for column, end in (("rsgd-y", 220), ("rsgd", 220 / 3)):
        recipe = find_recipe("pyramidnet-cifar10", column)
        gamma = recipe.focusing(math.nan)
        assert (gamma(0), gamma(recipe.epochs / 2)) == (0.0, pytest.approx(0.05))
        assert gamma(recipe.epochs) == pytest.approx(0.1)
        assert (recipe.interval(end - 0.01), recipe.interval(end)) == (10, 3)
        assert (recipe.policy, recipe.cutout) == ("autoaugment-cifar10", 16)
    assert find_recipe("pyramidnet-cifar100", "rsgd-y").interval(299) == 10


def test_drops_stand_where_they_are_printed():
    eta = find_recipe("resnet110-cifar10", "baseline").eta
    assert [eta(t) for t in (0, 0.99, 1, 81.99)] == [0.01, 0.01, 0.1, 0.1]
    assert [eta(t) for t in (82, 123.99, 124)] == pytest.approx([0.01, 0.01, 0.001])
    rsgd = find_recipe("smallconvnet-cifar10", "rsgd").eta
    assert rsgd.milestones == pytest.approx((50, 75)) and rsgd.warm_up is None


@pytest.mark.parametrize("schedule", [Drops(0.1, (4, 7), (0.01, 1)), Annealing(0.3, 10)])
def test_schedules_stretch(schedule):
    for tau in (0, 0.5, 1.5, 4.5, 8, 9.9):
        assert schedule.stretched(3)(3 * tau) == pytest.approx(schedule(tau))


def test_a_stretched_decay_ends_where_it_did():
    decay = Decay(0.1, 0.9)
    assert decay(1.99) == 0.1 and decay(2) == pytest.approx(0.09)
    assert decay.stretched(0.5)(50) == pytest.approx(decay(100))


def test_optimizers():
    model = torch.nn.Linear(2, 2)
    optimizer = find_recipe("efficientnet-b0-cifar100", "baseline").base_optimizer(model)
    assert isinstance(optimizer, TensorFlowRMSprop)
    assert optimizer.defaults == {"lr": 0.01, "decay": 0.9, "momentum": 0.9, "eps": 1e-3, "weight_decay": 1e-5}
    inner = find_recipe("smallconvnet-cifar10", "esgd").base_optimizer(model, 0.02)
    assert isinstance(inner, torch.optim.SGD) and inner.defaults["nesterov"] and inner.defaults["lr"] == 0.02


def test_sub_policies_are_those_of_the_recipe_or_those_given():
    assert {r.policy for row in RECIPES.values() for r in row.values()} == set(POLICIES)
    recipe = find_recipe("resnet50-tiny-imagenet", "baseline")
    assert len(recipe.augmentation().policy) == 498 and recipe.augmentation(()).policy == ()
    assert recipe.augmentation().padding == 8
    pytest.importorskip("torchvision")
    recipe = find_recipe("pyramidnet-cifar100", "rsgd")
    assert recipe.augmentation().policy == autoaugment_cifar10(32) and recipe.augmentation(()).policy == ()
    assert find_recipe("efficientnet-b0-cifar100", "rsgd").augmentation().policy == autoaugment_cifar10(224)


def test_stored_runs_are_recognised():
    """Fields that came after a run was stored do not make it another one, but for algorithms that changed."""
    stored = [DeepRun.load(path) for path in sorted(RESULTS.glob("*.npz"))]
    assert len(stored) > 2
    for run in stored:
        recipe = find_recipe(run.row, run.column)
        plain = json.loads(json.dumps(as_plain(recipe)))
        changed = {"rsgd": "coupling", "esgd": "reset_inner"}.get(recipe.algorithm)
        if changed is None or changed in run.configuration["recipe"]:
            assert plain == run.configuration["recipe"]
        else:
            assert plain.items() > run.configuration["recipe"].items() and changed in plain
    changed = as_plain(replace(recipe, flip=False, model_options={"dropout": 0.5}))
    assert (changed["flip"], changed["model_options"]) == (False, {"dropout": 0.5})
