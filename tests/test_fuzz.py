"""Every public function with one argument made wrong: a ValueError or TypeError that names it, and nothing else.

A function is added by a line in `CALLS`: its name, itself, and its arguments as `tests.wrong_arguments` makes them.
"""

import re
import signal
import tempfile
import time
import warnings
import zlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from bpflat import (
    LocalEnergyProfile,
    LocalEntropyCurve,
    committee,
    flatness,
    load_reduced_fashion_mnist,
    local_energy,
)
from bpflat.datasets import binarize_at_median
from bpflat.optim import EntropySGD, batchnorm_statistics, focusing
from tests import wrong_arguments as an
from tests.wrong_arguments import Argument

matplotlib.use("Agg")
SOON, HANGING = 5, 60  # seconds; to stop a call that is being compiled would crash

_rng = np.random.default_rng(0)
_weights, _patterns = _rng.normal(size=(3, 11)), _rng.choice([-1.0, 1.0], (8, 11))
_labels = committee.predict(_weights, _patterns).astype(float)
WEIGHTS, PATTERNS, LABELS = an.weights(_weights), an.patterns(_patterns), an.labels(_labels)
PROBLEM = {"weights": WEIGHTS, "patterns": PATTERNS, "labels": LABELS}


def optimizers(n: int, **options):
    """Plain ones, each over parameters of its own, or over shared ones."""
    shared = [nn.Parameter(torch.zeros(2))]
    own = options.pop("own", True)
    return [torch.optim.SGD([nn.Parameter(torch.zeros(2))] if own else shared, lr=0.1, **options) for _ in range(n)]


_folder = tempfile.TemporaryDirectory()  # gone when the tests are over
_curve = LocalEntropyCurve(*[np.array([0.1])] * 7, 0.0, "bp", np.array([np.inf]))
_curve.save(f"{_folder.name}/curve.npz")
_profile = LocalEnergyProfile(*[np.array([0.1])] * 3, 0.0, 10)
_profile.save(f"{_folder.name}/profile.npz")

_inner, _outer = optimizers(2, own=False)
OPTIMIZER = {"other": optimizers(1)[0], "maximal": optimizers(1, maximize=True)[0], "parameters": [torch.zeros(2)]}
_folder = tempfile.TemporaryDirectory()  # gone when the tests are over
_curve = LocalEntropyCurve(*[np.array([0.1])] * 7, 0.0, "bp", np.array([np.inf]))
_curve.save(f"{_folder.name}/curve.npz")
_profile = LocalEnergyProfile(*[np.array([0.1])] * 3, 0.0, 10)
_profile.save(f"{_folder.name}/profile.npz")

_inner, _outer = optimizers(2, own=False)
OPTIMIZER = {"other": optimizers(1)[0], "maximal": optimizers(1, maximize=True)[0], "parameters": [torch.zeros(2)]}
REPLICAS = {
    "none of them": [],
    "one of them": optimizers(1)[0],
    "twice": optimizers(1) * 2,
    "shared": optimizers(2, own=False),
    "models": [nn.Linear(2, 2)] * 2,
    "maximal": optimizers(2, maximize=True),
}


def moved() -> EntropySGD:
    """One after a loop whose weights moved."""
    inner, outer = optimizers(2, own=False)
    optimizer = EntropySGD(inner, outer, gamma=0, L=1)
    (shared,) = inner.param_groups[0]["params"]
    shared.grad = torch.ones(2)
    optimizer.step()
    return optimizer


_moved = moved()

_model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
_inputs, _targets = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3
MODEL = {"linear class": nn.Linear, "activation": nn.ReLU(), "function of it": _model.forward}
CALLS = {
    "committee.predict": (committee.predict, {"weights": WEIGHTS, "patterns": PATTERNS}),
    "committee.error": (committee.error, {**PROBLEM, "balanced": an.flag(False)}),
    "binarize_at_median": (binarize_at_median, {"images": an.array(_patterns).but("dimensions")}),
    "load_reduced_fashion_mnist": (
        load_reduced_fashion_mnist,
        {
            "n_train": an.count(10).but("none", many=3928),
            "seed": an.seed(0).but("2**70", none_at_all=None, long=2**32),
            "balanced": an.flag(True),
        },
    ),
    "local_energy": (
        local_energy,
        {
            **PROBLEM,
            "sigmas": an.grid([0.1, 0.5]),
            "n_samples": an.count(10).but(one=1),
            "seed": an.seed(0),
            "method": an.choice("exact"),
            "n_jobs": an.jobs(1),
        },
    ),
    "flatness.fingerprint": (flatness.fingerprint, {"model": an.thing(_model).but(**MODEL).but("activation")}),
    "EntropySGD": (
        EntropySGD,
        {
            "inner": an.thing(_inner).but(**OPTIMIZER),
            "outer": an.thing(_outer).but(**OPTIMIZER),
            "gamma": an.number(1.0),
            "L": an.count(5),
            "epsilon": an.number(0.1),
            "alpha": an.number(0.5).but(one=1.0),
            "reset_inner": an.flag(False),
            "project": an.thing(None).but("none", "function", "class"),
            "seed": an.seed(0),
        },
    ),
    "EntropySGD.step": (_moved.step, {"closure": an.thing(lambda: 1.0).but("none", "class")}),
    "EntropySGD.balanced_gamma": (_moved.balanced_gamma, {"loss": an.number(1.0)}),
    "EntropySGD.load_state_dict": (_moved.load_state_dict, {"state_dict": an.thing(_moved.state_dict())}),
    "batchnorm_statistics": (
        lambda model, batches: batchnorm_statistics(model, batches).__enter__(),
        {
            "model": an.thing(_model).but(**MODEL).but("activation"),
            "batches": an.thing([_inputs]).but("tensor", nothing=[], text=["a"], numbers=[1.0], empties=[()]),
        },
    ),
    "focusing.Constant": (focusing.Constant, {"gamma": an.number(0.1)}),
    "focusing.Exponential": (focusing.Exponential, {"gamma0": an.number(0.1), "gamma1": an.number(0.1)}),
    "focusing.Exponential.over": (
        focusing.Exponential.over,
        {
            "gamma0": an.number(0.1),
            "epochs": an.number(10.0).but(zero=0.0, short=1e-300),
            "factor": an.number(10.0).but(below_one=0.5),
        },
    ),
    "focusing.Cosine": (focusing.Cosine, {"gamma_max": an.number(0.1), "epochs": an.number(10.0).but(zero=0.0)}),
    "LocalEntropyCurve.load": (LocalEntropyCurve.load, {"path": an.path(f"{_folder.name}/curve.npz")}),
    "LocalEntropyCurve.save": (_curve.save, {"path": an.path(f"{_folder.name}/curve.npz")}),
    "LocalEnergyProfile.load": (LocalEnergyProfile.load, {"path": an.path(f"{_folder.name}/profile.npz")}),
    "LocalEnergyProfile.save": (_profile.save, {"path": an.path(f"{_folder.name}/profile.npz")}),
    "LocalEnergyProfile.plot": (_profile.plot, {"ax": an.thing(None).but("none")}),
    **{
        f"{schedule}(tau)": (schedule.__call__, {"tau": an.number(3.0)})
        for schedule in (focusing.Constant(0.1), focusing.Exponential(0.1, 0.1), focusing.Cosine(0.1, 10))
    },
}


def outcome(function, arguments: dict, says: str) -> str:
    """What is wrong with how a call ends; nothing where it is refused by a message that holds `says`, and soon."""
    begin = time.perf_counter()
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(HANGING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = function(**arguments)
    except (ValueError, TypeError) as error:
        if not re.search(rf"\b({says})\b", str(error)):
            return f"{type(error).__name__} does not name it: {error}"
    except KeyboardInterrupt:
        return "hangs"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return f"accepted, with {type(result).__name__}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    return "" if time.perf_counter() - begin < SOON else "is slow"


def wrong_calls(call: str, name: str):
    """Ways to make an argument of a call wrong, and the keyword arguments that come of each."""
    arguments: dict[str, Argument] = CALLS[call][1]
    valid = {other: argument.value for other, argument in arguments.items()}
    for way in arguments[name].all_ways:
        rng = np.random.default_rng(zlib.crc32(f"{call} {name} {way}".encode()))
        yield way, valid | {name: arguments[name].wrong(way, rng)}


PAIRS = [(call, name) for call, (_, arguments) in CALLS.items() for name in arguments]


@pytest.mark.parametrize(("call", "name"), PAIRS, ids=map("-".join, PAIRS))
def test_a_wrong_argument_is_named(call, name):
    function, arguments = CALLS[call]
    says = arguments[name].says or name
    outcomes = {way: outcome(function, wrong, says) for way, wrong in wrong_calls(call, name)}
    assert not (bad := {way: found for way, found in outcomes.items() if found}), "\n".join(
        f"{name} made wrong, {way}: {found}" for way, found in bad.items()
    )


@pytest.mark.parametrize("call", CALLS)
def test_right_arguments_are_taken(call):
    function, arguments = CALLS[call]
    function(**{name: argument.value for name, argument in arguments.items()})
    plt.close("all")


def test_there_are_a_thousand_calls():
    assert sum(1 for pair in PAIRS for _ in wrong_calls(*pair)) > 1000
