"""Table 1 and Fig. 2 from saved runs: the numbers, what is said of them, and training only what is missing."""

import csv
import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from figures import fig2, table1
from figures.measure.deep_runs import Cell, cells, load_runs
from figures.table1 import PAPER, plus_minus, table, verdict
from tests.figures.toy_runs import ROW, saved
from training.deep.recipes import RECIPES, as_plain, find_recipe


@pytest.fixture
def folder(tmp_path):
    for seed, last in enumerate((0.30, 0.31, 0.32)):
        saved(tmp_path, "baseline", seed, [0.5, np.nan, last])
        saved(tmp_path, "rsgd", seed, [0.6, last - 0.05])
        saved(tmp_path, "esgd", seed, [last + 0.05])
    saved(tmp_path, "rsgd-y", 0, [0.7, 0.305])
    return tmp_path


def test_every_recipe_has_the_papers_number_and_no_blank_has():
    assert {row: set(columns) for row, columns in PAPER.items()} == {row: set(c) for row, c in RECIPES.items()}


def test_cells_and_verdicts(folder):
    by_algorithm = {cell.column: cell for cell in cells(load_runs(folder))}
    assert list(by_algorithm) == ["baseline", "rsgd", "esgd", "rsgd-y"]
    assert (by_algorithm["baseline"].mean, by_algorithm["baseline"].std) == (pytest.approx(31.0), pytest.approx(1.0))
    assert by_algorithm["rsgd-y"].std is None and plus_minus(30.5, None) == "30.5" and plus_minus(31, 1) == "31.0 ± 1.0"
    base = by_algorithm["baseline"]
    assert verdict(base, base) == ""
    assert verdict(by_algorithm["rsgd"], base) == "lower than the baseline"
    assert verdict(by_algorithm["esgd"], base) == "HIGHER than the baseline"
    assert "one seed" in verdict(by_algorithm["rsgd-y"], base)
    close = dataclasses.replace(by_algorithm["rsgd"], errors=base.errors - 1.0)  # standard error √(2/3)
    assert verdict(close, base) == "as the baseline, within 2 standard errors"
    assert verdict(close, None) == "no baseline to compare with"
    assert isinstance(base, Cell) and base.passes == 3


def test_table_says_what_was_run(folder, capsys):
    assert table1.main(["--results", str(folder)]) == 0
    text = (folder / "table1.md").read_text()
    assert text in capsys.readouterr().out
    assert (
        "| smallconvnet-cifar10 | eSGD | 36.0 ± 1.0 | 14.7 ± 0.3 | 3 | 1 | 10% | 5 | 5000 | yes | smallconvnet | × 1 |"
        in text
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
    assert "| Baseline |" in text and "1%" in text

    def forbidden(*args, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr("training.deep.training.train", forbidden)
    assert table1.main(command) == 0
    assert (results / "table1.md").read_text() == text


def test_other_settings_are_other_rows(folder):
    """Runs without augmentation, or with another γ, are not averaged with the rest, nor compared across."""
    recipe = as_plain(find_recipe(ROW, "rsgd"))
    strong = folder / "strong"
    strong.mkdir()
    saved(strong, "rsgd", 0, [0.2], configuration={"recipe": recipe, "gamma_scale": 100.0})
    saved(strong, "rsgd", 1, [0.1], configuration={"recipe": recipe, "gamma_scale": 100.0, "augment": False})
    all_cells = cells(load_runs(folder, "**/*-seed*.npz"))
    assert [(cell.gamma_scale, cell.augmented, len(cell.errors)) for cell in all_cells if cell.column == "rsgd"] == [
        (1.0, True, 3),
        (100.0, True, 1),
        (100.0, False, 1),
    ]
    verdicts = {(row[-2], row[9]): row[-1] for row in table(all_cells) if row[1] == "rSGD"}
    assert "lower" in verdicts["× 100", "yes"] and "no baseline" in verdicts["× 100", "no"]
