"""Passes per second of `training.deep`: ``python -m benchmarks.deep``.

One epoch of SmallConvNet's baseline (Appendix C.1: batch 128, crops and flips, SGD with Nesterov momentum), on noise in
place of CIFAR-10.  Printed are passes over 50,000 images per second, evaluation not counted, and their ratios to those

1. of a plain loop in torch at the same precision, float32 and bfloat16: the network as the paper writes it, memory laid
   out as torch does by default, the same minibatches, crops and flips;
2. of `training.deep` before: this layout and this network in the loop of today.

All take turns, and do the same steps: the weights that the first two reach are compared first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import median_seconds, verdict
from training.deep.images import SOURCES, Images, channel_statistics
from training.deep.recipes import find_recipe
from training.deep.schedules import Drops
from training.deep.trainer import State, begin, train
from training.randomness import augmentation_stream, minibatch_orders

_BASELINE = find_recipe("smallconvnet-cifar10", "baseline")
RECIPE = replace(_BASELINE, eta=Drops(_BASELINE.eta(0), ()))  # whatever is called its whole length here
PASS = SOURCES[RECIPE.data].n_train  # images
TOLERANCE = {False: 0.01, True: 0.1}  # of `disagreement`, without and with bfloat16: what rounding does in ten steps
ORDER = ("conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "dense", "relu3", "output")


def noise(n_images: int) -> Images:
    """Uint8 noise with labels, and one test image."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n_images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (n_images,), generator=generator)
    return Images("cifar10", 10, pixels, labels, pixels[:1], labels[:1], *channel_statistics(pixels))


def as_printed(model: nn.Module) -> nn.Sequential:
    """The same weights with ReLU before the maximum, in torch's default layout."""
    layers = OrderedDict((name, getattr(model, name)) for name in ORDER)
    return nn.Sequential(layers).to(memory_format=torch.contiguous_format)


def now() -> State:
    """What `training.deep` trains."""
    return begin(RECIPE, 10, 0, "cpu")


def before() -> State:
    """What it trained before."""
    state = now()
    model = as_printed(state.models[0])
    return State(RECIPE, state.replicas, [model], RECIPE.base_optimizer(model), state.gamma0)


def epoch(state: State, images: Images, *, bfloat16: bool = False) -> float:
    """Train one epoch more; its loss."""
    train(state, images, RECIPE.augmentation(), epochs=state.epoch + 1, seed=0, bfloat16=bfloat16)
    return state.curves[-1].train_loss


class PlainLoop:
    """What one writes without a trainer."""

    def __init__(self, bfloat16: bool = False):
        self.model, self.epoch, self.bfloat16 = as_printed(now().models[0]), 0, bfloat16
        self.optimizer = RECIPE.base_optimizer(self.model)

    def __call__(self, images: Images) -> float:
        """Train one epoch more; its loss."""
        augmentation, total = RECIPE.augmentation(), 0.0
        rng = augmentation_stream(0, 0, self.epoch, 0)
        for members in self._orders(len(images.train_labels)):
            inputs = augmentation(images.train_images[members], images.mean, images.std, rng)
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                loss = F.cross_entropy(self.model(inputs), images.train_labels[members])
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        self.epoch += 1
        return total / (len(images.train_labels) // RECIPE.batch)

    def _orders(self, n_patterns: int) -> Tensor:
        orders = minibatch_orders(0, 0, self.epoch, y=1, passes=1, n_patterns=n_patterns, batch=RECIPE.batch)
        return torch.as_tensor(np.squeeze(orders, 1))


def epochs(images: Images, *, bfloat16: bool = False) -> list[Callable[[], float]]:
    """One more epoch of today's training, of the plain loop, of the training before."""
    today, plain, old = now(), PlainLoop(bfloat16), before()
    return [
        lambda: epoch(today, images, bfloat16=bfloat16),
        lambda: plain(images),
        lambda: epoch(old, images, bfloat16=bfloat16),
    ]


def losses(n_images: int, *, bfloat16: bool = False) -> list[float]:
    """Loss of the first epoch of each."""
    return [train_epoch() for train_epoch in epochs(noise(n_images), bfloat16=bfloat16)]


def weights(model: nn.Module) -> Tensor:
    """Copy of all weights, in one row."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def disagreement(n_images: int, *, bfloat16: bool = False) -> float:
    """Distance of the plain loop's weights from those of `training.deep` after an epoch, over how far these went."""
    images, today, plain = noise(n_images), now(), PlainLoop(bfloat16)
    start = weights(today.models[0])
    epoch(today, images, bfloat16=bfloat16)
    plain(images)
    ends = [weights(model) for model in (today.models[0], plain.model)]
    return ((ends[1] - ends[0]).norm() / (ends[0] - start).norm()).item()


def main(repeats: int = 9) -> None:
    """Print the rates and ratios."""
    images = noise(10 * RECIPE.batch)
    print(f"SmallConvNet, CPU, {torch.get_num_threads()} threads")
    for bfloat16 in (False, True):
        precision = "bfloat16" if bfloat16 else "float32"
        apart = disagreement(len(images.train_labels), bfloat16=bfloat16)
        if apart > TOLERANCE[bfloat16]:
            raise AssertionError(f"{precision}: weights are {apart:.2g} of their way apart: another training is timed")
        today, plain, old = median_seconds(*epochs(images, bfloat16=bfloat16), repeats=repeats)
        rate = len(images.train_labels) / PASS / today
        print(f"{precision}: {rate:.3g} passes/s; the plain loop's weights agree to {apart:.1g} of their way")
        print(verdict(f"{precision}: training.deep over a plain loop", plain / today, 1.0))
        print(verdict(f"{precision}: training.deep over itself before", old / today, 1.4))


if __name__ == "__main__":
    main()
