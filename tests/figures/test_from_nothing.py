"""Every figure command runs from nothing: given where no result is stored yet, at toy size, to the end."""

import contextlib
import csv
import io
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

import figures
from tests.training.deep.toy_deep import coloured_images
from training.models.cifar_resnet import CifarResNet

SOURCES = {path.stem: path for path in Path(figures.__file__).parent.glob("*.py")}
PROGRAMS = sorted(name for name, path in SOURCES.items() if 'if __name__ == "__main__"' in path.read_text("utf-8"))

SMALL = "--restarts 4 --n-train 120 --max-epochs 60"
ROW = "smallconvnet-cifar10"
COMMANDS = {
    "fig1": f"--preset paper --results fig1-paper --jobs 1 {SMALL}",
    "fig6": f"--preset paper --results fig6-paper --jobs 1 {SMALL}",
    "estimators": "--minima fig1-paper --results estimators --n-samples 300 --jobs 1",
    "posterior": "--minima fig1-paper --results posterior --n-samples 100 --jobs 1",
    "binary": "--restarts 3 --n-hidden 3 --n-train 30 --n-samples 100 --results binary --jobs 1",
    "conventions": "--draws 2 --restarts 2 --n-train 120 --max-epochs 3 --results conventions --runs runs/conventions"
    " --jobs 1",
    "draws": "--results conventions",
    "table1": f"--run {ROW} --columns baseline --data images.npz --seeds 1 --epochs-scale 0.01 --flatness-every 2"
    " --flatness-samples 3 --flatness-sigmas 0.5 --results table1 --jobs 1",
    "fig2": "--results table1",
    "fig3": f"--results table1 --row {ROW}",
    "fig4": "--results table1",
    "fig5": f"--results table1 --row {ROW}",
    "fig7": "--data images.npz --dropout 0 0.5 --batch 10 20 --weight-decay 0 --n-train 40 --width 4 --size 8"
    " --eta 0.05 --epochs 30 --stop-loss 2.2 --results fig7-large --jobs 1",
    "published_resnets": "--weights weights --data images.npz --n-train 10 --n-test 10 --n-samples 2 --subset 5"
    " --results published-resnets",
    "agreement": f"--stored . --results agreement {SMALL}",
    "any_model": "--architectures one-layer --seeds 1 --n-train 60 --epochs 60 --n-samples 100 --max-passes 0"
    " --n-draws 20 --stop-loss 0.02 --results any-model --jobs 1",
}
NEEDED = {  # programs that draw what others make
    "estimators": ["fig1"],
    "posterior": ["fig1"],
    "draws": ["conventions"],
    **{name: ["table1"] for name in ("fig2", "fig3", "fig4", "fig5")},
    "agreement": ["fig1", "fig6", "fig7"],
}
PROMISED = {  # what a program says that it writes
    "fig1": "fig1-paper/fig1 pdf png csv md",
    "fig6": "fig6-paper/fig6 pdf png csv md",
    "estimators": "estimators/estimators pdf png csv",
    "posterior": "posterior/posterior pdf png csv md",
    "binary": "binary/binary pdf png csv md",
    "conventions": "conventions/conventions csv md",
    "draws": "conventions/draws pdf png csv md",
    "table1": "table1/table1 pdf png csv md",
    **{name: f"table1/{name} pdf png csv" for name in ("fig2", "fig4")},
    **{name: f"table1/{name} pdf png csv md" for name in ("fig3", "fig5")},
    "fig7": "fig7-large/fig7 pdf png csv md",
    "published_resnets": "published-resnets/published-resnets pdf png csv",
    "agreement": "agreement/agreement pdf png csv md",
    "any_model": "any-model/any-model pdf png csv md",
}


def promised(name):
    stem, *suffixes = PROMISED[name].split()
    return [Path(f"{stem}.{suffix}") for suffix in suffixes]


def run(name, options):
    """``python -m figures.NAME OPTIONS`` in this process; returns its status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *shlex.split(options)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SOURCES[name]), run_name="__main__")
    return ended.value.code


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes what a program and those that it needs write, each once, in a folder that holds nothing but toy data."""
    folder = tmp_path_factory.mktemp("nothing")
    coloured_images(folder / "images.npz", n_train=130)
    (folder / "weights").mkdir()
    for depth in (20, 32, 44, 56):  # in the format of the published files
        weights = {f"module.{key}": value for key, value in CifarResNet(depth).state_dict().items()}
        torch.save({"state_dict": weights}, folder / "weights" / f"resnet{depth}-toy.th")
    printed = {}  # whichever test it was that a program was made for

    def once(name):
        for other in NEEDED.get(name, []):
            once(other)
        if name not in printed:
            assert not any(path.exists() for path in promised(name))
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                assert run(name, COMMANDS[name]) == 0
            printed[name] = stdout.getvalue()
        return printed[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield once


def test_every_program_has_its_command():
    assert sorted(COMMANDS) == sorted(PROMISED) == PROGRAMS


@pytest.mark.parametrize("name", COMMANDS)
def test_runs_from_nothing(name, make):
    printed = make(name)
    for path in promised(name):
        assert str(path) in printed
        content = path.read_bytes()
        if path.suffix in (".pdf", ".png"):
            assert content.startswith({".pdf": b"%PDF", ".png": b"\x89PNG"}[path.suffix]) and len(content) > 5000
        elif path.suffix == ".csv":
            rows = list(csv.reader(content.decode().splitlines()))
            assert len(rows) > 1 and all(len(row) == len(rows[0]) for row in rows)
        else:
            text = content.decode()
            assert text.count("\n|") >= 2 and "nan" not in text


def test_every_picture_has_its_numbers(make):
    """Also a second one."""
    make("any_model")
    assert sorted(path.name for path in Path("any-model").glob("any-model-bridge.*")) == [
        f"any-model-bridge.{suffix}" for suffix in ("csv", "pdf", "png")
    ]


def test_draws_are_not_computed_again(make):
    """Measures alone, without the minima, give the same numbers; some are local entropies."""
    make("conventions")
    with open("conventions/conventions.csv", newline="") as file:
        assert any(float(row["phi_far"]) < 0 for row in csv.DictReader(file))
    before = {path: path.read_bytes() for path in promised("conventions")}
    shutil.rmtree("runs/conventions")
    assert run("conventions", COMMANDS["conventions"]) == 0
    assert {path: path.read_bytes() for path in before} == before and not Path("runs/conventions").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fig6", "--n-train 7 --restarts 1", "patterns are 7, fewer than one minibatch"),
        ("fig1", f"--max-epochs {10**20}", "max_epochs must be a whole number, at most 1000000000; got"),
        ("conventions", "--draws 1", "draws must be a whole number, at least 2; got 1"),
        ("conventions", f"--draws {10**20}", "draws must be a whole number, at most 1000; got"),
        ("table1", f"--run smallconvnet-cifar10 --seeds {10**20}", "seeds must be a whole number, at most 1000; got"),
        ("fig7", f"--data nowhere --seeds {10**20}", "seeds must be a whole number, at most 1000; got"),
        ("estimators", "--minima nowhere", "sgd-fast.npz is not there; make it: python -m figures.fig1"),
    ],
)
def test_refused(name, options, message, tmp_path, capsys):
    assert run(name, f"{options} --results {tmp_path} --jobs 1") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pdf"))
