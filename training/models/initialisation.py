"""Kaiming normal weights, as Appendix C says for all networks but SmallConvNet."""

from __future__ import annotations

from torch import nn


def kaiming_normal(model: nn.Module) -> None:
    """Draw the weights of convolutions and dense layers from N(0, 2/fan_in), biases 0, in place (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
