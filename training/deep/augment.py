"""Random crops, flips and CutOut, and sub-policies beside them, for whole minibatches where they lie.

What is drawn (offsets, sub-policies, magnitudes) is drawn on the host from a NumPy generator, so that nothing waits for
the device and a seed means the same on all of them; pixels are moved on the device. Each image of a minibatch
has its own draws, with the distribution of the per-image originals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.deep.sub_policies import Policy, apply_policy, beside


def crop(images: Tensor, padding: int, rng: np.random.Generator) -> Tensor:
    """Pad images (B, C, H, W) with zeros and cut (H, W) out of each at an offset uniform in 0..2·padding, twice."""
    if not padding:
        return images
    height, width = images.shape[-2:]
    top, left = beside(rng.integers(0, 2 * padding + 1, (2, len(images))), images)
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def flip(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each of the images (B, C, H, W), left to right, with probability ½."""
    mirrored = beside(rng.random(len(images)) < 0.5, images)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def cutout(images: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Set to zero a square around a pixel that is uniform over each of the images (B, C, H, W), cut at the border.

    A square of even size s covers s/2 pixels before its centre and s/2 − 1 after it (Devries & Taylor 2017).
    """
    if not size:
        return images
    inside = []
    for length in images.shape[-2:]:
        first = rng.integers(0, length, (len(images), 1)) - size // 2
        inside.append((first <= np.arange(length)) & (np.arange(length) < first + size))
    rows, columns = inside
    return images.masked_fill(beside(rows[:, None, :, None] & columns[:, None, None, :], images), 0)


def resize(images: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Make uint8 images (B, C, H, W) size × size, "bilinear" or "bicubic" as Pillow; 0 leaves them as they are."""
    if not size or images.shape[-2:] == (size, size):
        return images
    larger = F.interpolate(images.float(), (size, size), mode=interpolation, antialias=True)
    return larger.round_().clamp_(0, 255).to(torch.uint8)


def resize_whole(images: Tensor, size: int, interpolation: str = "bilinear", batch: int = 500) -> Tensor:
    """Make a whole data set size × size as `resize` does, `batch` images at a time."""
    if not size or images.shape[-2:] == (size, size):
        return images
    resized = images.new_empty((*images.shape[:2], size, size))
    for part, target in zip(images.split(batch), resized.split(batch), strict=True):
        target.copy_(resize(part, size, interpolation))
    return resized


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Make uint8 images (B, C, H, W) float32 with the mean and the standard deviation (C, 1, 1) taken out."""
    return (images - mean) / std


@dataclass(frozen=True)
class Augmentation:
    """What happens to a minibatch, in the order of the attributes: size, sub-policies, crop, flip, CutOut.

    Attributes
    ----------
    size : int
        Images are first made size × size; 0 leaves them.
    policy : tuple
        Sub-policies (`apply_policy`); empty for none.
    padding : int
        Zero-padding of the random crop; 0 for none.
    flip : bool
        Mirror every second image, at random.
    cutout : int
        Size of a square that is set to 0 after the normalisation; 0 for none.
    interpolation : {"bilinear", "bicubic"}
        Interpolation of the first resizing.
    policy_last : bool
        Sub-policies come after crop and flip instead of before them.
    """

    size: int = 0
    policy: Policy = ()
    padding: int = 0
    flip: bool = True
    cutout: int = 0
    interpolation: str = "bilinear"
    policy_last: bool = False

    def __call__(self, images: Tensor, mean: Tensor, std: Tensor, rng: np.random.Generator) -> Tensor:
        """Uint8 images (B, C, H, W) and their mean and std (C, 1, 1) to float32 (B, C, size, size)."""
        first, last = ((), self.policy) if self.policy_last else (self.policy, ())
        images = apply_policy(resize(images, self.size, self.interpolation), first, rng)
        images = crop(images, self.padding, rng)
        if self.flip:
            images = flip(images, rng)
        images = apply_policy(images, last, rng)
        return cutout(normalise(images, mean, std), self.cutout, rng)

    @property
    def is_plain(self) -> bool:
        """Whether nothing random happens."""
        return not (self.policy or self.padding or self.flip or self.cutout)

    def plain(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Only what test images undergo too: the size and the normalisation."""
        return normalise(resize(images, self.size, self.interpolation), mean, std)
