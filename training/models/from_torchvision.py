"""Networks that torchvision has, with the number of classes of our data; torchvision is imported when one is asked for.

Appendix C says Kaiming normal of all of them.  torchvision's convolutions are that already (by fan_out, DenseNet's by
fan_in); its dense layers are not, and get it here.
"""

from __future__ import annotations

import functools
from types import ModuleType

from torch import nn

from training.models.initialisation import kaiming_normal


def torchvision_models() -> ModuleType:
    """Return ``torchvision.models``, or raise an ImportError that says how to get it."""
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(
            f"this network is torchvision's, which cannot be imported ({error}); pip install bpflat[deep]"
        ) from error
    return models


def _made(name: str, num_classes: int, **options: object) -> nn.Module:
    model = getattr(torchvision_models(), name)(num_classes=num_classes, **options)
    kaiming_normal(model, (nn.Linear,))
    return model


def resnet18(num_classes: int = 10, *, cifar_stem: bool = True) -> nn.Module:
    """ResNet-18 (He et al. 2016).

    Parameters
    ----------
    num_classes : int
    cifar_stem : bool
        Begin with one 3×3 convolution of stride 1, as usual for 32×32 images, instead of ImageNet's 7×7 convolution
        and maximum, both of stride 2, which leave one pixel of 32×32 to the last stage.  The paper's test errors of
        12 to 13 % are those of ImageNet's stem.
    """
    model = _made("resnet18", num_classes)
    if cifar_stem:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def resnet50(num_classes: int = 200) -> nn.Module:
    """ResNet-50 (He et al. 2016), with the stem it has for ImageNet: 64×64 images reach the last stage as 2×2."""
    return _made("resnet50", num_classes)


def densenet121(num_classes: int = 200) -> nn.Module:
    """DenseNet-121 (Huang et al. 2017), with the stem it has for ImageNet."""
    return _made("densenet121", num_classes)


def efficientnet_b0(num_classes: int = 100) -> nn.Module:
    """EfficientNet-B0 (Tan & Le 2019), for 224×224 images, with its dropout 0.2 and stochastic depth 0.2.

    BatchNorm is that of its authors' code, with ε = 1e-3 and running statistics that keep 0.99 of themselves.
    """
    norm = functools.partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    return _made("efficientnet_b0", num_classes, norm_layer=norm)
