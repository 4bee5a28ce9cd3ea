"""Residual networks for CIFAR-10 that others trained."""

from __future__ import annotations

import os

from bpflat.reading import reason
from bpflat.tensor_files import load_tensors
from training.models.cifar_resnet import CifarResNet


def load_published(model: CifarResNet, path: str | os.PathLike) -> CifarResNet:
    """Load weights published for CIFAR-10 by akamaster/pytorch_resnet_cifar10 (BSD-2-Clause) into `model`.

    Their keys carry the prefix ``module.``. Inputs must then be normalised by the mean (.485, .456, .406) and the
    standard deviation (.229, .224, .225) of the channels, in units of the full range.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is damaged or of another network.
    """
    saved = load_tensors(path)
    try:
        model.load_state_dict({name.removeprefix("module."): w for name, w in saved["state_dict"].items()})
    except Exception as error:  # of another network, or none: shows as nearly anything
        raise ValueError(f"{path} does not hold the weights of this network ({reason(error)})") from error
    return model
