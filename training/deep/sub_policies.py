"""Sub-policies of image operations, as found by AutoAugment and Fast AutoAugment, for whole minibatches.

Draws are made on the host and pixels moved on the device, see `training.deep.augment`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpflat.reading import read_json


class Step(NamedTuple):
    """One operation of a sub-policy.

    Attributes
    ----------
    name : str
        A key of `OPERATIONS`.
    probability : float
        Probability with which an image undergoes it.
    values : (float, float)
        One of the two is drawn, equally often.  Shear: a fraction; translation: a fraction of the size; rotation:
        degrees; posterize: bits kept; solarize: the first value inverted; enhancements: the factor, 1 for no change;
        cutout: a fraction of the size.
    """

    name: str
    probability: float
    values: tuple[float, float]


Policy = tuple[tuple[Step, ...], ...]


def beside(array: NDArray, images: Tensor) -> Tensor:
    """The same numbers as a tensor beside `images`; no waiting for the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(images.device, non_blocking=True)


# Operations: uint8 images (B, C, H, W) and one value an image (B,) to images.


def _warp(images: Tensor, matrices: NDArray) -> Tensor:
    """Pixel (x, y) becomes that of the image at matrix (2, 3) times (x, y, 1), the nearest; black outside."""
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device, dtype=torch.float64) + 0.5
    y = torch.arange(height, device=images.device, dtype=torch.float64)[:, None] + 0.5
    m = beside(matrices, images)[..., None, None]
    source_x = torch.floor(m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]).long()
    source_y = torch.floor(m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]).long()
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    index = torch.where(inside, source_y * width + source_x, 0)
    flat = images.flatten(2)
    moved = flat.gather(2, index.flatten(1)[:, None].expand_as(flat)).view_as(images)
    return moved * inside[:, None]


def _matrices(a=1.0, b=0.0, c=0.0, d=0.0, e=1.0, f=0.0) -> NDArray[np.float64]:
    rows = np.stack(np.broadcast_arrays(a, b, c, d, e, f), axis=-1).astype(np.float64)
    return rows.reshape(-1, 2, 3)


def _shear_x(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return _warp(images, _matrices(b=values))


def _shear_y(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return _warp(images, _matrices(d=values))


def _translate_x(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return _warp(images, _matrices(c=-values * images.shape[3]))


def _translate_y(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return _warp(images, _matrices(f=-values * images.shape[2]))


def _rotate(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    """Counterclockwise, by degrees, around the centre."""
    x, y = images.shape[3] / 2, images.shape[2] / 2
    cos, sin = np.cos(np.radians(values)), np.sin(np.radians(values))
    return _warp(images, _matrices(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def _blend(images: Tensor, degenerate: Tensor | float, values: NDArray) -> Tensor:
    """`degenerate` where the factor is 0, the images where it is 1, and beyond them; cut to 0..255, rounded down."""
    factor = beside(values.astype(np.float32), images)[:, None, None, None]
    return (factor * images + (1 - factor) * degenerate).clamp_(0, 255).to(torch.uint8)


def _brightness(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return _blend(images, 0.0, values)


def _color(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return _blend(images, _functional().rgb_to_grayscale(images), values)


def _contrast(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    grey = _functional().rgb_to_grayscale(images).float()
    return _blend(images, grey.mean((1, 2, 3), keepdim=True).round(), values)


def _sharpness(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return _blend(images, _functional().adjust_sharpness(images, 0.0), values)


def _posterize(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    masks = 256 - 2 ** (8 - values.astype(np.int64))
    return images & beside(masks.astype(np.uint8), images)[:, None, None, None]


def _solarize(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    threshold = beside(values.astype(np.float32), images)[:, None, None, None]
    return torch.where(images >= threshold, 255 - images, images)


def _auto_contrast(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return _functional().autocontrast(images)


def _equalize(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return _functional().equalize(images)


def _invert(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    return 255 - images


def _grey_square(images: Tensor, values: NDArray, rng: np.random.Generator) -> Tensor:
    """The CutOut of Fast AutoAugment: a square of the mean colour of ImageNet around a uniform point."""
    inside = []
    for length in images.shape[-2:]:
        first = np.floor(np.maximum(rng.uniform(0, length, len(images)) - values * length / 2, 0))
        last = np.minimum(first + values * length, length)
        pixel = np.arange(length)
        inside.append((first[:, None] <= pixel) & (pixel <= last[:, None]) & (values[:, None] > 0))
    rows, columns = inside
    colour = torch.tensor([125, 123, 114], dtype=torch.uint8, device=images.device)[:, None, None]
    return torch.where(beside(rows[:, None, :, None] & columns[:, None, None, :], images), colour, images)


def _functional():
    try:
        from torchvision.transforms.v2 import functional
    except ImportError as error:
        raise ImportError(
            f"policies need torchvision, which cannot be imported ({error}); pip install bpflat[deep]"
        ) from error
    return functional


OPERATIONS: dict[str, Callable[[Tensor, NDArray, np.random.Generator], Tensor]] = {
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Cutout": _grey_square,
}
_NAMES = list(OPERATIONS)
MIRRORED = frozenset({"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"})  # as often one way as the other
ENHANCEMENTS = frozenset({"Brightness", "Color", "Contrast", "Sharpness"})


@functools.lru_cache(maxsize=8)
def _table(policy: Policy) -> tuple[NDArray, NDArray, NDArray]:
    """Number of the operation and probability (sub-policies, steps), and values (sub-policies, steps, 2)."""
    names = np.array([[_NAMES.index(step.name) for step in steps] for steps in policy])
    probabilities = np.array([[step.probability for step in steps] for steps in policy], dtype=np.float64)
    return names, probabilities, np.array([[step.values for step in steps] for steps in policy], dtype=np.float64)


def apply_policy(images: Tensor, policy: Policy, rng: np.random.Generator) -> Tensor:
    """Give each of the uint8 images (B, 3, H, W) a sub-policy, uniformly; do each of its steps with its probability.

    Images that undergo the same operation do so together, each with its own value.
    """
    if not policy:
        return images
    names, probabilities, values = _table(policy)
    which = rng.integers(0, len(policy), len(images))
    images = images.clone()
    for step in range(names.shape[1]):
        done = rng.random(len(images)) < probabilities[which, step]
        drawn = values[which, step, rng.integers(0, 2, len(images))]
        for number in np.unique(names[which, step][done]):
            members = np.flatnonzero(done & (names[which, step] == number))
            chosen = beside(members, images)
            images[chosen] = OPERATIONS[_NAMES[number]](images[chosen], drawn[members], rng)
    return images


@functools.lru_cache
def autoaugment_cifar10(size: int = 32) -> Policy:
    """AutoAugment's 25 sub-policies found on CIFAR-10 (Cubuk et al. 2018), from torchvision, for `size`² pixels.

    Levels 0 to 9 become values as torchvision's: translations go up to 150/331 of the size, in whole pixels, and an
    enhancement is as often 1 − 0.1·level as 1 + 0.1·level. (The code released with the paper spreads levels otherwise.)
    """
    _functional()
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    policies = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    return tuple(tuple(Step(name, p, _levels(name, level, size)) for name, p, level in steps) for steps in policies)


def _levels(name: str, level: int | None, size: int) -> tuple[float, float]:
    """Values of one of AutoAugment's levels 0 to 9."""
    x = (level or 0) / 9
    if name in ENHANCEMENTS:
        return 1 + 0.9 * x, 1 - 0.9 * x
    if name in MIRRORED:
        value = {"Shear": 0.3 * x, "Trans": int(150 / 331 * size * x) / size, "Rotat": 30 * x}[name[:5]]
        return value, -value
    value = {"Posterize": 8.0 - round(4 * x), "Solarize": 255 * (1 - x)}.get(name, 0.0)
    return value, value


# Least and greatest values of Fast AutoAugment's operations (Lim et al. 2019): a level from 0 to 1 lies between them.
FAST_RANGES = {
    "ShearX": (-0.3, 0.3),
    "ShearY": (-0.3, 0.3),
    "TranslateX": (-0.45, 0.45),
    "TranslateY": (-0.45, 0.45),
    "Rotate": (-30.0, 30.0),
    "AutoContrast": (0.0, 1.0),
    "Invert": (0.0, 1.0),
    "Equalize": (0.0, 1.0),
    "Solarize": (0.0, 256.0),
    "Posterize": (4.0, 8.0),
    "Contrast": (0.1, 1.9),
    "Color": (0.1, 1.9),
    "Brightness": (0.1, 1.9),
    "Sharpness": (0.1, 1.9),
    "Cutout": (0.0, 0.2),
}


@functools.lru_cache
def fast_autoaugment_imagenet() -> Policy:
    """Fast AutoAugment's 498 sub-policies found on reduced ImageNet (Lim et al. 2019; training/policies/README.md)."""
    return read_policy(Path(__file__).parents[1] / "policies" / "fast-autoaugment-imagenet.json")


def read_policy(path: str | os.PathLike) -> Policy:
    """Read the sub-policies of Fast AutoAugment from a JSON file: a list of lists of [operation, probability, level].

    A level from 0 to 1 lies between the least and the greatest value of its operation, `FAST_RANGES`.

    Raises
    ------
    OSError
        When there is no such file.
    ValueError
        When it does not hold sub-policies of equally many steps, operations that are known, and probabilities and
        levels from 0 to 1.
    """
    content = read_json(path)
    try:
        policy = tuple(tuple(_fast_step(*step) for step in steps) for steps in content)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no list of lists of [operation, probability, level] ({error})") from error
    if not policy or len({len(steps) for steps in policy}) != 1 or not policy[0]:
        raise ValueError(f"{path} must hold sub-policies, all of equally many steps")
    return policy


def _fast_step(name: str, probability: float, level: float) -> Step:
    low, high = FAST_RANGES[name]
    if not (0 <= probability <= 1 and 0 <= level <= 1):
        raise ValueError(f"probability and level of {name} must be from 0 to 1, not {probability} and {level}")
    value = low + level * (high - low)
    return Step(name, probability, (value, -value if name in MIRRORED else value))
