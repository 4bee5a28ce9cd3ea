"""Minima of small networks on the patterns of B.1, and Φ, δE and test error of each.

Three architectures are trained by SGD, rSGD and eSGD, all to the same training loss, below which no pattern can be
wrong.  Both measures are taken under the same noise, with the scales of eq. 4 and with those of filters.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bpflat import load_reduced_fashion_mnist
from bpflat.arguments import check_count, check_file_name, check_scalar
from bpflat.flatness import local_energy, local_entropy
from bpflat.layout import check_finite
from bpflat.provenance import Provenance
from bpflat.storage import StoredResult
from training.deep.images import Images
from training.deep.recipes import Recipe, as_plain
from training.deep.schedules import Drops
from training.deep.trainer import begin, centre, evaluate, train
from training.result_file import is_missing, json_object
from training.workers import Task, carry_out

SCALES = ("multiplicative", "filter")


@dataclass(frozen=True)
class Architecture:
    """A network, and the noise under which it is measured.

    Attributes
    ----------
    model : str
    options : dict
        See `training.models.make_model`.
    unit : float
        Unit of the σ of a `Plan`: shared weights feel the same noise more, and the chains of Φ take the longer.
    """

    model: str
    options: dict
    unit: float = 1.0


ARCHITECTURES = {
    "one-layer": Architecture("perceptron", {"hidden": (8,)}),
    "two-layer": Architecture("perceptron", {"hidden": (8, 8)}),
    "convolutional": Architecture("strided-convnet", {"width": 6}, unit=0.4),
}
ENTROPIC: dict[str, dict] = {
    "baseline": {},
    "rsgd": {"y": 3, "K": 1, "gamma_growth": 100.0},
    "esgd": {"L": 5, "gamma_growth": 10.0},
}
OUTER_ETA = 0.5  # of eSGD


@dataclass(frozen=True)
class Setting:
    """How minima are found.

    Attributes
    ----------
    column : str
        The algorithm, as `training.deep.recipes` calls it.
    batch : int
        Patterns in a minibatch.
    eta : float
        Learning rate, constant; of eSGD's inner loop.
    """

    column: str
    batch: int
    eta: float


SETTINGS = (
    Setting("baseline", 5, 0.005),
    Setting("baseline", 50, 0.02),
    Setting("baseline", 50, 0.1),
    Setting("baseline", 250, 0.05),
    Setting("rsgd", 10, 0.01),
    Setting("rsgd", 50, 0.05),
    Setting("esgd", 10, 0.02),
    Setting("esgd", 50, 0.05),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many minima are made and how well they are measured.

    Attributes
    ----------
    seeds : int
        Minima of each architecture and setting.
    n_samples : int
        Sweeps of each chain for Φ.
    n_draws : int
        Draws of the noise for δE.
    max_passes : int
        Passes over the patterns, at each σ, after which chains that disagree do not go on.
    sigmas : tuple of float
        Noise amplitudes σ, in the units of the architectures.
    architectures : tuple of str
        Keys of `ARCHITECTURES`.
    n_train : int
        Training patterns.
    epochs : int
        The most, over which γ grows.
    stop_loss : float
        Training ends when the loss of the centre on the training patterns is lower.  A wrong pattern costs ln 2 at
        least, so below ``ln 2/n_train`` there is none.

    Raises
    ------
    ValueError
        When one of these numbers is out of range.
    """

    seeds: int
    n_samples: int
    n_draws: int
    max_passes: int = 100_000
    sigmas: tuple[float, ...] = (0.5, 1.0)
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    n_train: int = 500
    epochs: int = 400
    stop_loss: float = 1e-3

    def __post_init__(self) -> None:
        for name, least, most in (
            ("seeds", 1, 1000),
            ("n_samples", 100, 10**7),
            ("n_draws", 2, 10**7),
            ("max_passes", 0, 10**12),
            ("n_train", 2, 3927),
            ("epochs", 1, 10**6),
        ):
            check_count(name, getattr(self, name), at_least=least, at_most=most)
        check_scalar("stop_loss", self.stop_loss, above=0)

    def recipes(self) -> Iterator[tuple[str, Recipe]]:
        """Architectures and the recipes of each."""
        for architecture in dict.fromkeys(self.architectures):
            for setting in SETTINGS:
                yield architecture, self.recipe(architecture, setting)

    def noise(self, architecture: str) -> tuple[float, ...]:
        """Noise amplitudes σ of an architecture."""
        return tuple(ARCHITECTURES[architecture].unit * sigma for sigma in self.sigmas)

    def recipe(self, architecture: str, setting: Setting) -> Recipe:
        """How a network is trained."""
        network = ARCHITECTURES[architecture]
        is_esgd = setting.column == "esgd"
        return Recipe(
            row=f"{architecture}-b{setting.batch}-eta{setting.eta:g}",
            column=setting.column,
            model=network.model,
            model_options=network.options,
            data="fashion-mnist",
            epochs=self.epochs,
            eta=Drops(OUTER_ETA if is_esgd else setting.eta, ()),
            eta_prime=setting.eta if is_esgd else 0.0,
            batch=min(setting.batch, self.n_train),
            weight_decay=0.0,
            nesterov=False,
            padding=0,
            flip=False,
            **ENTROPIC[setting.column],
        )


PLANS = {"full": Plan(seeds=3, n_samples=200, n_draws=1000), "quick": Plan(seeds=1, n_samples=100, n_draws=200)}


@dataclass(frozen=True, eq=False, repr=False)
class Minimum(StoredResult):
    """One trained network and both measures of flatness around it.

    Attributes
    ----------
    name, architecture, algorithm : str
        Of the file, a key of `ARCHITECTURES`, and a column of `training.deep.recipes`.
    batch, seed, epochs : int
    eta : float
    train_loss, train_error, test_error, balanced_error : float
        Of the centre, without noise; the last is the mean of the test errors of both classes.
    seconds : float
        Processor time of training and measurement.
    setting : str
        JSON of everything that decides the result.
    sigma : ndarray, shape (S,)
    scale : ndarray of str, shape (C,)
        Scales of the noise.
    log_z : ndarray, shape (C, S)
        ``log Z/n`` at σ, in nats per weight; NaN where the chains did not converge.
    phi, phi_error : ndarray, shape (C, S)
        Φ at the distance that goes with σ, in nats per weight, and its standard error; NaN where the chains did not
        converge.
    distance : ndarray, shape (C, S)
        That distance, ``d ≈ σ²/2``.
    n_weights : ndarray of int, shape (C,)
    delta_error, delta_error_error : ndarray, shape (C, S)
        δE(σ) and its standard error; with filter scales from the states of the chains at β = 0.
    n_temperatures, passes, rhat : ndarray, shape (C, S)
        What Φ took; with one temperature, samples of the prior were counted.
    beta : ndarray, shape (B,)
    log_mean_exp, log_mean_exp_error : ndarray, shape (C, S, B)
        ``log ⟨e^{-βE}⟩`` in nats and its standard error.
    """

    kind = "measured-minimum"
    layout: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("name", "architecture", "algorithm", "setting"), "U"),
        **dict.fromkeys(("batch", "seed", "epochs"), "i"),
        **dict.fromkeys(("eta", "train_loss", "train_error", "test_error", "balanced_error", "seconds"), "n"),
        "sigma": "f S",
        "scale": "U C",
        "n_weights": "i C",
        **dict.fromkeys(
            ("log_z", "phi", "phi_error", "distance", "delta_error", "delta_error_error", "passes", "rhat"), "f C S"
        ),
        "n_temperatures": "i C S",
        "beta": "f B",
        **dict.fromkeys(("log_mean_exp", "log_mean_exp_error"), "f C S B"),
    }

    name: str
    architecture: str
    algorithm: str
    setting: str
    batch: int
    seed: int
    epochs: int
    eta: float
    train_loss: float
    train_error: float
    test_error: float
    balanced_error: float
    seconds: float
    sigma: NDArray[np.float64]
    scale: NDArray[np.str_]
    n_weights: NDArray[np.int64]
    log_z: NDArray[np.float64]
    phi: NDArray[np.float64]
    phi_error: NDArray[np.float64]
    distance: NDArray[np.float64]
    delta_error: NDArray[np.float64]
    delta_error_error: NDArray[np.float64]
    n_temperatures: NDArray[np.int64]
    passes: NDArray[np.float64]
    rhat: NDArray[np.float64]
    beta: NDArray[np.float64]
    log_mean_exp: NDArray[np.float64]
    log_mean_exp_error: NDArray[np.float64]

    @property
    def fitted(self) -> bool:
        """Whether it makes no training errors."""
        return self.train_error == 0

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        super().check()
        check_finite(vars(self), "sigma", "beta", "train_error", "test_error")
        check_file_name("name", self.name)
        json_object(self.setting)


def patterns(n_train: int) -> Images:
    """The reduced Fashion-MNIST as pictures, which the mean and deviation given with them turn into ±1."""
    data = load_reduced_fashion_mnist(n_train)

    def pictures(signs: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(255 * (signs > 0), dtype=torch.uint8).reshape(-1, 1, 28, 28)

    def classes(labels: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(labels > 0, dtype=torch.int64)

    middle = torch.full((1, 1, 1), 127.5)
    return Images(
        name="fashion-mnist",
        classes=2,
        train_images=pictures(data.train_patterns),
        train_labels=classes(data.train_labels),
        test_images=pictures(data.test_patterns),
        test_labels=classes(data.test_labels),
        mean=middle,
        std=middle,
    )


def load_minima(folder: Path, plan: Plan) -> list[Minimum]:
    """Read the minima of `plan`, all of which `folder` must hold, those of one seed after the other's."""
    names = (f"{recipe.name}-seed{seed}" for seed in range(plan.seeds) for _, recipe in plan.recipes())
    return [Minimum.load(folder / f"{name}.npz") for name in names]


def measure_missing(plan: Plan, folder: Path, *, n_jobs: int = 1) -> None:
    """Train and measure the minima of `plan` that `folder` does not hold; their weights are not kept.

    Raises
    ------
    ValueError
        When `folder` holds a minimum of another setting.
    SweepError
        When trainings fail; the others are stored.
    OSError
        When `folder` cannot be written, or another process makes one of the results.
    """
    tasks = []
    with contextlib.ExitStack() as claims:
        for seed in range(plan.seeds):
            for architecture, recipe in plan.recipes():
                path = folder / f"{recipe.name}-seed{seed}.npz"
                setting = setting_of(plan, architecture, recipe, seed)
                if is_missing(path, setting, lambda path: Minimum.load(path).setting, claims):
                    tasks.append(Task(path, path.stem, partial(train_and_measure, plan, architecture, recipe, seed)))
        for _ in carry_out(tasks, n_jobs=n_jobs, bar="minima"):
            pass


def setting_of(plan: Plan, architecture: str, recipe: Recipe, seed: int) -> dict:
    """Everything that decides a result."""
    names = ("n_train", "stop_loss", "n_samples", "max_passes", "n_draws")
    setting = {"recipe": as_plain(recipe), "seed": seed, "sigmas": plan.noise(architecture)}
    return setting | {name: getattr(plan, name) for name in names}


def train_and_measure(plan: Plan, architecture: str, recipe: Recipe, seed: int) -> Minimum:
    """Train one network until its loss is below that of `plan`, and measure it, on one thread."""
    torch.set_num_threads(1)
    started = time.process_time()
    images = patterns(plan.n_train)
    model, epochs = trained(plan, recipe, seed, images)
    plain = recipe.augmentation().plain
    inputs, tests = (plain(part, images.mean, images.std) for part in (images.train_images, images.test_images))
    train_loss, train_error = evaluate(model, images.train_images, images.train_labels, images, recipe.augmentation())
    with torch.no_grad():
        wrong = (model(tests).argmax(1) != images.test_labels).double()
    by_class = [wrong[images.test_labels == label].mean().item() for label in range(images.classes)]
    measures = flatness_of(model, inputs, images.train_labels, plan.noise(architecture), plan)
    return Minimum(
        name=f"{recipe.name}-seed{seed}",
        architecture=architecture,
        algorithm=recipe.column,
        setting=json.dumps(setting_of(plan, architecture, recipe, seed)),
        batch=recipe.batch,
        seed=seed,
        epochs=epochs,
        eta=recipe.eta_prime or recipe.eta(0.0),
        train_loss=train_loss,
        train_error=train_error,
        test_error=wrong.mean().item(),
        balanced_error=float(np.mean(by_class)),
        seconds=time.process_time() - started,
        **measures,
        provenance=Provenance.here(),
    )


def trained(plan: Plan, recipe: Recipe, seed: int, images: Images) -> tuple[nn.Module, int]:
    """The centre of a training, and the epochs that it took."""
    state = begin(recipe, images.classes, seed, "cpu")
    options = {"epochs": plan.epochs, "stop_loss": plan.stop_loss, "evaluate_every": plan.epochs}
    train(state, images, recipe.augmentation(), seed=seed, **options)
    with centre(state) as model:
        return copy.deepcopy(model), state.epoch


def flatness_of(
    model: nn.Module, inputs: Tensor, labels: Tensor, sigmas: Sequence[float], plan: Plan
) -> dict[str, NDArray]:
    """Fields of a `Minimum` that its measures give; all networks see the same noise."""
    data = inputs, labels
    options = {"n_samples": plan.n_samples, "max_passes": plan.max_passes, "seed": 0}
    curves = [local_entropy(model, data, sigmas, scale=scale, **options) for scale in SCALES]
    profile = local_energy(model, data, sigmas, n_samples=plan.n_draws, seed=0)

    def stacked(name: str) -> NDArray:
        return np.array([getattr(curve, name) for curve in curves])

    of_prior = [curve.cumulants() for curve in curves]  # at β = 0
    rises = np.array([prior.mean_errors[:, 0] for prior in of_prior]) / len(labels) - profile.train_error
    errors = np.array([prior.mean_std_error[:, 0] for prior in of_prior]) / len(labels)
    plain = SCALES.index("multiplicative")
    rises[plain], errors[plain] = profile.delta_error, profile.std_error  # of draws of its own
    names = ("log_z", "phi", "distance", "n_weights", "n_temperatures", "passes", "rhat")
    names += ("log_mean_exp", "log_mean_exp_error")
    return {
        "sigma": profile.sigma,
        "scale": np.array(SCALES),
        "phi_error": stacked("std_error"),
        "delta_error": rises,
        "delta_error_error": errors,
        "beta": of_prior[0].beta,
        **{name: stacked(name) for name in names},
    }
