"""The local energy along the training of a deep network (Figs. 3 and 5)."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bpflat.arguments import check_count, check_grid, check_n_samples
from bpflat.flatness import local_energy
from training.deep.augment import Augmentation
from training.deep.images import Images
from training.deep.results import FlatnessHistory
from training.randomness import sequence


@dataclasses.dataclass(frozen=True)
class FlatnessPlan:
    """When and how the local energy is measured.

    Attributes
    ----------
    every : int
        Epochs between two measurements; the last epoch is always measured.
    sigmas : tuple of float
        Noise amplitudes σ.
    n_samples : int
        Draws at each σ.
    subset : int or None
        Training images that each draw sees, see `bpflat.flatness.local_energy`; all by default.

    Raises
    ------
    ValueError
        Bad values, each named.
    """

    every: int
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
    n_samples: int = 100
    subset: int | None = None

    def __post_init__(self):
        check_count("flatness-every", self.every)
        check_grid("flatness-sigmas", self.sigmas)
        check_n_samples(self.n_samples)
        if self.subset is not None:
            check_count("flatness-subset", self.subset)


@dataclasses.dataclass(frozen=True)
class FlatnessPoint:
    """One measurement: an entry of a `FlatnessHistory`, in plain numbers for checkpoints."""

    epoch: int
    delta_error: tuple[float, ...]
    std_error: tuple[float, ...]
    train_loss: float
    train_error: float
    test_error: float


def measure_flatness(
    model: nn.Module, images: Images, augmentation: Augmentation, plan: FlatnessPlan, *, seed: int, epoch: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """δE of `model` and its standard error, (S,) each, on training images that are augmented as in training.

    Draws are functions of (seed, epoch): a run that is resumed measures the same.
    """
    inputs = images.train_images
    if augmentation.is_plain:  # saves a pass at w for every draw
        inputs = augmentation.plain(inputs, images.mean, images.std)

    def augment(inputs: Tensor) -> Tensor:
        rng = np.random.default_rng(int(torch.randint(2**62, ())))  # torch's numbers are what local_energy seeds
        return augmentation(inputs, images.mean, images.std, rng)

    profile = local_energy(
        model,
        (inputs, images.train_labels),
        plan.sigmas,
        n_samples=plan.n_samples,
        seed=sequence(seed, 3, epoch),
        augment=None if augmentation.is_plain else augment,
        subset=None if plan.subset is None else min(plan.subset, len(images.train_labels)),
        device=images.train_images.device,
        split=False,
    )
    return tuple(profile.delta_error.tolist()), tuple(profile.std_error.tolist())


def as_history(points: Sequence[FlatnessPoint], plan: FlatnessPlan) -> FlatnessHistory:
    """Gather the measurements of one run."""
    columns = {name: np.array([getattr(p, name) for p in points]) for name in _COLUMNS}
    return FlatnessHistory(sigma=np.array(plan.sigmas), n_samples=plan.n_samples, **columns)


_COLUMNS = tuple(field.name for field in dataclasses.fields(FlatnessPoint))


def add_flatness_options(p: argparse.ArgumentParser) -> None:
    """Options that `flatness_plan` reads."""
    p.add_argument("--flatness-every", type=int, metavar="EPOCHS", help="measure the local energy this often")
    p.add_argument("--flatness-sigmas", type=float, nargs="+", metavar="σ", default=FlatnessPlan.sigmas)
    p.add_argument(
        "--flatness-samples", type=int, default=FlatnessPlan.n_samples, help="draws at each σ (default: 100)"
    )
    p.add_argument("--flatness-subset", type=int, help="training images that each draw sees (default: all)")


def flatness_plan(arguments: argparse.Namespace) -> FlatnessPlan | None:
    """What the command line asks for; None without --flatness-every."""
    if arguments.flatness_every is None:
        return None
    return FlatnessPlan(
        every=arguments.flatness_every,
        sigmas=tuple(arguments.flatness_sigmas),
        n_samples=arguments.flatness_samples,
        subset=arguments.flatness_subset,
    )
