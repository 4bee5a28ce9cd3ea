"""Kaiming normal weights, as Appendix C says for all networks but SmallConvNet."""

from __future__ import annotations

from torch import nn


def kaiming_normal(model: nn.Module, kinds: tuple[type, ...] = (nn.Conv2d, nn.Linear)) -> None:
    """Draw the weights of layers of these `kinds` from N(0, 2/fan_in), biases 0, in place (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, kinds):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
