"""Figs. 3, 4 and 5 from saved runs: what is drawn, written under it and kept in the table, and what is refused."""

import csv

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from figures import fig3, fig4, fig5, program
from figures.draw.profiles import LEGEND_LINES, note
from figures.measure.profiles import load_profiles
from tests.figures.toy_runs import saved
from training.deep.__main__ import main
from training.deep.recipes import as_plain, find_recipe
from training.deep.results import DeepRun, FlatnessHistory

ROW, OTHER = "resnet18-cifar10", "resnet110-cifar10"
SIGMA = np.array([0.1, 0.2, 0.4])


def measured(folder, column, seed, *, row=ROW, train_error=0.001, test_error=0.1, slope=1.0, epochs=(5, 10), **changes):
    """A run that never was, with δE = slope σ / epoch and standard errors of a tenth of it."""
    epoch = np.array(epochs)
    delta = slope * SIGMA / epoch[:, None]
    history = FlatnessHistory(
        epoch=epoch,
        sigma=SIGMA,
        delta_error=delta,
        std_error=0.1 * delta,
        train_loss=np.linspace(1.0, 0.1, len(epoch)),
        train_error=np.linspace(0.5, train_error, len(epoch)),
        test_error=np.linspace(0.6, test_error, len(epoch)),
        n_samples=30,
    )
    configuration = {"recipe": as_plain(find_recipe(row, column)), "seed": seed} | changes.pop("configuration", {})
    changes = {"flatness": history, "configuration": configuration} | changes
    return saved(folder, column, seed, [0.5, test_error], row=row, **changes)


@pytest.fixture
def folder(tmp_path):
    """Three seeds of SGD, one of rSGD and eSGD; δE of SGD at seed s is 1 + s in units of σ / epoch."""
    for seed in range(3):
        measured(tmp_path, "baseline", seed, slope=1.0 + seed, test_error=0.11 + 0.01 * seed)
    measured(tmp_path, "rsgd", 0, slope=0.5, train_error=0.006, configuration={"gamma_scale": 30.0})
    measured(tmp_path, "esgd", 0, slope=0.25, configuration={"flatness": {"subset": 500}})
    return tmp_path


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, kept open."""
    kept, save = [], program.save_figure
    monkeypatch.setattr(program, "save_figure", lambda figure, *where: kept.append(figure) or save(figure, *where))
    monkeypatch.setattr(plt, "close", lambda which: None)
    yield kept
    monkeypatch.undo()
    plt.close("all")


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes, label):
    """Points of the line, or of the one with error bars, that has this label."""
    (handle,) = (each for each, name in zip(*axes.get_legend_handles_labels(), strict=True) if name == label)
    drawn = handle[0] if isinstance(handle, tuple) else handle
    return drawn.get_xydata()


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_fig3_has_a_panel_for_each_algorithm_and_one_for_all_ends(folder, figures):
    assert fig3.main(["--results", str(folder)]) == 0
    assert all((folder / f"fig3.{end}").stat().st_size > 1000 for end in ("png", "pdf"))
    sgd, rsgd, esgd, final = figures[0].axes
    assert [axes.get_title() for axes in figures[0].axes] == ["SGD", "rSGD", "eSGD", "final configurations"]
    assert legend(sgd) == ["5: 50.00 / 60.00", "10: 0.10 / 12.00"]  # percent, means over seeds
    assert legend(rsgd)[-1] == "10: 0.60 / 10.00" and legend(esgd)[-1] == "10: 0.10 / 10.00"
    assert legend(final) == ["SGD: 0.10 / 12.00", "rSGD: 0.60 / 10.00", "eSGD: 0.10 / 10.00"]
    assert_allclose(line(sgd, "5: 50.00 / 60.00"), [(0, 0), (0.1, 4), (0.2, 8), (0.4, 16)])
    assert_allclose(line(final, "eSGD: 0.10 / 10.00")[:, 1], [0, 0.25, 0.5, 1])
    assert sgd.get_ylim() == rsgd.get_ylim() == esgd.get_ylim() != final.get_ylim()


def test_error_bars_are_over_seeds_or_over_draws(folder):
    sgd, rsgd, _ = load_profiles(folder, None)[ROW]
    assert_allclose(sgd.delta_error[1], 100 * 2 * SIGMA / 10)
    assert_allclose(sgd.std_error[1], 100 * SIGMA / 10 / np.sqrt(3))  # deviation of 1, 2, 3 is 1
    assert_allclose(rsgd.std_error, 0.1 * rsgd.delta_error)
    assert_allclose(sgd.half_width, stats.t.ppf(0.975, 2) * sgd.std_error)
    assert_allclose(rsgd.half_width, stats.t.ppf(0.975, 29) * rsgd.std_error)


def test_every_plotted_number_is_in_the_table(folder):
    assert fig3.main(["--results", str(folder)]) == fig4.main(["--results", str(folder)]) == 0
    rows = table(folder / "fig3.csv")
    assert len(rows) == 3 * 2 * 3
    chosen = [r for r in rows if r["column"] == "baseline" and r["epoch"] == "10" and r["sigma"] == "0.4"]
    numbers = {name: float(value) for name, value in chosen[0].items() if name not in ("row", "column")}
    assert numbers == pytest.approx(
        {
            **{"seeds": 3, "epoch": 10, "sigma": 0.4, "delta_error (%)": 8, "standard error (%)": 4 / np.sqrt(3)},
            "half interval (%)": stats.t.ppf(0.975, 2) * 4 / np.sqrt(3),
            **{"train error (%)": 0.1, "test error (%)": 12, "train loss": 0.1, "draws": 30},
        },
        rel=1e-5,
    )
    ends = table(folder / "fig4.csv")
    assert ends == [r for r in rows if r["epoch"] == "10"]


def test_many_epochs_are_drawn_and_some_named(tmp_path, figures):
    measured(tmp_path, "baseline", 0, epochs=range(1, 41))
    assert fig3.main(["--results", str(tmp_path)]) == 0
    axes = figures[0].axes[0]
    assert len([drawn for drawn in axes.get_lines() if len(drawn.get_xdata()) == 4]) == 40
    names = [text.split(":")[0] for text in legend(axes)]
    assert len(names) == LEGEND_LINES and names[0] == "1" and names[-1] == "40"


def test_note_says_what_was_run(folder):
    text = " ".join(note(load_profiles(folder, None)))
    for part in (
        "resnet18-imagenet-stem on 5,000 training images, augmented, also where δE is measured",
        ", 0.1 times the recipe's epochs",
        "SGD: 10 epochs, 3 seeds",
        "rSGD: 10 epochs, 1 seed, γ × 30",
        "eSGD: 30 draws of the noise at each σ, each on 500 images",
        "on 5,000 training images, augmented, also where δE is measured, float32",
        "95 % intervals by Student's t over seeds, which hold the variance over draws of the noise; of single",
        "equal training errors only",
    ):
        assert part in text
    assert "NOT COMPARABLE" not in text


def test_unequal_training_errors_are_flagged(folder):
    measured(folder, "rsgd", 0, train_error=0.02)
    text = " ".join(note(load_profiles(folder, None)))
    assert f"NOT COMPARABLE: the final training errors of {ROW} differ by more than 1 %" in text
    assert "SGD 0.10 %, rSGD 2.00 %, eSGD 0.10 %" in text


def test_seeds_that_ended_at_a_loss_are_averaged_at_their_ends(tmp_path):
    """Ends after 10 and 15 epochs; epoch 5 they have in common, and what one seed has beyond it is left out."""
    configuration = {"stop_loss": 0.01}
    for seed, epochs in enumerate([(5, 10), (5, 10, 15)]):
        measured(tmp_path, "baseline", seed, epochs=epochs, configuration=configuration)
    (profiles,) = load_profiles(tmp_path, None)[ROW]
    assert profiles.epoch.tolist() == [5, 12]
    assert_allclose(profiles.delta_error[1], 100 * SIGMA * (1 / 10 + 1 / 15) / 2)
    text = " ".join(note({ROW: [profiles]}))
    assert "until the training loss was below 0.01" in text
    assert f"NOT AT THE SAME LOSS: schedules of {ROW} ended above 0.01 (SGD 0.1)." in text


def test_report_compares_the_ends(folder):
    """δE(0.4) is 8 ± 4 % for SGD over three seeds, and 2 and 1 % for single seeds of the others."""
    assert fig3.main(["--results", str(folder)]) == 0
    text = (folder / "fig3.md").read_text()
    half = stats.t.ppf(0.975, 2) * 4 / np.sqrt(3)
    assert f"| SGD | 3 | 10 | 0.100 | 0.1 | 12.0 ± 1.0 | 0.4 | 8.00 ± {half:.2f} |" in text
    assert "| eSGD − rSGD | −1.00 | cannot be told at this number of seeds |" in text
    reach = stats.t.ppf(0.975, 2) * 4 * np.sqrt(1 + 1 / 3)
    assert f"| rSGD − SGD | −6.00 [−{6 + reach:.2f}, +{reach - 6:.2f}] | cannot be told" in text


def test_one_seed_has_no_spread(tmp_path):
    measured(tmp_path, "baseline", 0, configuration={"augment": False})
    text = " ".join(note(load_profiles(tmp_path, None)))
    assert "95 % intervals over draws of the noise alone, not over seeds" in text and ", not augmented" in text


def test_fig5_is_fig3_of_another_row_and_fig4_has_a_panel_a_row(folder, figures):
    measured(folder, "baseline", 0, row=OTHER)
    measured(folder, "baseline", 0, row="densenet121-tiny-imagenet")
    assert fig5.main(["--results", str(folder)]) == 0
    assert {r["row"] for r in table(folder / "fig5.csv")} == {OTHER}
    assert fig4.main(["--results", str(folder)]) == 0  # the paper's rows that are there
    assert [axes.get_title() for axes in figures[-1].axes] == ["densenet121-tiny-imagenet"]
    assert fig4.main(["--results", str(folder), "--rows", OTHER, ROW]) == 0
    assert [axes.get_title() for axes in figures[-1].axes] == [OTHER, ROW]


@pytest.mark.parametrize("main", [fig3.main, fig4.main, fig5.main])
def test_nothing_to_draw(tmp_path, capsys, main):
    saved(tmp_path, "baseline", 0, [0.5, 0.3], row=ROW)  # without profiles
    assert main(["--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no saved runs of" in error and "--flatness-every" in error
    assert not list(tmp_path.glob("fig*"))


def test_refused(folder, capsys):
    assert fig5.main(["--results", str(folder)]) == 2
    assert f"no saved runs of {OTHER} with profiles" in (error := capsys.readouterr().err) and f"it has {ROW}" in error
    measured(folder, "esgd", 0, n_train=400)
    assert fig3.main(["--results", str(folder)]) == 2
    assert f"runs of {ROW} differ in images" in capsys.readouterr().err
    measured(folder, "esgd", 0)
    measured(folder, "baseline", 2, epochs=(5, 15))
    assert fig3.main(["--results", str(folder)]) == 2
    assert f"runs of {ROW} baseline differ in epoch; keep them in different folders" in capsys.readouterr().err


def test_a_run_that_was_really_trained(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"{s}_images": rng.integers(0, 256, (130, 32, 32, 3), dtype=np.uint8) for s in ("train", "test")}
    np.savez(tmp_path / "toy.npz", **arrays, train_labels=np.arange(130) % 10, test_labels=np.arange(130) % 10)
    results = tmp_path / "results"
    command = ["smallconvnet-cifar10", "--data", str(tmp_path / "toy.npz"), "--out", str(results), "--device", "cpu"]
    command += [
        "--epochs-scale",
        "0.01",
        "--flatness-every",
        "2",
        "--flatness-samples",
        "3",
        "--flatness-sigmas",
        "0.5",
    ]
    assert main(command) == 0
    assert fig3.main(["--results", str(results), "--row", "smallconvnet-cifar10"]) == 0
    assert [r["epoch"] for r in table(results / "fig3.csv")] == ["2", "3"]
    run = DeepRun.load(results / "smallconvnet-cifar10-baseline-seed0.npz")
    last = table(results / "fig3.csv")[-1]
    assert float(last["delta_error (%)"]) == pytest.approx(100 * run.flatness.delta_error[-1, 0], rel=1e-5)
    assert float(last["train loss"]) == pytest.approx(run.train_loss, rel=1e-3)
