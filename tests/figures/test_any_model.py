"""Small networks on the patterns of B.1: what is measured of them, and what is said of the measures."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bpflat import load_reduced_fashion_mnist
from figures import any_model
from figures.any_model import DELTA, PHI, TEST, correlation
from figures.measure.any_model import (
    ARCHITECTURES,
    PLANS,
    SCALES,
    SETTINGS,
    Minimum,
    Plan,
    load_minima,
    measure_missing,
    patterns,
    setting_of,
    train_and_measure,
    trained,
)
from tests.figures.toy_runs import minimum

TOY = Plan(
    seeds=1,
    n_samples=400,
    n_draws=1500,
    sigmas=(0.5,),
    architectures=("one-layer",),
    n_train=50,
    epochs=60,
    stop_loss=0.01,
)
(ARCHITECTURE, RECIPE), *_ = TOY.recipes()


@pytest.fixture(scope="module")
def measured():
    return train_and_measure(TOY, ARCHITECTURE, RECIPE, 0)


def test_patterns_are_those_of_the_committee_machine():
    images, data = patterns(30), load_reduced_fashion_mnist(30)
    inputs = RECIPE.augmentation().plain(images.train_images, images.mean, images.std)
    assert_array_equal(inputs.flatten(1), data.train_patterns)
    assert_array_equal(2 * images.train_labels - 1, data.train_labels)
    assert_array_equal(2 * images.test_labels - 1, data.test_labels)


def test_full_plan_is_what_was_asked_for():
    """There are at least 20 minima of each architecture, and no pattern can be wrong at the loss that ends them."""
    plan = PLANS["full"]
    by_architecture = [architecture for architecture, _ in plan.recipes()] * plan.seeds
    assert all(by_architecture.count(name) >= 20 for name in ARCHITECTURES)
    assert plan.stop_loss < np.log(2) / plan.n_train
    assert {recipe.algorithm for _, recipe in plan.recipes()} == {"sgd", "rsgd", "esgd"}


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"n_samples": 99}, {"n_train": 4000}, {"stop_loss": 0.0}])
def test_sizes_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(TOY, **wrong)


def test_measures_are_those_of_plain_sampling(measured):
    """δE, and Φ where it is counted, against draws of the noise that are made here."""
    assert measured.fitted and measured.train_loss < TOY.stop_loss
    images = patterns(TOY.n_train)
    model, epochs = trained(TOY, RECIPE, 0, images)
    assert epochs == measured.epochs
    inputs = RECIPE.augmentation().plain(images.train_images, images.mean, images.std)
    torch.manual_seed(1)
    w, n_draws = [p.detach().clone() for p in model.parameters()], 2000
    n_wrong = np.empty(n_draws)
    with torch.no_grad():
        for i in range(n_draws):
            for p, at in zip(model.parameters(), w, strict=True):
                p.copy_(at + 0.5 * at * torch.randn(at.shape))
            n_wrong[i] = (model(inputs).argmax(1) != images.train_labels).sum()
    rise, error = n_wrong.mean() / TOY.n_train, n_wrong.std() / TOY.n_train / np.sqrt(n_draws)
    assert abs(measured.delta_error[0, 0] - rise) < 4 * np.hypot(error, measured.delta_error_error[0, 0])
    right = np.mean(n_wrong == 0)
    log_z, error = np.log(right), np.sqrt((1 - right) / right / n_draws)
    n = measured.n_weights[0]
    assert n == sum(p.numel() for p in w) - sum(int((p == 0).sum()) for p in w)
    assert abs(measured.log_z[0, 0] * n - log_z) < 4 * np.hypot(error, measured.phi_error[0, 0] * n)
    assert_allclose(measured.log_mean_exp[:, 0, -1], measured.log_z[:, 0] * n, rtol=0.01)
    assert_allclose(measured.distance, 0.5**2 / 2, rtol=0.05)


def test_stored_minima_are_not_made_again(measured, tmp_path, monkeypatch):
    monkeypatch.setattr("figures.measure.any_model.SETTINGS", SETTINGS[:1])
    measured.save(tmp_path / f"{measured.name}.npz")
    monkeypatch.setattr("figures.measure.any_model.train_and_measure", None)
    measure_missing(TOY, tmp_path)
    assert load_minima(tmp_path, TOY) == [measured]
    with pytest.raises(ValueError, match="its n_samples is 400, not 100"):
        measure_missing(dataclasses.replace(TOY, n_samples=100), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{measured.name}.npz"]


# --- what is said ------------------------------------------------------------------------------


@pytest.fixture
def minima():
    """Two architectures, far apart, in each of which δE falls with Φ but for one exchange; one Φ is unknown."""
    phi, rise = [-5.0, -4.0, -3.0, -2.0, -1.0, np.nan], [0.5, 0.4, 0.2, 0.3, 0.1, 0.05]
    return [
        minimum(100**a * p, 100**a * r, architecture=architecture, algorithm=algorithm, test_error=0.1 + 0.1 * r)
        for a, architecture in enumerate(("one-layer", "convolutional"))
        for p, r, algorithm in zip(phi, rise, ["baseline", "rsgd", "esgd"] * 2, strict=True)
    ]


def test_correlations_are_scipys_within_each_architecture(minima):
    known = [m for m in minima[:6] if np.isfinite(m.phi[0, 0])]
    values = [[getattr(m, name)[0, 0] for m in known] for name in ("phi", "delta_error")]
    for kind, function in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        found = correlation(minima[:6], PHI, DELTA, "filter", 0, kind=kind)
        assert_allclose((found.value, found.p_value), function(*values))
        assert found.low <= found.value <= found.high
    assert_allclose(correlation(minima, PHI, DELTA, "filter", 0).value, stats.spearmanr(*values).statistic)
    assert correlation(minima, DELTA, TEST, "filter", 0).value > 0.999  # with the minimum whose Φ is unknown


def test_noise_of_an_architecture_is_in_its_unit(minima):
    """Networks with shared weights are measured under weaker noise, and tables say so."""
    assert PLANS["full"].noise("one-layer") == (0.5, 1.0)
    assert PLANS["full"].noise("convolutional") == (0.2, 0.4)
    weaker = [dataclasses.replace(m, sigma=0.4 * m.sigma) for m in minima[6:]]
    assert any_model.names_of(minima[:6] + weaker) == {
        "one-layer": "one hidden layer",
        "convolutional": "convolutional (0.4 σ)",
    }
    assert any_model.names_of(weaker) == {"convolutional": "convolutional"}
    assert "| convolutional (0.4 σ) |" in any_model.agreement(minima[:6] + weaker)


def test_noise_share(minima):
    values = np.array([m.phi[0, 0] for m in minima[:5]])
    assert_allclose(any_model.noise_share(minima[:6], PHI, "multiplicative", 0), 0.1**2 / values.var(ddof=1))
    assert any_model.noise_share(minima, TEST, "multiplicative", 0) == 0
    assert np.isnan(any_model.noise_share(minima[:1], PHI, "multiplicative", 0))


def test_nothing_is_hidden(minima):
    """Networks with errors, points that did not converge, and trainings that were cut off are counted."""
    unfitted = minimum(-1.0, 0.1, train_error=0.1, architecture="one-layer", algorithm="esgd")
    late = dataclasses.replace(minima[0], train_loss=0.02)
    text = " ".join(any_model.report([*minima, unfitted], [late, *minima[1:]]).split())
    assert "Left out with training errors: 1 of 13 networks" in text
    assert "1 of these minima did not come to that loss" in text
    assert "did not converge, and are left out: 4 of 24" in text
    assert "| one hidden layer | eSGD | 2 of 3 |" in text
    assert "nan" not in text
    rows = list(any_model.table([*minima, unfitted]))
    assert len(rows) == 1 + 13 * len(SCALES) and all(len(row) == len(rows[0]) for row in rows)


def test_pictures(minima):
    """Every minimum of which both measures are known is a point of each panel; a bridge of each algorithm."""
    figure = any_model.draw(minima)
    for axes in figure.axes:
        points = np.concatenate([lines[0].get_xdata() for lines in axes.containers])
        assert np.count_nonzero(np.isfinite(points)) == 10 and np.all(points[np.isfinite(points)] > 0)
        assert axes.get_title(loc="right").endswith(("+0.90", "+1.00"))
    bridges = any_model.draw_bridge(minima)
    assert [axes.get_title(loc="right") for axes in bridges.axes] == ["one hidden layer", "convolutional"]
    for axes in bridges.axes:
        curves = [line for line in axes.lines if line.get_label() in ("SGD", "rSGD", "eSGD")]
        assert len(curves) == 3
        assert_allclose([line.get_ydata() for line in curves], [[0.3, 0.6]] * 3)
    head, *rows = any_model.table_of_bridge(minima)
    assert len(rows) == 6 * len(minima[0].beta) and {len(row) for row in rows} == {len(head)}


def test_no_network_without_errors_is_an_error(tmp_path, capsys):
    options = "--architectures one-layer --seeds 1 --n-train 20 --epochs 1 --jobs 1"
    plan = dataclasses.replace(PLANS["full"], architectures=("one-layer",), seeds=1, n_train=20, epochs=1)
    for architecture, recipe in plan.recipes():
        name, setting = f"{recipe.name}-seed0", json.dumps(setting_of(plan, architecture, recipe, 0))
        minimum(-1.0, 0.1, name=name, train_error=0.5, setting=setting).save(tmp_path / f"{name}.npz")
    assert any_model.main([*options.split(), "--results", str(tmp_path)]) == 2
    assert "all 8 networks of" in capsys.readouterr().err


def test_committed_numbers_follow_from_stored_results():
    trained = load_minima(any_model.RESULTS, PLANS["full"])
    fitted = [m for m in trained if m.fitted]
    assert len(trained) == 72
    assert any_model.report(trained, fitted) == (any_model.RESULTS / "any-model.md").read_text(encoding="utf-8")
    with (any_model.RESULTS / "any-model.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [[str(value) for value in row] for row in any_model.table(trained)]


def test_stored(tmp_path):
    one = minimum(-1.0, 0.1)
    one.save(tmp_path / "one.npz")
    assert Minimum.load(tmp_path / "one.npz") == one
    with pytest.raises(ValueError, match="phi must be floats"):
        dataclasses.replace(one, phi=np.zeros(3)).check()
