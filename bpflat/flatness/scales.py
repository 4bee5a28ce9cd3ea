"""Scales of the noise: how large σ s⊙z is on each parameter."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

SCALES = ("multiplicative", "isotropic", "filter")
_MOST_TURNS = 1000
_BALANCED = 1e-10  # largest relative change of a turn that is left; scales then agree to about 1e-9


def scales_of(w: Iterable[Tensor], scale: str) -> list[Tensor]:
    """Scales s ≥ 0 of the noise on each of some parameters, of their shapes.

    Parameters
    ----------
    w : iterable of Tensor
    scale : {"multiplicative", "isotropic", "filter"}
        ``|w|``; 1; or the root of the mean square of a filter, balanced between the units that it comes from and the
        one that it leads to (see `filter_scale`), and ``|w|`` for biases and other parameters of one dimension.
    """
    functions = {"multiplicative": torch.abs, "isotropic": torch.ones_like, "filter": filter_scale}
    return [functions[scale](part.detach()) for part in w]


def filter_scale(w: Tensor) -> Tensor:
    """Scale ``s_ij = u_i v_j`` of output i and input j such that rows and columns of w/s have mean square 1.

    The norm of a filter over the root of its size, made invariant: where a ReLU unit is rescaled, its row of w is
    multiplied by a > 0 and its column in the next layer divided by it, and so are both scales.  (The plain norms of
    rows would not follow the column.)  A filter of a convolution is the block of one output and one input.  The
    balance is that of Sinkhorn; rows and columns of zeros have scale 0.
    """
    if w.ndim < 2:
        return w.abs()
    squares = w.double().square().reshape(*w.shape[:2], -1).mean(dim=2)
    rows, columns = squares.any(dim=1), squares.any(dim=0)
    s = torch.zeros_like(squares)
    if rows.any():
        s[rows.nonzero(), columns.nonzero().T] = _balanced(squares[rows][:, columns]).sqrt()
    return s.reshape(*s.shape, *[1] * (w.ndim - 2)).expand(w.shape).to(w.dtype)


def _balanced(squares: Tensor) -> Tensor:
    """Product ``u_i v_j`` such that rows and columns of squares/(u v) have mean 1, as nearly as some turns make it."""
    v = squares.new_ones(squares.shape[1])
    for _ in range(_MOST_TURNS):
        u = (squares / v).mean(dim=1)
        last, v = v, (squares / u[:, None]).mean(dim=0)
        if ((v / last - 1).abs() < _BALANCED).all():
            break
    return u[:, None] * v
