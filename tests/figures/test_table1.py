"""Table 1 and Fig. 2 from saved runs: the numbers, what is said of them, and training only what is missing."""

import csv

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from figures import fig2, table1
from figures.draw.tables import plus_minus, verdict
from figures.measure.deep_runs import cells, compare, load_runs
from figures.measure.published import TABLE1
from tests.figures.toy_runs import ROW, saved
from training.deep.recipes import RECIPES, as_plain, find_recipe
from training.deep.results import METRICS


@pytest.fixture
def folder(tmp_path):
    for seed, last in enumerate((0.30, 0.31, 0.32)):
        saved(tmp_path, "baseline", seed, [0.5, np.nan, last])
        saved(tmp_path, "rsgd", seed, [0.6, last - 0.05])
        saved(tmp_path, "esgd", seed, [last + 0.05])
    saved(tmp_path, "rsgd-y", 0, [0.7, 0.305])
    return tmp_path


def test_every_recipe_has_the_papers_number_and_no_blank_has():
    assert {row: set(columns) for row, columns in TABLE1.items()} == {row: set(c) for row, c in RECIPES.items()}


def test_cells(folder):
    by_algorithm = {cell.column: cell for cell in cells(load_runs(folder))}
    assert list(by_algorithm) == ["baseline", "rsgd", "esgd", "rsgd-y"]
    base, single = by_algorithm["baseline"].test_error, by_algorithm["rsgd-y"].test_error
    assert (base.mean, base.std, base.n) == (pytest.approx(31.0), pytest.approx(1.0), 3)
    assert single.std is None and plus_minus(single) == "30.5" and plus_minus(base) == "31.0 ± 1.0"
    assert by_algorithm["baseline"].passes == "3" and by_algorithm["baseline"].departures == []


def test_comparisons_say_what_cannot_be_told(folder):
    """Each algorithm with each other; the single seed of rSGD×y has the variance of the other."""
    verdicts = {(c.first, c.second): verdict(c.interval) for c in compare(cells(load_runs(folder)), TABLE1)}
    assert verdicts == {
        ("rSGD", "Baseline"): "lower",
        ("eSGD", "Baseline"): "higher",
        ("rSGD×y", "Baseline"): "cannot be told at this number of seeds",
        ("eSGD", "rSGD"): "higher",
        ("rSGD×y", "rSGD"): "cannot be told at this number of seeds",
        ("rSGD×y", "eSGD"): "lower",
    }
    for seed in (1, 2):
        (folder / f"{ROW}-baseline-seed{seed}.npz").unlink()
    alone = next(c for c in compare(cells(load_runs(folder)), TABLE1) if c.first == "rSGD×y" and c.second == "Baseline")
    assert np.isnan(alone.interval.low) and verdict(alone.interval).startswith("cannot be told")


def test_the_papers_numbers_are_compared_with_whole_runs_alone(folder):
    whole = {"n_train": 50_000, "epochs_scale": 1.0}
    for seed, last in enumerate((0.172, 0.171, 0.173)):
        saved(folder, "baseline", seed, [last], **whole)
    saved(folder, "rsgd", 0, [0.16], **whole)
    saved(
        folder,
        "rsgd",
        1,
        [0.16],
        configuration={"recipe": as_plain(find_recipe(ROW, "rsgd")), "augment": False},
        **whole,
    )
    read = as_plain(find_recipe(ROW, "rsgd")) | {"loss_convention": "mean"}
    saved(folder, "rsgd", 2, [0.155], configuration={"recipe": read}, **whole)
    with_paper = [c for c in compare(cells(load_runs(folder)), TABLE1) if c.second == "the paper's"]
    assert [(c.first, c.n, verdict(c.interval)) for c in with_paper] == [
        ("Baseline", (3, 5), "higher"),
        ("rSGD", (1, 5), "cannot be told at this number of seeds"),
        ("rSGD (loss_convention mean)", (1, 5), "cannot be told at this number of seeds"),
    ]
    assert_allclose(with_paper[0].interval.mean, 17.2 - 16.5)
    half = stats.t.ppf(0.975, 4) * 0.3 * np.sqrt(1 + 1 / 5)
    assert_allclose(with_paper[1].interval.low, 16.0 - 15.6 - half)


def test_table_says_what_was_run(folder, capsys):
    assert table1.main(["--results", str(folder)]) == 0
    text = (folder / "table1.md").read_text()
    assert text in capsys.readouterr().out
    row = "| smallconvnet-cifar10 | eSGD | 36.0 ± 1.0 | 14.7 ± 0.3 | 3 | 1 | 10 % | 5 | 5000 | float32 | > 0.0014 |"
    assert f"{row} 0123abcd-dirty |  |" in text
    assert (
        "5,000 images, 10 % of the epochs, float32 | rSGD − Baseline | −5.00 [−7.27, −2.73] | 3 and 3 | lower |" in text
    )
    rows = list(csv.reader((folder / "table1.csv").open()))
    assert len(rows) == 5 and len({len(row) for row in rows}) == 1
    assert all((folder / f"table1.{end}").stat().st_size > 1000 for end in ("png", "pdf"))


def test_fig2_rescales_epochs_and_averages(folder):
    assert fig2.main(["--results", str(folder)]) == 0
    rows = list(csv.DictReader((folder / "fig2.csv").open()))
    plotted = {
        column: [(float(r["epochs"]), float(r["mean test error (%)"])) for r in rows if r["column"] == column]
        for column in RECIPES[ROW]
    }
    assert_allclose(plotted["baseline"], [(1, 50), (3, 31)])  # epoch 2 was not evaluated
    assert_allclose(plotted["rsgd"], [(3, 60), (6, 26)])
    assert_allclose(plotted["esgd"], [(5, 36)])
    assert_allclose(plotted["rsgd-y"], [(1, 70), (2, 30.5)])
    assert (folder / "fig2.png").exists()


def test_what_cannot_be_drawn(folder, tmp_path_factory, capsys):
    empty = tmp_path_factory.mktemp("empty")
    assert table1.main(["--results", str(empty)]) == 2 and "no saved runs" in capsys.readouterr().err
    assert fig2.main(["--results", str(empty)]) == 2 and "no saved runs" in capsys.readouterr().err
    assert fig2.main(["--results", str(folder), "--rows", "resnet18-cifar10"]) == 2
    assert "resnet18-cifar10" in capsys.readouterr().err
    saved(folder, "rsgd", 1, [0.6, 0.3], epochs_scale=0.2)
    assert fig2.main(["--results", str(folder)]) == 2 and "cannot be averaged" in capsys.readouterr().err
    (folder / "resnet18-cifar10-rsgd-seed0.npz").write_bytes(b"nothing")
    assert table1.main(["--results", str(folder)]) == 2 and "not a whole" in capsys.readouterr().err


def test_a_run_of_no_epochs(tmp_path, capsys):
    """The loss was low enough from the beginning."""
    saved(tmp_path, "baseline", 0, [0.5], epochs=0, curves=np.empty((0, len(METRICS))))
    (cell,) = cells(load_runs(tmp_path))
    assert cell.passes == cell.epochs == "0" and table1.main(["--results", str(tmp_path)]) == 0
    assert fig2.main(["--results", str(tmp_path), "--rows", ROW]) == 2
    assert f"runs of {ROW} baseline are of no epochs" in capsys.readouterr().err


def test_one_command_trains_what_is_missing(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {f"{s}_images": rng.integers(0, 256, (130, 32, 32, 3), dtype=np.uint8) for s in ("train", "test")}
    np.savez(tmp_path / "toy.npz", **arrays, train_labels=np.arange(130) % 10, test_labels=np.arange(130) % 10)
    results = tmp_path / "results"
    command = ["--run", ROW, "--data", str(tmp_path / "toy.npz"), "--results", str(results), "--jobs", "1"]
    command += ["--seeds", "1", "--epochs-scale", "0.01", "--columns", "baseline", "esgd"]
    assert table1.main(command) == 0
    assert {p.name for p in results.glob("*.npz")} == {f"{ROW}-{c}-seed0.npz" for c in ("baseline", "esgd")}
    text = (results / "table1.md").read_text()
    assert "| Baseline |" in text and "| 1 % |" in text

    def forbidden(*args, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr("training.deep.training.train", forbidden)
    assert table1.main(command) == 0
    assert (results / "table1.md").read_text() == text


def test_other_settings_are_other_rows(folder):
    """Runs in another precision, without augmentation or with another γ are neither averaged nor compared across."""
    recipe = as_plain(find_recipe(ROW, "rsgd"))
    for name, options in (
        ("strong", {"gamma_scale": 100.0}),
        ("plain", {"augment": False}),
        ("rounded", {"bfloat16": True}),
        ("code", {"recipe": recipe | {"gamma_convention": "code"}}),
    ):
        (folder / name).mkdir()
        saved(folder / name, "rsgd", 0, [0.2], configuration={"recipe": recipe} | options)
    found = [cell for cell in cells(load_runs(folder, "**/*-seed*.npz")) if cell.column == "rsgd"]
    assert {(cell.label, cell.precision, len(cell.runs)) for cell in found} == {
        ("rSGD", "float32", 3),
        ("rSGD (gamma_convention code)", "float32", 1),
        ("rSGD (not augmented)", "float32", 1),
        ("rSGD", "bfloat16", 1),
        ("rSGD (γ × 100)", "float32", 1),
    }
    compared = [c for c in compare(cells(load_runs(folder, "**/*-seed*.npz")), TABLE1) if c.second == "Baseline"]
    assert {c.first for c in compared} == {"rSGD", "rSGD (gamma_convention code)", "rSGD (γ × 100)", "eSGD", "rSGD×y"}
    assert len(compared) == 5


def test_wall_times(folder):
    """Times of the whole run where its file says so, else of its minibatches."""
    (cell,) = (cell for cell in cells(load_runs(folder)) if cell.column == "baseline")
    assert cell.hours == (pytest.approx(3 * 5000 / 5000 / 3600), False)  # three passes at 5,000 images per second
    run = saved(folder, "rsgd-y", 0, [0.7, 0.3])
    curves = run.curves.copy()
    curves[:, METRICS.index("seconds")] = 1800
    saved(folder, "rsgd-y", 0, [0.7, 0.3], curves=curves)
    (cell,) = (cell for cell in cells(load_runs(folder)) if cell.column == "rsgd-y")
    assert cell.hours == (1.0, True)
