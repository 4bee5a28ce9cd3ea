"""PyramidNet with bottleneck blocks (Han et al. 2017) and ShakeDrop (Yamada et al. 2019), for CIFAR."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.initialisation import kaiming_normal

EXPANSION = 4  # channels that leave a bottleneck over those of its 3×3 convolution


def shake(x: Tensor, keep: float, alpha: tuple[float, float], beta: tuple[float, float]) -> Tensor:
    """Multiply x by b + α − bα on the way forward, its gradient by b + β − bβ on the way back.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
    keep : float
        Probability that b, one for the minibatch, is 1: nothing happens.
    alpha, beta : (float, float)
        Ranges of the uniform α and β, one for each image.
    """
    shape = (len(x), 1, 1, 1)
    kept = torch.rand((), device=x.device) < keep  # no branch: nothing waits for the device, and it compiles
    forward, backward = (
        torch.empty(shape, dtype=x.dtype, device=x.device).uniform_(*bounds).masked_fill(kept, 1.0)
        for bounds in (alpha, beta)
    )
    return backward * x + ((forward - backward) * x).detach()


class ShakeDrop(nn.Module):
    """`shake` while training; its expectation E[b + α − bα] else.

    Parameters
    ----------
    keep : float
        p_l = E[b] of this block.
    alpha, beta : (float, float)
        Ranges of `shake`; [-1, 1] and [0, 1] are those published for PyramidNet.
    """

    def __init__(self, keep: float, alpha: tuple[float, float] = (-1.0, 1.0), beta: tuple[float, float] = (0.0, 1.0)):
        super().__init__()
        if not 0 <= keep <= 1:
            raise ValueError(f"keep must be a probability; got {keep}")
        self.keep, self.alpha, self.beta = keep, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) multiplied."""
        if self.training:
            return shake(x, self.keep, self.alpha, self.beta)
        return x * (self.keep + (1 - self.keep) * sum(self.alpha) / 2)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"keep={self.keep:g}, alpha={self.alpha}, beta={self.beta}"


class PyramidBottleneck(nn.Module):
    """BN, 1×1, BN, ReLU, 3×3, BN, ReLU, 1×1, BN, ShakeDrop; the shortcut averages pixels and adds zero channels."""

    def __init__(self, in_channels: int, width: int, stride: int, keep: float):
        super().__init__()
        self.stride = stride
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(EXPANSION * width)
        self.shake_drop = ShakeDrop(keep)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, in, H, W) to (B, 4 width, H/stride, W/stride)."""
        out = self.conv1(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.bn4(self.conv3(F.relu(self.bn3(out))))
        out = self.shake_drop(out)
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return out + F.pad(x, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))


class PyramidNet(nn.Module):
    """PyramidNet of bottleneck blocks: images (B, 3, H, W), H and W multiples of 4, to logits (B, num_classes).

    Block l of the 3n = (depth − 2)/3 has width round(16 + α l/3n), and ShakeDrop with p_l = 1 − (1 − p_L) l/3n.

    Parameters
    ----------
    depth : int
        9n + 2, such as 272.
    alpha : int
        What is added to the width 16 from the first block to the last, such as 200.
    num_classes : int
    keep_last : float
        p_L; 0.5 as published, 1 for no ShakeDrop.

    Raises
    ------
    ValueError
        When `depth` is not 9n + 2 with n ≥ 1.
    """

    def __init__(self, depth: int, alpha: int, num_classes: int = 10, *, keep_last: float = 0.5):
        super().__init__()
        n, remainder = divmod(depth - 2, 9)
        if remainder or n < 1:
            raise ValueError(f"depth must be 9n + 2 with n ≥ 1, such as 272; got {depth}")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, channels = [], 16
        for block in range(1, 3 * n + 1):
            width = round(16 + alpha * block / (3 * n))
            stride = 2 if block in (n + 1, 2 * n + 1) else 1
            blocks.append(PyramidBottleneck(channels, width, stride, 1 - (1 - keep_last) * block / (3 * n)))
            channels = EXPANSION * width
        self.blocks = nn.Sequential(*blocks)
        self.bn_last = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        kaiming_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, num_classes)."""
        x = self.blocks(self.bn1(self.conv1(x)))
        return self.linear(F.relu(self.bn_last(x)).mean((2, 3)))
