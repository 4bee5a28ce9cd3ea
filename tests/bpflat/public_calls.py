"""Every public function with right arguments, as `wrong_arguments` makes them, for `test_fuzz`.

A function is added by a line in `CALLS`: its name, itself, and its arguments.
"""

import tempfile
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from bpflat import (
    LocalEnergyProfile,
    LocalEntropyCurve,
    binary,
    bp,
    committee,
    flatness,
    load_reduced_fashion_mnist,
    local_energy,
    local_entropy,
    nodes,
)
from bpflat.datasets import binarize_at_median
from bpflat.optim import EntropySGD, ReplicatedSGD, batchnorm_statistics, focusing
from tests.bpflat import wrong_arguments as an

_rng = np.random.default_rng(0)
_weights, _patterns = _rng.normal(size=(3, 11)), _rng.choice([-1.0, 1.0], (8, 11))
_labels = committee.predict(_weights, _patterns).astype(float)
WEIGHTS, PATTERNS, LABELS = an.weights(_weights), an.patterns(_patterns), an.labels(_labels)
PROBLEM = {"weights": WEIGHTS, "patterns": PATTERNS, "labels": LABELS}
ANCHORED = {
    "weights": WEIGHTS.but(zeros=_weights * [[0.0], [1.0], [1.0]]),
    "patterns": PATTERNS.but(zeros=np.vstack([_patterns[1:], np.zeros(11)])),
    "labels": LABELS,
}
UNANCHORED = {"weights": WEIGHTS, "patterns": ANCHORED["patterns"], "labels": LABELS}  # rows of zeros are allowed
DELTAS = an.grid([0.1, 0.5]).but(zero=[0.0, 0.1], tiny=[1e-320, 0.1])
DELTA = an.number(0.5).but(zero=0.0, tiny=1e-320, array_of_two=[0.1, 0.5])
NODE = an.thing(nodes.parity(3)).but(other=nodes.parity(5))
ENERGIES = an.array([3.0, 1.0, 0.5, 0.0]).but("infinite", negative=[-1.0, 0.0], wrong=np.full(4, np.inf))
MARGIN = an.number(0.5).but("negative")
TOLERANCE = an.number(1e-8).but(zero=0.0, loose=1e6)


def optimizers(n: int, *, own: bool = True, **options) -> list[torch.optim.SGD]:
    """Plain ones, each over parameters of its own, or over shared ones."""
    shared = [nn.Parameter(torch.zeros(2))]
    return [torch.optim.SGD([nn.Parameter(torch.zeros(2))] if own else shared, lr=0.1, **options) for _ in range(n)]


_folder = tempfile.TemporaryDirectory()  # gone when the tests are over
_curve = LocalEntropyCurve(*[np.array([0.1])] * 5, np.array([True]), np.array([3]), 0.0, "bp", np.array([np.inf]))
_curve.save(f"{_folder.name}/curve.npz")
_votes = replace(_curve, vote_probability=np.array([[0.2, 0.7, 0.5]]))
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
DATA = {
    "one": (_inputs,),
    "three": (_inputs, _targets, _targets),
    "lengths": (_inputs, _targets[1:]),
    "nan": (_inputs * torch.nan, _targets),
    "infinite": (_inputs * torch.inf, _targets),
    "complex": (_inputs * 1j, _targets),
    "text": (_inputs, ["a"] * 10),
    "digits": (_inputs.numpy().astype(str), _targets),
    "masked": (np.ma.array(_inputs.numpy(), mask=_inputs.numpy() > 1), _targets),
    "fractions": (_inputs, _targets + 0.5),
    "classes": (_inputs, _targets + 1),
    "signed": (_inputs, _targets - 1),
    "columns": (_inputs, nn.functional.one_hot(_targets)),
    "empty": (_inputs[:0], _targets[:0]),
    "nothing": [],
}
MODEL = {"linear class": nn.Linear, "activation": nn.ReLU(), "function of it": _model.forward}
FLATNESS = {
    "model": an.thing(_model).but("activation", **MODEL),
    "data": an.thing((_inputs, _targets)).but(says="data|inputs|targets", **DATA),
    "sigmas": an.grid([0.1, 0.2]),
    "n_samples": an.count(4).but(one=1, odd=5),
    "seed": an.seed(0),
    "device": an.device("cpu").but("none"),
    "parameters": an.thing("weights").but("none", unknown=["wait"], nothing=[], other="biases"),
    "tolerance": TOLERANCE.but("none", "loose"),
    "batch_norm": an.choice("frozen"),
    "augment": an.thing(lambda x: x).but("none", "function", "class"),
    "common": an.flag(True),
    "antithetic": an.flag(True),
    "batch_size": an.count(5).but("none"),
    "block_size": an.count(5),
    "resident": an.flag(True).but("none"),
    "precision": an.choice("float32").but("none"),
    "channels_last": an.flag(False),
    "compile": an.flag(False),
    "split": an.flag(True),
    "progress": an.flag(False),
}
ENTROPY = {
    **ANCHORED,
    "method": an.choice("bp"),
    "seed": an.seed(0),
    "tolerance": TOLERANCE,
    "n_samples": an.count(100).but(few=10),
    "n_chains": an.count(2).but(one=1),
    "n_jobs": an.jobs(1),
    "progress": an.flag(False),
}

BINARY = {
    **ANCHORED,
    "weights": an.weights(np.sign(_weights)).but(half=0.5 * np.sign(_weights)),
}
SOLVED = {"patterns": PATTERNS.but("narrow"), "labels": LABELS, "n_hidden": an.count(3).but(even=2)}

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
    "local_entropy": (
        local_entropy,
        {
            **ENTROPY,
            "deltas": DELTAS.but("none"),
            "betas": an.grid([0.0, 2.0]).but("none", beyond=[2e6]),
            "prior_scale": an.array(abs(_weights)).but(
                "none",
                zeros=0 * _weights,
                narrow=abs(_weights[:, 1:]),
                negative=-abs(_weights),
                far=1e20 + 0 * _weights,
            ),
            "predict_at": an.patterns(_patterns[:2]).but("none"),
            "marginals": an.flag(False),
        },
    ),
    "binary.local_entropy": (
        binary.local_entropy,
        {
            **BINARY,
            "gammas": an.grid([0.2, 0.5]).but("none"),
            "beta": an.number(2.0).but("none", zero=0.0),
            **{n: ENTROPY[n] for n in ("method", "seed", "tolerance", "n_samples", "n_chains", "n_jobs", "progress")},
        },
    ),
    "binary.local_energy": (
        binary.local_energy,
        {
            **BINARY,
            "flip_probabilities": an.grid([0.1, 0.5]),
            "n_samples": an.count(10).but(one=1),
            "seed": an.seed(0),
            "method": an.choice("exact").but("none"),
        },
    ),
    "binary.volume": (
        binary.volume,
        {
            **SOLVED,
            "method": an.choice("bp"),
            "tolerance": TOLERANCE,
            "max_steps": an.count(3),
        },
    ),
    "binary.focusing_bp": (
        binary.focusing_bp,
        {
            **SOLVED,
            "n_replicas": an.number(3.0).but(one=1.0),
            "gamma_max": an.number(0.5).but(far=20.0),
            "n_steps": an.count(2),
            "asymmetry": an.number(0.1),
            "seed": an.seed(0),
        },
    ),
    "binary.decimated_bp": (binary.decimated_bp, {**SOLVED, "n_steps": an.count(2), "asymmetry": an.number(0.1)}),
    "local_entropy at distances": (
        local_entropy,
        {
            **ANCHORED,
            "distances": DELTAS.but("none"),
            "beta": an.number(2.0).but("none", zero=0.0),
            "device": an.device("cpu").but("none"),
        },
    ),
    "local_entropy without a reference": (
        partial(local_entropy, None),
        {
            "patterns": ANCHORED["patterns"].but("narrow"),
            "labels": LABELS,
            "deltas": DELTAS.but("none"),
            "n_hidden": an.count(3),
            "node": NODE.but("none"),
            "check": an.flag(True),
        },
    ),
    "bp.make_nodes": (
        bp.make_nodes,
        {**{n: UNANCHORED[n] for n in ("weights", "patterns")}, "node": NODE.but("none"), "check": an.flag(True)},
    ),
    "bp.solve_nodes": (
        bp.solve_nodes,
        {
            "nodes": an.thing(bp.make_nodes(_weights, _patterns)),
            "labels": LABELS,
            "delta": DELTA,
            "n_errors": an.count(1).but("zero"),
            "beta": an.number(2.0).but("none", zero=0.0),
            "start": an.thing(None).but("none"),
            "tolerance": TOLERANCE,
            "max_steps": an.count(40),
        },
    ),
    "bp.solve_edges": (
        bp.solve_edges,
        {
            **UNANCHORED,
            "delta": DELTA,
            "node": NODE.but("none", weighted=nodes.weighted([1.0, 2.0, 0.5])),
            "start": an.thing(None).but("none"),
            "damping": an.number(0.1).but(all_of_it=1.0),
            "tolerance": TOLERANCE,
            "max_sweeps": an.count(50),
        },
    ),
    "bp.output_node": (
        bp.output_node,
        {
            "omega": an.array(_rng.normal(size=(8, 3))).but(even=np.ones((8, 2)), one=np.ones(8)),
            "variance": an.array(np.full((8, 3), 0.5)).but(zero=np.zeros((8, 3)), narrow=np.ones((8, 2))),
            "labels": LABELS,
        },
    ),
    "committee.tree": (committee.tree, {"weights": an.array(_weights).but(zeros=0 * _weights)}),
    "nodes.CountNode": (nodes.CountNode, {"energies": ENERGIES, "margin": MARGIN}),
    "nodes.SignNode": (nodes.SignNode, {"energies": ENERGIES.but(three=[1.0, 2.0, 0.0]), "margin": MARGIN}),
    "nodes.majority": (
        nodes.majority,
        {"n_hidden": an.count(4), "lead": an.count(1).but(many=5), "ties": an.choice("coin"), "margin": MARGIN},
    ),
    "nodes.weighted": (
        nodes.weighted,
        {
            "output_weights": an.array([1.0, -1.0]).but(zeros=np.zeros(2), many=np.ones(13)),
            "lead": an.number(0.0).but(beyond=3.0),
            "ties": an.choice("coin"),
            "margin": MARGIN,
        },
    ),
    "nodes.parity": (nodes.parity, {"n_hidden": an.count(4), "margin": MARGIN}),
    "nodes.cross_entropy": (
        nodes.cross_entropy,
        {"n_hidden": an.count(4), "omega": an.number(1.0).but(zero=0.0), "beta": an.number(1.0).but(zero=0.0)},
    ),
    "nodes.check_node": (
        nodes.check_node,
        {"node": NODE, "n_hidden": an.count(3).but(other=4, says="hidden|n_hidden"), "numbers": an.flag(True)},
    ),
    "flatness.local_energy": (flatness.local_energy, FLATNESS),
    "flatness.local_energy of a subset": (
        flatness.local_energy,
        {**{name: FLATNESS[name] for name in ("model", "data", "sigmas")}, "subset": an.count(5).but("none", many=11)},
    ),
    "flatness.local_entropy": (
        flatness.local_entropy,
        {
            **{n: FLATNESS[n] for n in ("model", "data", "seed", "device", "parameters", "batch_norm", "batch_size")},
            **{n: FLATNESS[n] for n in ("block_size", "resident", "precision", "progress")},
            "sigmas": an.grid([1e-3, 2e-3]).but(zero=[0.0, 0.1]),
            "scale": an.choice("multiplicative"),
            "beta": an.number(2.0).but("none", zero=0.0),
            "n_samples": an.count(100).but(few=10),
            "n_chains": an.count(2).but(one=1),
            "together": an.count(2).but("none"),
            "max_temperatures": an.count(10).but(one=1),
            "max_passes": an.count(1000).but("zero"),
            "betas": an.grid([0.0, 1.0]).but("none"),
        },
    ),
    "flatness.fingerprint": (flatness.fingerprint, {"model": an.thing(_model).but("activation", **MODEL)}),
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
    "EntropySGD.step": (_moved.step, {"closure": an.thing(lambda: 1.0).but("none", "function", "class")}),
    "EntropySGD.balanced_gamma": (_moved.balanced_gamma, {"loss": an.number(1.0)}),
    "EntropySGD.load_state_dict": (_moved.load_state_dict, {"state_dict": an.thing(_moved.state_dict())}),
    "ReplicatedSGD": (
        ReplicatedSGD,
        {
            "replicas": an.thing(optimizers(2)).but(**REPLICAS),
            "gamma": an.number(1.0),
            "K": an.count(5),
            "coupling": an.choice("gradient"),
            "group": an.thing(None).but("none", outsider=object()),
            "project": an.thing(None).but("none", "function", "class"),
        },
    ),
    "batchnorm_statistics": (
        lambda model, batches: batchnorm_statistics(model, batches).__enter__(),
        {
            "model": an.thing(_model).but("activation", **MODEL),
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
    "LocalEntropyCurve.plot": (_curve.plot, {"ax": an.thing(None).but("none")}),
    "LocalEntropyCurve.test_error": (
        _votes.test_error,
        {"labels": an.labels(np.array([1.0, -1.0, 1.0])), "rule": an.choice("bayes"), "balanced": an.flag(False)},
    ),
    "LocalEnergyProfile.load": (LocalEnergyProfile.load, {"path": an.path(f"{_folder.name}/profile.npz")}),
    "LocalEnergyProfile.save": (_profile.save, {"path": an.path(f"{_folder.name}/profile.npz")}),
    "LocalEnergyProfile.plot": (_profile.plot, {"ax": an.thing(None).but("none")}),
    **{
        f"{schedule}(tau)": (schedule.__call__, {"tau": an.number(3.0)})
        for schedule in (focusing.Constant(0.1), focusing.Exponential(0.1, 0.1), focusing.Cosine(0.1, 10))
    },
}
