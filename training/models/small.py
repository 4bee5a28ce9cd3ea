"""Small networks: SmallConvNet of Appendix C.1, the VGG-like network of B.3, and two for the patterns of B.1."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

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


class Perceptron(nn.Sequential):
    """Dense layers with ReLU between them: inputs of any shape (B, ...) to logits (B, num_classes).

    Parameters
    ----------
    num_classes : int
    hidden : sequence of int
        Units of the hidden layers, from the inputs on.
    n_inputs : int
        Numbers of an input, a 28×28 picture by default.
    """

    def __init__(self, num_classes: int = 10, *, hidden: Sequence[int] = (16,), n_inputs: int = 28 * 28):
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, units in itertools.pairwise((n_inputs, *hidden)):
            layers += [nn.Linear(fan_in, units), nn.ReLU()]
        super().__init__(*layers, nn.Linear((n_inputs, *hidden)[-1], num_classes))
        kaiming_normal(self)


class PatchConv2d(nn.Conv2d):
    """A convolution without padding, as a product over patches.

    Grouped convolutions, which torch.func.vmap makes of many networks' at once, are slow on a CPU; products are not.
    """

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs (B, C, H, W) to outputs (B, D, H', W')."""
        (height, width), (down, right) = self.kernel_size, self.stride
        patches = inputs.unfold(2, height, down).unfold(3, width, right)  # (B, C, H', W', height, width)
        return torch.einsum("bchwij,dcij->bdhw", patches, self.weight) + self.bias[:, None, None]


class StridedConvNet(nn.Sequential):
    """Conv(4×4, width), Conv(3×3, 2 width) with strides 4 and 2 instead of a maximum, and ReLU, then the logits.

    Inputs (B, 1, 28, 28); the dense layer sees 3×3 places.
    """

    def __init__(self, num_classes: int = 10, *, width: int = 8):
        super().__init__(
            PatchConv2d(1, width, 4, stride=4),
            nn.ReLU(),
            PatchConv2d(width, 2 * width, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 3 * 3, num_classes),
        )
        kaiming_normal(self)
