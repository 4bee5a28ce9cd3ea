"""Grids of VGG-like networks that are trained to the same loss and measured: what Fig. 7 is drawn from."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bpflat.arguments import check_count, check_scalar
from bpflat.provenance import Provenance
from bpflat.tensor_files import load_tensors
from figures.measure.networks import N_SAMPLES, SIGMAS, Network, profile_of
from training.deep import run
from training.deep.images import SOURCES, load_images
from training.deep.recipes import Recipe, as_plain
from training.deep.schedules import Annealing
from training.deep.trainer import DeepReport
from training.deep.training import DeepTraining
from training.models import make_model
from training.result_file import is_missing
from training.workers import Task, carry_out


@dataclass(frozen=True, kw_only=True)
class Grid:
    """VGG-like networks with every combination of some hyper-parameters, and how they are trained.

    They share their architecture: local energies are "only comparable in the context of the same architecture" (B.3).

    Attributes
    ----------
    dropout, batch, weight_decay, eta : tuple
        Values of the hyper-parameters; learning rates are first ones, of a cosine that ends at 0 after `epochs`.
    width, blocks, convolutions, dense : int
        See `training.models.small.VGGLike`.
    n_train : int or None
        Training images; None for all.
    size : int
        Pixels to which images are shrunk; 0 leaves them.
    epochs : int
        The most.
    stop_loss : float
        Training ends when the loss on the training images, without dropout, is lower: all that end so are compared at
        the same training loss.
    subset : int or None
        Training images that each perturbation sees.
    bfloat16 : bool
        Autocast forward passes of the training, see `training.deep.training.DeepTraining`.

    Raises
    ------
    ValueError
        Bad values, each named.
    """

    dropout: tuple[float, ...]
    batch: tuple[int, ...]
    weight_decay: tuple[float, ...]
    width: int
    n_train: int | None
    eta: tuple[float, ...]
    epochs: int
    size: int = 0
    blocks: int = 3
    convolutions: int = 2
    dense: int = 128
    stop_loss: float = 0.01
    subset: int | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "convolutions", "dense"):
            check_count(name, getattr(self, name), at_most=10**5)
        for batch in self.batch:
            check_count("batch", batch)
        for dropout in self.dropout:
            check_scalar("dropout", dropout, at_least=0.0, below=1.0)
        for weight_decay in self.weight_decay:
            check_scalar("weight_decay", weight_decay, at_least=0.0)
        for eta in self.eta:
            check_scalar("eta", eta, above=0.0)
        check_scalar("stop_loss", self.stop_loss, above=0.0)
        check_count("size", self.size, at_least=0, at_most=SOURCES["cifar10"].size)
        check_count("epochs", self.epochs, at_most=10**6)

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
        axes = self.dropout, self.batch, self.weight_decay, self.eta
        for dropout, batch, weight_decay, eta in itertools.product(*axes):
            rate = f"-eta{eta:g}" if len(self.eta) > 1 else ""
            yield Recipe(
                row=f"vgg-p{dropout:g}-b{batch}-wd{weight_decay:g}{rate}",
                column="baseline",
                model="vgg-like",
                data="cifar10",
                epochs=self.epochs,
                eta=Annealing(eta, self.epochs),
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
        eta=(0.01,),
        epochs=80,
        stop_loss=0.05,
        subset=250,
    ),
    "large": Grid(
        dropout=(0.0, 0.3, 0.5),
        batch=(16, 32, 64),
        weight_decay=(0.0, 1e-3, 3e-3),
        eta=(0.005, 0.01),
        width=64,
        convolutions=1,
        n_train=10_000,
        epochs=60,
        stop_loss=0.3,
        subset=250,
        bfloat16=True,
    ),
    "paper": Grid(  # the values of PGDL's task 1
        dropout=(0.0, 0.5),
        batch=(8, 32, 512),
        weight_decay=(0.0, 1e-3),
        width=512,
        n_train=None,
        eta=(0.001,),
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
        When `folder` holds a network of another setting, or for bad `seeds`.
    SweepError
        When trainings fail; the others are stored.
    OSError
        When data are missing or `folder` cannot be written.
    """
    seeds, trainings = check_count("seeds", seeds, at_most=1000), {}
    with contextlib.ExitStack() as claims:
        for seed in range(seeds):
            for recipe in grid.recipes():
                path, setting = folder / f"{recipe.row}-seed{seed}.npz", _setting(grid, recipe, seed)
                training = DeepTraining(recipe, path.with_suffix(""), seed=seed)
                if is_missing(path, setting, lambda path: Network.load(path).setting, claims):
                    options = {"scratch": training.out, "data": data, "device": device, "progress": progress}
                    task = Task(path, path.stem, partial(train_and_measure, grid, recipe, seed, **options))
                    trainings[task] = training
                else:
                    training.discard()  # what a killed run has left of it
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
        **({"bfloat16": True} if grid.bfloat16 else {}),  # later than the first stored networks
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
    once the result is stored.  On a CPU one thread does it all: networks train in processes of their own.
    """
    if device == "cpu":
        torch.set_num_threads(1)
    options = {name: getattr(grid, name) for name in ("n_train", "stop_loss", "bfloat16")}
    options |= {"evaluate_every": grid.epochs}
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
        eta=recipe.eta.start,
        seed=seed,
        epochs=done.epochs,
        n_train=done.n_train,
        train_error=done.train_error,
        test_error=done.test_error,
        fitted=done.train_loss < grid.stop_loss,
        seconds=done.wall_time,
        **(profile | {"train_loss": done.train_loss}),
        setting=json.dumps(_setting(grid, recipe, seed)),
        provenance=Provenance.here(),
    )
