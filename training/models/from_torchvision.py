"""Networks that torchvision has, with the number of classes of our data; torchvision is imported when one is asked for.

Their initialisation is torchvision's: Kaiming normal for all convolutions, as Appendix C says.
"""

from __future__ import annotations

from types import ModuleType

from torch import nn


def torchvision_models() -> ModuleType:
    """Return ``torchvision.models``, or raise an ImportError that says how to get it."""
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(
            f"this network is torchvision's, which cannot be imported ({error}); pip install bpflat[deep]"
        ) from error
    return models


def resnet18(num_classes: int = 10, *, cifar_stem: bool = True) -> nn.Module:
    """ResNet-18 (He et al. 2016).

    Parameters
    ----------
    num_classes : int
    cifar_stem : bool
        Begin with one 3×3 convolution of stride 1, as usual for 32×32 images, instead of ImageNet's 7×7 convolution
        and maximum, both of stride 2, which leave one pixel of 32×32 to the last stage. The paper does not say which
        it used.
    """
    model = torchvision_models().resnet18(num_classes=num_classes)
    if cifar_stem:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def resnet50(num_classes: int = 200) -> nn.Module:
    """ResNet-50 (He et al. 2016), with the stem it has for ImageNet: 64×64 images reach the last stage as 2×2."""
    return torchvision_models().resnet50(num_classes=num_classes)


def densenet121(num_classes: int = 200) -> nn.Module:
    """DenseNet-121 (Huang et al. 2017), with the stem it has for ImageNet."""
    return torchvision_models().densenet121(num_classes=num_classes)


def efficientnet_b0(num_classes: int = 100) -> nn.Module:
    """EfficientNet-B0 (Tan & Le 2019), for 224×224 images, with its dropout 0.2 and stochastic depth 0.2."""
    return torchvision_models().efficientnet_b0(num_classes=num_classes)
