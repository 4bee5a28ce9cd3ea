"""The loss of the committee machine (eq. 8) and its slope, safe for any β and ω."""

from __future__ import annotations

import math

import torch

# e^±80 is near the ends of float32; beyond it tanh and the logistic function are saturated to the last bit.
_LARGEST_EXPONENT = 80.0

# Products of two tails can become denormal, which makes matrix products many times slower, and
# torch.set_flush_denormal reaches only threads that start after it.  So they are cut where they arise.
_SMALLEST_SLOPE = 1e-30


def pattern_loss(s: torch.Tensor, omega: float) -> torch.Tensor:
    """Loss ``f(s, ω) = −s/2 + log(2 cosh(ω s)) / (2ω)``, written so that nothing overflows.

    Parameters
    ----------
    s : Tensor
        Stability ``σ Σ_k tanh(β h_k) / √K`` of each pattern.
    omega : float
        Positive.

    Returns
    -------
    Tensor, shape of `s`
        Equal to ``max(−s, 0) + log(1 + e^(−2ω|s|)) / (2ω)``; never negative.
    """
    return s.neg().clamp_(min=0) + s.abs().mul_(-2 * omega).exp_().log1p_().div_(2 * omega)


def stability(z: torch.Tensor) -> torch.Tensor:
    """Stability ``s = Σ_k tanh(z_k / 2) / √K`` from ``z = 2 β σ h``, shape (M, K, P); returns (M, P)."""
    return torch.tanh(z / 2).sum(1) / math.sqrt(z.shape[1])


def descent_slopes_(z: torch.Tensor, omega: float, r: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Turn ``z = 2 β σ h`` into minus the slope of the loss, in place.

    Parameters
    ----------
    z : Tensor, shape (M, K, B)
        Overwritten by ``−(∂f/∂h_k) σ √K / (4β) = sech²(β h_k)/4 · 1/(1 + e^(2ωs))``.
    omega : float
        Positive.
    r, s : Tensor, shapes (M, K, B) and (M, 1, B)
        Scratch.

    Notes
    -----
    With ``r = 1/(1 + e^z)``, ``tanh(z/2) = 1 − 2r`` and ``sech²(z/2)/4 = e^z r²``.  The latter keeps its relative
    precision in both tails, where ``1 − tanh²`` cancels to zero from |βh| ≈ 9 on.  Only exp and arithmetic are used:
    they give an element the same bits wherever it lies in the tensor, which torch's sigmoid does not.
    """
    n_hidden = z.shape[1]
    z.clamp_(-_LARGEST_EXPONENT, _LARGEST_EXPONENT).exp_()
    torch.add(z, 1.0, out=r).reciprocal_()
    torch.sum(r, 1, keepdim=True, out=s)
    s.mul_(-2.0).add_(n_hidden).mul_(2 * omega / math.sqrt(n_hidden))  # 2ωs
    s.clamp_(max=_LARGEST_EXPONENT).exp_().add_(1.0).reciprocal_()
    z.mul_(r).mul_(r).mul_(s)
    return torch.nn.functional.threshold_(z, _SMALLEST_SLOPE, 0.0)
