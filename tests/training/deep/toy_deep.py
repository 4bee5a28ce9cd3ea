"""A small network, coloured noise to train it on, and short runs of recipes with both."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import nn

from training.deep import run
from training.deep.recipes import find_recipe
from training.deep.results import METRICS


class Tiny(nn.Sequential):
    """A network with BatchNorm and dropout for 8×8 pixels' means."""

    def __init__(self, classes):
        super().__init__(
            nn.AvgPool2d(8),
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(32, classes),
        )


def coloured_images(path, n_train=110):
    """Ten colours with noise, 60 test images of them, written to the file `path`, which is returned."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 215, (10, 1, 1, 3))
    arrays = {}
    for split, n in (("train", n_train), ("test", 60)):
        labels = np.arange(n) % 10
        noise = rng.integers(-40, 41, (n, 32, 32, 3))
        arrays |= {f"{split}_images": (colours[labels] + noise).astype(np.uint8), f"{split}_labels": labels}
    np.savez(path, **arrays)
    return path


def toy(column, **changes):
    recipe = find_recipe("resnet18-cifar10", column)
    if column == "esgd":  # the automatic γ₀ of so small a network is beyond what η' allows
        changes = {"gamma0": 0.5} | changes
    if column.startswith("rsgd"):  # and grown by 10⁴ it would throw replicas beyond their centre
        changes = {"gamma_growth": 300.0} | changes
    return dataclasses.replace(recipe, model="tiny", batch=20, **changes)


def short(recipe, out, data, epochs=4, **options):
    return run(recipe, out, data=data, epochs_scale=epochs / recipe.epochs, **options)


def stable(result):
    """Curves without times."""
    return np.delete(result.curves, [METRICS.index(name) for name in ("images_per_second", "seconds")], axis=1)


def read_events(folder):
    """Steps and values of every tag, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: np.array([(e.step, e.value) for e in events.Scalars(tag)]).T for tag in events.Tags()["scalars"]}
