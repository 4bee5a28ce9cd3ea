"""The networks of Table 1 and of Appendix B.3, and small ones for grey pictures, by name.

Those that torchvision has are taken from it, when they are asked for; the others are written here.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from training.models.cifar_resnet import CifarResNet
from training.models.from_torchvision import densenet121, efficientnet_b0, resnet18, resnet50
from training.models.pyramidnet import PyramidNet
from training.models.small import Perceptron, SmallConvNet, StridedConvNet, VGGLike


def _cifar_resnet(depth: int) -> Callable[[int], nn.Module]:
    return lambda num_classes: CifarResNet(depth, num_classes)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "smallconvnet": SmallConvNet,
    "resnet18": resnet18,
    "resnet18-imagenet-stem": lambda num_classes: resnet18(num_classes, cifar_stem=False),
    **{f"resnet{depth}": _cifar_resnet(depth) for depth in (20, 32, 44, 56, 110)},
    "pyramidnet272": lambda num_classes: PyramidNet(272, 200, num_classes),
    "efficientnet-b0": efficientnet_b0,
    "resnet50": resnet50,
    "densenet121": densenet121,
    "vgg-like": VGGLike,
    "perceptron": Perceptron,
    "strided-convnet": StridedConvNet,
}


def make_model(name: str, num_classes: int = 10, **options: object) -> nn.Module:
    """Return a new network, initialised from torch's global random numbers.

    Parameters
    ----------
    name : str
        A key of `MODELS`.  Inputs are float (B, 3, H, W): any size for networks that end in a mean over the image;
        32×32 for ``smallconvnet``; 64×64 (Tiny ImageNet) is what ``resnet50`` and ``densenet121`` are trained on in
        the paper, 224×224 (CIFAR rescaled) ``efficientnet-b0``.  Grey (B, 1, 28, 28) for ``perceptron`` and
        ``strided-convnet``.
    num_classes : int
        Logits that come out, shape (B, num_classes).
    **options
        Options of networks that have some, such as `training.models.small.VGGLike`.

    Raises
    ------
    ValueError
        When there is no such network, or `num_classes` is below 1.
    TypeError
        When it has no such option.
    ImportError
        When it is one of torchvision's and that is not installed.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}; got {name!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1; got {num_classes}")
    return MODELS[name](num_classes, **options)
