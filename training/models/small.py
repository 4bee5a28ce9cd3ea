"""The two small networks: the LeNet-like SmallConvNet of Appendix C.1 and the VGG-like network of B.3."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from training.models.initialisation import kaiming_normal


class SmallConvNet(nn.Sequential):
    """Conv(5×5, 20), MaxPool(2), Conv(5×5, 50), MaxPool(2), Dense(500), with ReLU, then the logits (C.1).

    Inputs (B, 3, 32, 32).  The convolutions are not padded, as LeNet's.  The initialisation is torch's own, as the
    paper says for this network alone.  ReLU stands after the maximum, with which it commutes, gradients too: there it
    sees a quarter of the values.
    """

    def __init__(self, num_classes: int = 10):
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(3, 20, 5),
                pool1=nn.MaxPool2d(2),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(20, 50, 5),
                pool2=nn.MaxPool2d(2),
                relu2=nn.ReLU(),
                flatten=nn.Flatten(),
                dense=nn.Linear(50 * 5 * 5, 500),
                relu3=nn.ReLU(),
                output=nn.Linear(500, num_classes),
            )
        )


class VGGLike(nn.Sequential):
    """Blocks of 3×3 convolutions and a maximum, then one dense layer: (B, 3, H, W) to logits (B, num_classes).

    B.3 has 3 blocks of width 512 and a dense layer of width 128, among models that differ in dropout. They are of task
    1 of the PGDL competition, whose description has two convolutions in a block and dropout after dense layers
    (https://github.com/google-research/google-research/tree/master/pgdl). The dense layer sees the mean over the image.

    Parameters
    ----------
    num_classes : int
    blocks, width, convolutions, dense : int
        Blocks, channels, convolutions in a block, units of the dense layer.
    dropout : float
        Probability of dropping a unit of the dense layer.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        blocks: int = 3,
        width: int = 512,
        convolutions: int = 2,
        dense: int = 128,
        dropout: float = 0.0,
    ):
        layers: list[nn.Module] = []
        in_channels = 3
        for _ in range(blocks):
            for _ in range(convolutions):
                layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
                in_channels = width
            layers.append(nn.MaxPool2d(2))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, dense), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(dense, num_classes))
        kaiming_normal(self)
        self.to(memory_format=torch.channels_last)  # half the time on a CPU
