"""Command lines of every program with one wrong value, made from the parsers themselves."""

from __future__ import annotations

import argparse
import importlib
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bpflat import LocalEnergyProfile, cli
from bpflat.reading import parse_json
from figures import program
from tests.instances import random_instance
from tests.stored import ROOT
from tests.training.deep.toy_deep import coloured_images
from training.models.cifar_resnet import CifarResNet

Main = Callable[[list[str]], int]
RESULTS = ROOT / "figures" / "results"
ROW = "smallconvnet-cifar10"
TINY = "--restarts 2 --n-train 120 --max-epochs 2"
OF_DEEP = "--data images.npz --epochs-scale 0.004 --n-train 130"

# Right command lines, in a folder that `furnish` has filled; wrong values are added to them.
LINES = {
    "bpflat entropy": "mine.npz --deltas 0.1 --out new.npz",
    "bpflat energy": "mine.npz --sigmas 0.1 --out new.npz",
    "bpflat flatness": 'torch.nn:Linear --model-options \'{"in_features": 3, "out_features": 2}\' --data pairs.npz'
    " --n-samples 4 --sigmas 0.1 --device cpu --out new.npz",
    "bpflat info": "profile.npz",
    "training.committee": f"sgd-fast --out new {TINY}",
    "training.deep": f"{ROW} --out new --device cpu {OF_DEEP}",
    "figures.fig1": f"--results new {TINY} --jobs 1",
    "figures.fig6": f"--results new {TINY} --jobs 1",
    "figures.table1": f"--results new --run {ROW} --columns baseline --seeds 1 --jobs 1 {OF_DEEP}",
    "figures.fig2": f"--results table1 --rows {ROW}",
    "figures.fig3": f"--results fig3 --row {ROW}",
    "figures.fig4": "--results fig3",
    "figures.fig5": f"--results fig3 --row {ROW}",
    "figures.fig7": "--data images.npz --dropout 0 --batch 10 20 30 --weight-decay 0 --n-train 40 --width 2 --size 8"
    " --eta 0.05 --epochs 1 --stop-loss 3 --results new --jobs 1",
    "figures.estimators": "--minima fig1-quick --results estimators --jobs 1",
    "figures.posterior": "--minima fig1-quick --results posterior --jobs 1",
    "figures.binary": "--restarts 1 --n-hidden 1 --n-train 20 --n-samples 100 --results new --jobs 1",
    "figures.conventions": "--draws 2 --readings sgd-fast --restarts 2 --n-train 120 --max-epochs 2 --results new"
    " --runs runs --jobs 1",
    "figures.draws": "--results conventions",
    "figures.agreement": "--stored . --results agreement",
    "figures.any_model": "--architectures one-layer --seeds 1 --n-train 20 --epochs 40 --stop-loss 0.03 --n-samples 100"
    " --max-passes 0 --n-draws 2 --results new --jobs 1",
    "figures.published_resnets": "--weights weights --data images.npz --n-train 4 --n-test 4 --n-samples 2 --subset 2"
    " --results new",
}
# An empty folder is no wrong value but a whole run, which takes long at any size.
WHOLE_RUNS = {
    (f"figures.{name}", "--results"): {"", ".", "nowhere", "nowhere/x.npz"} for name in ("estimators", "posterior")
}
STORED = ("table1", "fig3", "fig7", "fig1-quick", "fig1-paper", "fig6-paper", "estimators", "posterior", "conventions")

NO_NUMBERS = ["", "x", "--", "nan", "1e", "0x10", "1,5", "1 2", "½"]
NO_WHOLE_NUMBERS = [*NO_NUMBERS, "1.5", "inf", "-1", "-5000", "0", "99999999999999999999", "1" * 5000]
NO_FLOATS = [*NO_NUMBERS, "inf", "-inf", "-1", "0", "1e400", "-0.0", "1e-320"]
NO_PATHS = ["", ".", "nowhere", "nowhere/x.npz", "text.npz", "empty.npz", "text.npz/x", "x" * 300, "a\0b", "images.npz"]
NO_NAMES = [
    "",
    "x",
    "X:Y",
    "tcp://",
    "tcp://localhost",
    "cuda:99",
    "os:path.nothing",
    "σ",
    "a" * 300,
    ":",
    "torch:load",
]
NO_JSON = ["", "{", "[1]", "null", '{"in_features": -1}', '{"x": NaN}', "[" * 100_000, '{"in_features": "x"}']
NO_FLAGS = ["=", "=x", "=1"]


def mains() -> dict[str, Main]:
    """Entry points of the programs, by name."""
    own = {name: importlib.import_module(f"{name}.__main__").main for name in ("training.committee", "training.deep")}
    for name in (line for line in LINES if line.startswith("figures.")):
        module, stem = importlib.import_module(name), name.rpartition(".")[2]
        if stem in ("fig1", "fig6"):
            own[name] = partial(program.main, getattr(module, stem.upper()))
        elif hasattr(module, "make"):
            own[name] = partial(program.run_program, stem, module.__doc__, module.add_options, module.make)
        else:
            own[name] = module.main
    return own | {name: partial(_bpflat, name.split()[1]) for name in LINES if name.startswith("bpflat ")}


def _bpflat(command: str, argv: list[str]) -> int:
    return cli.main([command, *argv])


def furnish(folder: Path) -> None:
    """Fill a folder with what the right command lines read."""
    for name in STORED:
        shutil.copytree(RESULTS / name, folder / name, ignore=shutil.ignore_patterns("*.png", "*.pdf", "*.md"))
    weights, patterns, labels = random_instance(11, 3, 8)
    np.savez(folder / "mine.npz", weights=weights, patterns=patterns, labels=labels)
    np.savez(folder / "pairs.npz", inputs=np.ones((4, 3), np.float32), targets=[0, 1, 0, 1])
    LocalEnergyProfile(*[np.array([0.1])] * 3, 0.0, 10).save(folder / "profile.npz")
    coloured_images(folder / "images.npz", n_train=130)
    (folder / "text.npz").write_text("no archive")
    (folder / "empty.npz").touch()
    (folder / "weights").mkdir()
    for depth in (20, 32, 44, 56):
        torch.save({"state_dict": CifarResNet(depth).state_dict()}, folder / "weights" / f"resnet{depth}-toy.th")


class _Found(Exception):
    """Carries a parser out of its program."""


def parser_of(main: Main) -> argparse.ArgumentParser:
    """The parser of a program."""

    def show(parser, argv=None):
        raise _Found(parser, argv)

    parse, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, show
    try:
        main([])
    except _Found as found:
        parser, argv = found.args
    finally:
        argparse.ArgumentParser.parse_args = parse
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return commands[0].choices[argv[0]] if commands else parser


def wrong_lines(name: str, main: Main) -> Iterator[list[str]]:
    """Command lines of one program, each with one wrong value; some of the values are right for some options."""
    right = shlex.split(LINES[name])
    options = [action for action in parser_of(main)._actions if not isinstance(action, argparse._HelpAction)]
    yield from ([*right, extra] for extra in ("more", "--unknown", "-x", "--out=a=b", "\udc80"))
    if not all(action.option_strings for action in options):  # else nothing is missing: a whole run
        yield from ([], right[1:])
    for action in options:
        if not action.option_strings:
            yield from ([value, *right[1:]] for value in (NO_PATHS if action.type is Path else NO_NAMES))
            continue
        option = action.option_strings[-1]
        if action.nargs == 0:
            yield from ([*right, option + value] for value in NO_FLAGS)
            continue
        yield [*right, option]
        whole = WHOLE_RUNS.get((name, option), ())
        yield from ([*right, f"{option}={value}"] for value in values_for(action) if value not in whole)
        if action.nargs == "+":
            yield from ([*right, option, *values.split()] for values in ("0.2 0.1", "0.1 0.1", "0.1 nan", "1 x"))


def values_for(action: argparse.Action) -> list[str]:
    """Wrong values of one option."""
    if action.choices is not None:
        return ["", "x", str(next(iter(action.choices))).upper() + "x", "0"]
    if action.option_strings[-1] == "--jobs":
        return [*NO_WHOLE_NUMBERS, "4097"]
    kinds = {float: NO_FLOATS, Path: NO_PATHS, parse_json: NO_JSON, None: NO_NAMES}
    return kinds.get(action.type, NO_WHOLE_NUMBERS)
