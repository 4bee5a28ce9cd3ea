"""Flatness along the training: BatchNorm has the statistics of the images that the local energy is measured on."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bpflat.optim import batchnorm_statistics
from tests.stored import WEIGHTS, needs_published_networks
from tests.training.deep.toy_deep import Tiny, coloured_images, toy
from training import models
from training.deep.augment import Augmentation
from training.deep.flatness import FlatnessPlan, measure_flatness
from training.deep.images import load_images
from training.deep.schedules import Drops
from training.deep.trainer import begin, centre, train
from training.models.cifar_resnet import CifarResNet
from training.published.resnets import load_published


class Recorded(Augmentation):
    """Keeps what it has made."""

    def __call__(self, *arguments):
        made = super().__call__(*arguments)
        SEEN.append(made)
        return made


SEEN: list[torch.Tensor] = []


def recorded(augmentation):
    SEEN.clear()
    return Recorded(**{field.name: getattr(augmentation, field.name) for field in dataclasses.fields(augmentation)})


@torch.no_grad()
def misfit(stem, norm, inputs):
    """How far the mean of what comes into `norm` is from its running mean, in its running standard deviations."""
    mean = stem(inputs).mean((0, 2, 3))
    return ((mean - norm.running_mean).square() / norm.running_var).mean().sqrt().item()


@pytest.mark.parametrize("column", ["baseline", "rsgd", "esgd"])
def test_images_are_those_of_the_statistics(column, tmp_path, monkeypatch):
    """Augmented, for a network trained on augmented ones; plain, without augmentation."""
    monkeypatch.setitem(models.MODELS, "tiny", Tiny)
    images = load_images("cifar10", coloured_images(tmp_path / "toy.npz"))
    recipe = dataclasses.replace(toy(column, gamma0=0.1, padding=8), eta=Drops(0.0, ()), eta_prime=0.0)
    for augmentation in (recorded(recipe.augmentation()), Augmentation(flip=False)):
        state = begin(recipe, 10, 0, "cpu")
        train(state, images, augmentation, epochs=10, seed=0)
        SEEN.clear()
        with centre(state) as model:
            stem = nn.Sequential(model[0], model[1])
            before = model[2].running_mean.clone()
            measure_flatness(model, images, augmentation, FlatnessPlan(1, (0.1,), 8), seed=0, epoch=1)
            assert torch.equal(model[2].running_mean, before)
            plain = augmentation.plain(images.train_images, images.mean, images.std)
            if augmentation.is_plain:
                assert misfit(stem, model[2], plain) < 0.05
            else:
                assert misfit(stem, model[2], torch.cat(SEEN)) < 0.05 < 0.15 < misfit(stem, model[2], plain)


@needs_published_networks
def test_published_statistics_fit_the_images_that_flatness_is_measured_on(cifar10):
    """ResNet-20: statistics of augmented images are those it was trained with; those of plain images cost it dearly."""
    mean, std = (255 * torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = dataclasses.replace(load_images("cifar10", cifar10, n_train=500), mean=mean, std=std)
    model = load_published(CifarResNet(20), WEIGHTS / "resnet20-12fca82f.th").eval()
    augmentation = recorded(Augmentation(padding=4))
    measure_flatness(model, images, augmentation, FlatnessPlan(1, (0.05,), 2), seed=0, epoch=1)
    plain = augmentation.plain(images.train_images, mean, std)
    assert 2 * misfit(model.conv1, model.bn1, torch.cat(SEEN)) < misfit(model.conv1, model.bn1, plain)

    @torch.no_grad()
    def loss():
        return F.cross_entropy(model(plain), images.train_labels).item()

    published = loss()
    with batchnorm_statistics(model, [augmentation(images.train_images, mean, std, np.random.default_rng(0))]):
        assert loss() < published + 0.02
    with batchnorm_statistics(model, [plain]):
        assert loss() > published + 0.1
