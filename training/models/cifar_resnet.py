"""The residual networks for CIFAR of He et al. 2016, Section 4.2: depth 6n + 2, widths 16, 32, 64.

Shortcuts that change the shape have no parameters ("option A"): they skip every second pixel and pad channels with
zeros, so that all of a network's parameters are in its 6n + 1 convolutions, their batch normalisations and one dense
layer. Names of the parameters follow the weights that are publicly available for CIFAR-10
(`training.published.resnets`).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from training.models.initialisation import kaiming_normal

WIDTHS = (16, 32, 64)


def zero_padded_shortcut(x: Tensor, out_channels: int, stride: int) -> Tensor:
    """Every `stride`-th pixel of x (B, C, H, W), with zero channels before and after: (B, out_channels, H', W')."""
    missing = out_channels - x.shape[1]
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, missing // 2, missing - missing // 2))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, and what came in added to what comes out."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, in, H, W) to (B, out, H/stride, W/stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if out.shape != x.shape:
            x = zero_padded_shortcut(x, out.shape[1], self.conv1.stride[0])
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """Residual network of depth 6n + 2 for small images: (B, 3, H, W) to logits (B, num_classes).

    Parameters
    ----------
    depth : int
        6n + 2, such as 20, 32, 44, 56 or 110.
    num_classes : int

    Raises
    ------
    ValueError
        When `depth` is not 6n + 2 with n ≥ 1.
    """

    def __init__(self, depth: int, num_classes: int = 10):
        super().__init__()
        blocks, remainder = divmod(depth - 2, 6)
        if remainder or blocks < 1:
            raise ValueError(f"depth must be 6n + 2 with n ≥ 1, such as 20 or 110; got {depth}")
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], 1, blocks)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], 2, blocks)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], 2, blocks)
        self.linear = nn.Linear(WIDTHS[2], num_classes)
        kaiming_normal(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, num_classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(in_channels: int, out_channels: int, stride: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))
