"""How strongly replicas may be attracted before SGD overshoots their centre."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


def attraction_limit(K: int, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False) -> float:
    """Largest ``η K γ`` at which replicas under SGD, attracted at every K-th step, do not overshoot for ever.

    Without a loss, the distance u of a replica from the centre and its velocity s (times η) undergo a linear map from
    one interaction to the next.  With κ = η K γ, n = 1 for Nesterov's momentum μ and 0 without, c = μ for
    Nesterov's and 1 without, S = (1 − μ^K)/(1 − μ) and dampening δ::

        u ← (1 − n κ − c S (1 − δ) κ) u − c S μ s,      s ← μ^(K−1) (1 − δ) κ u + μ^K s

    Its eigenvalues leave the unit circle at −1, where 1 + trace + determinant = 0.

    Parameters
    ----------
    K : int
        Steps between interactions.
    momentum, dampening, nesterov
        Options of `torch.optim.SGD`.

    Returns
    -------
    float
        ``2 (1 + μ^K) / (n (1 + μ^K) + c S (1 − δ))``: 2 for plain SGD, 0.37 for K = 10 and Nesterov's μ = 0.9.

    Examples
    --------
    >>> from bpflat.optim import attraction_limit
    >>> attraction_limit(K=10)
    2.0
    >>> round(attraction_limit(K=10, momentum=0.9, nesterov=True), 2)
    0.37
    """
    decay = momentum**K
    steps = K if momentum == 1 else (1 - decay) / (1 - momentum)
    displaced = (momentum if nesterov else 1.0) * steps * (1 - dampening) + nesterov * (1 + decay)
    return 2 * (1 + decay) / displaced if displaced > 0 else math.inf


def require_stability(base: Optimizer, K: int, gamma: float) -> None:
    """Raise a ValueError if ``η K γ`` is beyond `attraction_limit` in a group of `base`, where that is an SGD.

    Learning rates that are tensors are taken on trust: to read one would wait for the device.
    """
    for group in base.param_groups if isinstance(base, torch.optim.SGD) else ():
        limit = attraction_limit(K, **{name: group[name] for name in ("momentum", "dampening", "nesterov")})
        if not isinstance(group["lr"], Tensor) and group["lr"] * K * gamma > limit:
            raise ValueError(
                f"gamma is too large: η K γ = {group['lr'] * K * gamma:.3g}, and beyond {limit:.3g} replicas overshoot "
                "their centre farther each time; let gamma grow less, lower K, or use coupling='decoupled'"
            )
