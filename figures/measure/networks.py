"""Networks of one architecture, trained with different regularisers, and δE around them: the data of Fig. 7."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bpflat.arguments import check_file_name
from bpflat.flatness import local_energy
from bpflat.layout import check_finite, check_layout
from bpflat.provenance import git_revision, library_versions
from bpflat.reading import parse_json
from bpflat.storage import load_result, save_result
from bpflat.tensor_files import load_tensors
from figures.measure.statistics import Correlation, centred_ranks, correlate
from training.deep import run
from training.deep.images import load_images
from training.deep.recipes import Recipe, as_plain
from training.deep.schedules import Annealing
from training.deep.trainer import DeepReport
from training.deep.training import DeepTraining
from training.models import make_model
from training.result_file import require_same
from training.workers import Task, carry_out

KIND = "measured-network"
LAYOUT = {
    **dict.fromkeys(("name", "architecture", "setting", "versions", "git_revision"), "U"),
    **dict.fromkeys(("dropout", "weight_decay", "train_error", "train_loss", "test_error"), "n"),
    **dict.fromkeys(("batch", "n_train", "n_samples", "seed", "epochs"), "i"),
    "fitted": "b",
    **dict.fromkeys(("sigma", "delta_error", "std_error"), "f S"),
}
SIGMAS = (0.1, 0.2, 0.3, 0.5)
N_SAMPLES = 64  # perturbations at each σ, as in Fig. 7
NOISE = 0.5  # σ of the paper's figure
REGULARISERS = {"dropout": "dropout", "batch": "batch size", "weight_decay": "weight decay"}
# Names of the correlations, in words; those after the first two are of ranks among networks that share a regulariser.
KINDS = {"pearson": "Pearson r", "spearman": "Spearman ρ"} | {n: f"ρ, equal {word}" for n, word in REGULARISERS.items()}


@dataclass(frozen=True, eq=False)
class Network:
    """One trained network and the local energy around it.

    Attributes
    ----------
    name : str
    architecture : str
        What all networks that are compared share.
    dropout, weight_decay : float
    batch : int
    n_train : int
        Training images.
    train_error, train_loss, test_error : float
        Without dropout or noise.
    fitted : bool
        Whether the training loss is below the threshold at which training stops.
    sigma, delta_error, std_error : ndarray, shape (S,)
        Profile δE(σ) on training images and its standard error.
    n_samples : int
        Perturbations at each σ.
    setting : str
        JSON of everything that decides the result.
    versions, git_revision : str
    seed, epochs : int
        The training's; −1 where they are not known.
    """

    name: str
    architecture: str
    dropout: float
    batch: int
    weight_decay: float
    n_train: int
    train_error: float
    train_loss: float
    test_error: float
    fitted: bool
    sigma: NDArray[np.float64]
    delta_error: NDArray[np.float64]
    std_error: NDArray[np.float64]
    n_samples: int
    setting: str
    versions: str
    git_revision: str
    seed: int = -1
    epochs: int = -1

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation of the error over perturbations, shape (S,)."""
        return self.std_error * np.sqrt(self.n_samples)

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        check_layout(vars(self), LAYOUT)
        check_finite(vars(self), "sigma", "delta_error", "std_error")
        check_file_name("name", self.name)
        parse_json(self.setting)

    def save(self, path: str | os.PathLike) -> None:
        """Write to `path` (.npz), atomically; raises OSError as `bpflat.storage.save_npz`."""
        save_result(path, KIND, self)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Network:
        """Read what `save` wrote; raises FileNotFoundError or ValueError as `bpflat.storage.load_npz`."""
        return load_result(path, KIND, cls)


def load_networks(folder: Path) -> list[Network]:
    """Read the networks in `folder`, in the order of their names.

    Raises
    ------
    ValueError
        When there is none, or they cannot be compared: other architectures, images, or perturbations.
    """
    networks = [Network.load(path) for path in sorted(folder.glob("*.npz"))]
    if not networks:
        raise ValueError(f"{folder} holds no networks; give --data FILE to train them, or --pgdl FOLDER")
    for what in ("architecture", "n_train", "n_samples", "sigma"):
        values = {str(getattr(network, what)): network.name for network in networks}
        if len(values) > 1:
            raise ValueError(f"the networks in {folder} cannot be compared: their {what} differs, {values}")
    return networks


def correlations(networks: Sequence[Network], seed: int = 0) -> dict[str, list[Correlation]]:
    """Correlations between δE and test error of the fitted networks, at each σ.

    Returns
    -------
    dict
        Lists with an entry for each σ, by the keys of `KINDS`; NaN where no networks share a regulariser.

    Raises
    ------
    ValueError
        When fewer than 3 networks are fitted.
    """
    fitted = [network for network in networks if network.fitted]
    if len(fitted) < 3:
        raise ValueError(
            f"a correlation needs at least 3 networks that fit their training data; there are {len(fitted)}"
        )
    rng = np.random.default_rng(seed)
    test = np.array([network.test_error for network in fitted])
    alike = np.zeros(len(fitted))
    by_kind = {kind: [] for kind in KINDS}
    for delta in np.transpose([network.delta_error for network in fitted]):
        for kind in ("pearson", "spearman"):
            by_kind[kind].append(correlate(delta, test, alike, kind=kind, rng=rng))
        for name in REGULARISERS:
            groups = np.array([getattr(network, name) for network in fitted])
            ranks = centred_ranks(delta, groups), centred_ranks(test, groups)
            by_kind[name].append(correlate(*ranks, groups, kind="pearson", rng=rng))
    return by_kind


def place_of(networks: Sequence[Network], sigma: float) -> int:
    """Index of the networks' σ that is nearest to `sigma`."""
    return int(np.argmin(np.abs(networks[0].sigma - sigma)))


def profile_of(model: nn.Module, inputs, labels, *, subset: int | None, device: str) -> dict:
    """Fields of a `Network` that are its profile; every network sees the same perturbations."""
    subset = None if subset is None or subset >= len(labels) else subset
    options = {"subset": subset, "device": device, "batch_size": 250, "channels_last": True}
    profile = local_energy(model, (inputs, labels), SIGMAS, n_samples=N_SAMPLES, seed=0, **options)
    names = ("sigma", "delta_error", "std_error", "n_samples")
    return {name: getattr(profile, name) for name in names} | {"train_loss": profile.train_loss}


def provenance(setting: dict) -> dict:
    """Fields of a `Network` that say how it was made."""
    return {
        "setting": json.dumps(setting),
        "versions": json.dumps(library_versions()),
        "git_revision": git_revision(),
    }


@dataclass(frozen=True, kw_only=True)
class Grid:
    """VGG-like networks with every combination of dropout, batch size and weight decay, and how they are trained.

    Attributes
    ----------
    dropout, batch, weight_decay : tuple
        Values.
    width, blocks, convolutions, dense : int
        See `training.models.small.VGGLike`.
    n_train : int or None
        Training images; None for all.
    size : int
        Pixels to which images are shrunk; 0 leaves them.
    eta : float
        First learning rate, of a cosine that ends at 0 after `epochs`.
    epochs : int
        The most.
    stop_loss : float
        Training ends when the loss on the training images, without dropout, is lower: all that end so are compared at
        the same training loss.
    subset : int or None
        Training images that each perturbation sees.
    """

    dropout: tuple[float, ...]
    batch: tuple[int, ...]
    weight_decay: tuple[float, ...]
    width: int
    n_train: int | None
    eta: float
    epochs: int
    size: int = 0
    blocks: int = 3
    convolutions: int = 2
    dense: int = 128
    stop_loss: float = 0.01
    subset: int | None = None

    @property
    def architecture(self) -> str:
        """What the networks share, in a phrase."""
        pixels = self.size or 32
        return (
            f"{self.blocks} blocks of {self.convolutions} convolutions of width {self.width}, dense layer of "
            f"{self.dense}, {pixels}×{pixels} pixels"
        )

    def recipes(self) -> Iterator[Recipe]:
        """Recipes of all networks."""
        for dropout, batch, weight_decay in itertools.product(self.dropout, self.batch, self.weight_decay):
            yield Recipe(
                row=f"vgg-p{dropout:g}-b{batch}-wd{weight_decay:g}",
                column="baseline",
                model="vgg-like",
                data="cifar10",
                epochs=self.epochs,
                eta=Annealing(self.eta, self.epochs),
                batch=batch,
                weight_decay=weight_decay,
                nesterov=False,
                size=self.size,
                padding=0,
                flip=False,
                model_options={
                    "blocks": self.blocks,
                    "width": self.width,
                    "convolutions": self.convolutions,
                    "dense": self.dense,
                    "dropout": dropout,
                },
            )


GRIDS = {
    "quick": Grid(
        dropout=(0.0, 0.3, 0.5),
        batch=(16, 32, 64),
        weight_decay=(0.0, 1e-3, 3e-3),
        width=32,
        n_train=2000,
        size=16,
        eta=0.01,
        epochs=80,
        stop_loss=0.05,
        subset=250,
    ),
    "paper": Grid(  # the values of PGDL's task 1
        dropout=(0.0, 0.5),
        batch=(8, 32, 512),
        weight_decay=(0.0, 1e-3),
        width=512,
        n_train=None,
        eta=0.001,
        epochs=1200,
    ),
}


def train_missing(
    grid: Grid,
    folder: Path,
    *,
    data: Path,
    seeds: int = 1,
    device: str = "cpu",
    n_jobs: int = 1,
    progress: Callable[[DeepReport], None] = lambda report: None,
) -> None:
    """Train and measure the networks of `grid` that `folder` does not hold; their weights are not kept.

    Raises
    ------
    ValueError
        When `folder` holds a network of another setting.
    SweepError
        When trainings fail; the others are stored.
    OSError
        When data are missing or `folder` cannot be written.
    """
    trainings = {}
    for seed in range(seeds):
        for recipe in grid.recipes():
            path, setting = folder / f"{recipe.row}-seed{seed}.npz", _setting(grid, recipe, seed)
            if path.exists():
                require_same(path, parse_json(Network.load(path).setting), setting)
            else:
                options = {"scratch": path.with_suffix(""), "data": data, "device": device, "progress": progress}
                task = Task(path, path.stem, partial(train_and_measure, grid, recipe, seed, **options))
                trainings[task] = DeepTraining(recipe, options["scratch"], seed=seed)
    for task in carry_out(trainings, n_jobs=n_jobs):
        trainings[task].discard()


def _setting(grid: Grid, recipe: Recipe, seed: int) -> dict:
    return {
        "recipe": as_plain(recipe),
        "n_train": grid.n_train,
        "stop_loss": grid.stop_loss,
        "seed": seed,
        "sigmas": SIGMAS,
        "n_samples": N_SAMPLES,
        "subset": grid.subset,
    }


def train_and_measure(
    grid: Grid,
    recipe: Recipe,
    seed: int,
    *,
    scratch: Path,
    data: Path,
    device: str = "cpu",
    progress: Callable[[DeepReport], None] = lambda report: None,
) -> Network:
    """Train one network of `grid` until it fits its training images, and measure δE on these.

    The folder `scratch` keeps the training's checkpoints, and the weights until they are measured: not needed any more
    once the result is stored.
    """
    options = {"n_train": grid.n_train, "stop_loss": grid.stop_loss, "evaluate_every": grid.epochs}
    done = run(recipe, scratch, data=data, seed=seed, device=device, progress=progress, **options)
    model = make_model(recipe.model, **recipe.model_options)
    weights = load_tensors(scratch / f"{recipe.name}-seed{seed}.pt")
    model.load_state_dict(weights)
    images = load_images(recipe.data, data, n_train=grid.n_train)
    inputs = recipe.augmentation().plain(images.train_images, images.mean, images.std)
    profile = profile_of(model.eval(), inputs, images.train_labels, subset=grid.subset, device=device)
    return Network(
        name=recipe.row,
        architecture=grid.architecture,
        dropout=recipe.model_options["dropout"],
        batch=recipe.batch,
        weight_decay=recipe.weight_decay,
        seed=seed,
        epochs=done.epochs,
        n_train=done.n_train,
        train_error=done.train_error,
        test_error=done.test_error,
        fitted=done.train_loss < grid.stop_loss,
        **(profile | {"train_loss": done.train_loss}),
        **provenance(_setting(grid, recipe, seed)),
    )
