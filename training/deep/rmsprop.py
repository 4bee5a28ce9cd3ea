"""RMSprop as TensorFlow has it, with which EfficientNet was made (Tan & Le 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch


class TensorFlowRMSprop(torch.optim.Optimizer):
    """RMSprop with ε inside the root and η inside the momentum.

    The gradient is g, of which ``weight_decay * w`` is a part::

        s ← decay s + (1 − decay) g²        s = 1 at the start
        v ← momentum v + η g/√(s + ε)       v = 0
        w ← w − v

    torch's own has ``g/(√s + ε)``, s = 0 at the start, and multiplies v by the η of the moment.  Where gradients are
    small, √s far below √ε = 0.03, that makes steps up to 32 times larger.

    Parameters
    ----------
    params : iterable
        Parameters or groups of them.
    lr : float
        Learning rate η.
    decay, momentum, eps, weight_decay : float
        Those of EfficientNet's code by default.

    Raises
    ------
    ValueError
        An argument out of its range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        *,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
    ):
        for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0; got {value}")
        for name, value in {"decay": decay, "momentum": momentum}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be from 0 to below 1; got {value}")
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step; parameters without a gradient stay.  Returns what `closure` does, if it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"square_average": torch.ones_like(p), "velocity": torch.zeros_like(p)}
            squares, velocities = ([self.state[p][name] for p in params] for name in ("square_average", "velocity"))
            gradients = torch._foreach_add([p.grad for p in params], params, alpha=group["weight_decay"])
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["decay"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_addcdiv_(velocities, gradients, roots, group["lr"])
            torch._foreach_sub_(params, velocities)
        return loss
