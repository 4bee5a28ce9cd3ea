"""Every kind of file that is read, as small as it can be, and who reads it."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from bpflat import LocalEnergyProfile, LocalEntropyCurve
from bpflat.flatness.files import read_data
from bpflat.storage import read_npz
from bpflat.tensor_files import load_tensors, save_tensors
from bpflat.theory.results import TheoryCurve, Volume
from data.builder import reduced_fashion_mnist as builder
from figures.measure.networks import Network
from figures.measure.posterior import PosteriorErrors
from figures.measure.study import Draw
from tests.figures.toy_runs import network, saved
from tests.training.committee.toy_training import small, toy
from tests.training.published.toy_records import write_records
from training.committee.checkpoints import Checkpoint, Ended, load_checkpoint, save_checkpoint
from training.committee.results import TrainedMinima
from training.committee.trainer import train
from training.deep.checkpoints import load_state, save_state
from training.deep.images import load_images
from training.deep.recipes import find_recipe
from training.deep.results import METRICS, DeepRun, EpochMetrics
from training.deep.trainer import State
from training.models.cifar_resnet import CifarResNet
from training.published.resnets import load_published
from training.published.tfrecords import read_images

RNG = np.random.default_rng(17)
NUMBERS = RNG.normal(size=(2, 5))
ENDED = Ended(RNG.normal(size=(3, 7)).astype(np.float32), 3, "reached the cap", 0.5)
CONFIGURATION = {"protocol": dataclasses.asdict(small("rsgd-fast", y=2)), "restarts": [0, 1, 4], "seed": 0}


class Kind(NamedTuple):
    """A kind of file: its name in a folder, who writes it there, and who reads it."""

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]


def curve() -> LocalEntropyCurve:
    flags, counts = np.ones((2, 5), bool), np.full((2, 5), 7)
    numbers = [NUMBERS**2, NUMBERS, NUMBERS, -(NUMBERS**2), NUMBERS, flags, counts]
    return LocalEntropyCurve(*numbers, NUMBERS[:, 0], "bp", np.full((2, 5), np.inf), np.array(["a", "b"]))


def curve_with_cumulants() -> LocalEntropyCurve:
    numbers = dict.fromkeys(("log_mean_exp", "log_mean_exp_error", "mean_errors"), RNG.normal(size=(2, 5, 3)))
    return dataclasses.replace(curve(), n_weights=np.array([21, 20]), betas=np.arange(3.0), **numbers)


def curve_with_posterior() -> LocalEntropyCurve:
    overlaps = dict.fromkeys(("overlap", "overlap_error", "reference_overlap", "reference_overlap_error"), NUMBERS)
    moments = ("weight_mean", "weight_mean_error", "weight_variance", "weight_variance_error")
    votes = {"vote_probability": RNG.random((2, 5, 4)), "vote_jackknife": RNG.random((2, 5, 3, 4))}
    return dataclasses.replace(curve(), **overlaps, **votes, **dict.fromkeys(moments, RNG.normal(size=(2, 5, 1, 6))))


def posterior_errors() -> PosteriorErrors:
    names = ("gibbs", "bayes", "gibbs_balanced", "bayes_balanced", "gibbs_std_error", "bayes_std_error", "overlap")
    return PosteriorErrors(
        delta=NUMBERS[0], distance=NUMBERS, **dict.fromkeys(names, NUMBERS), reference=np.array(["a", "b"]), method="ep"
    )


def theory_curve() -> TheoryCurve:
    return TheoryCurve(*NUMBERS[[0, 0, 0, 0, 0, 0]], NUMBERS[0] > 0, 0.5, "real", "typical", "perceptron", 0.0, 0.0)


def volume() -> Volume:
    return Volume(*NUMBERS[[0, 0, 0, 0, 0, 0]], NUMBERS[0] > 0, "real", "random", "perceptron", 0.0)


def profile() -> LocalEnergyProfile:
    return LocalEnergyProfile(np.arange(5.0), NUMBERS[0], NUMBERS[1], 0.1, 20, "a", 0.2, NUMBERS[0], NUMBERS[1])


def minima() -> TrainedMinima:
    return train(small("sgd-fast", max_epochs=1), *toy(), restarts=[0, 1], threads=1)


def draw() -> Draw:
    names = ("train_error", "test_error", "test_error_balanced", "phi_near", "phi_far", "delta_error", "overlap")
    numbers = dict.fromkeys(names, NUMBERS[0])
    return Draw(np.array(list("abcde")), NUMBERS[0] > 0, np.arange(5), **numbers, configuration="{}")


def state() -> State:
    """A training of a linear network after one epoch."""
    torch.manual_seed(0)
    model, recipe = nn.Linear(3, 2), find_recipe("resnet18-cifar10", "baseline")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    curves = [EpochMetrics(**dict.fromkeys(METRICS, 0.5) | {"epoch": 1})]
    return State(recipe, range(1), [model], optimizer, float("nan"), epoch=1, curves=curves)


def read_state(path: Path) -> list:
    fresh = state()
    load_state(path, {"seed": 0}, fresh)
    momenta = [list(entry.values()) for entry in fresh.optimizer.state_dict()["state"].values()]
    return [fresh.models[0].state_dict(), momenta, fresh.epoch, fresh.gamma0, fresh.curves]


def read_checkpoint(path: Path) -> Checkpoint | None:
    return load_checkpoint(path, CONFIGURATION, NUMBERS[0])


def read_original(path: Path) -> np.ndarray:
    return builder.unpack_original("toy.gz", path.read_bytes(), str(path))


def plain(value: Any) -> Any:
    """What was read, in a form that can be compared by ==, bit for bit."""
    if isinstance(value, np.ndarray | torch.Tensor | np.generic):
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value))
    if isinstance(value, dict):
        return [(key, plain(part)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return repr(value)


PACKED = b"\0\0\x08\x01\0\0\x01\0" + bytes(range(256))
builder.ORIGINALS["toy.gz"] = hashlib.sha256(PACKED).hexdigest()  # as if it were another original of Fashion-MNIST


def write_images(path: Path) -> None:
    labels = np.arange(4)
    images = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.savez(path, train_images=images, train_labels=labels, test_images=images[::-1], test_labels=labels)


def write_published(path: Path) -> Path:
    """Weights in the format before torch 1.6, whose name tells their digest."""
    weights = {f"module.{name}": w for name, w in CifarResNet(8).state_dict().items()}
    torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=False)
    return path.rename(path.with_stem(f"resnet8-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"))


def write_checkpoint(path: Path) -> None:
    u = RNG.normal(size=(2, 2, 3, 7)).astype(np.float32)
    save_checkpoint(path, CONFIGURATION, Checkpoint(3, [0, 4], u, NUMBERS[0], {1: ENDED}))


def write_mine(path: Path) -> None:
    patterns, labels = toy()
    np.savez(path, weights=RNG.normal(size=(3, patterns.shape[1])), patterns=patterns, labels=labels)


def write_records_of_noise(path: Path) -> None:
    write_records(path, RNG.normal(size=(3, 4, 4, 2)).astype(np.float32), [0, 1, 2])


KINDS = [
    Kind("curve.npz", lambda path: curve().save(path), LocalEntropyCurve.load),
    Kind("cumulants.npz", lambda path: curve_with_cumulants().save(path), LocalEntropyCurve.load),
    Kind("posterior.npz", lambda path: curve_with_posterior().save(path), LocalEntropyCurve.load),
    Kind("errors.npz", lambda path: posterior_errors().save(path), PosteriorErrors.load),
    Kind("theory.npz", lambda path: theory_curve().save(path), TheoryCurve.load),
    Kind("volume.npz", lambda path: volume().save(path), Volume.load),
    Kind("profile.npz", lambda path: profile().save(path), LocalEnergyProfile.load),
    Kind("minima.npz", lambda path: minima().save(path), TrainedMinima.load),
    Kind("run.npz", lambda path: saved(path.parent, "baseline", 0, [0.5, 0.25]).save(path), DeepRun.load),
    Kind("network.npz", lambda path: network().save(path), Network.load),
    Kind("draw.npz", lambda path: draw().save(path), Draw.load),
    Kind("checkpoint.npz", write_checkpoint, read_checkpoint),
    Kind("checkpoint.pt", lambda path: save_state(path, {"seed": 0}, state()), read_state),
    Kind("sealed.pt", lambda path: save_tensors(path, nn.Linear(9, 9).state_dict()), load_tensors),
    Kind("theirs.pt", lambda path: torch.save(nn.Linear(9, 9).state_dict(), path), load_tensors),
    Kind("published.th", write_published, lambda path: load_published(CifarResNet(8), path).state_dict()),
    Kind("mine.npz", write_mine, read_npz),
    Kind("packed.npz", lambda path: np.savez_compressed(path, inputs=NUMBERS, targets=[0, 1]), read_data),
    Kind("images.npz", write_images, lambda path: vars(load_images("cifar10", path))),
    Kind(
        "toy.gz",
        lambda path: path.write_bytes(gzip.compress(PACKED, mtime=0)),
        read_original,
    ),
    Kind("images.tfrecord", write_records_of_noise, lambda path: read_images(path.parent)),
]


def written(kind: Kind, folder: Path) -> Path:
    """A whole file of this kind in `folder`."""
    path = folder / kind.name
    elsewhere = kind.write(path)
    return elsewhere if isinstance(elsewhere, Path) else path
