"""Composite Gauss–Legendre quadrature whose panels shrink geometrically towards the places where an integrand turns."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx, log_ndtr, roots_legendre

_Floats = NDArray[np.float64]

ORDERS = (10, 14)
"""Nodes a panel: the first solves the saddle-point equations, the difference of both is the error that is reported."""

_REACH = 9.0  # standard deviations; a Gaussian has 1e-19 beyond
_NARROWEST = 1e-9


def line(turns: ArrayLike, widths: ArrayLike, order: int, *, beyond: ArrayLike = 0.0) -> tuple[_Floats, _Floats]:
    """Nodes and weights of ∫dx over the reach of a Gaussian, for R integrands at once.

    Parameters
    ----------
    turns, widths : array_like, shape (R, C)
        Where each integrand turns, and within which distance (above 1 counts as 1).
    order : int
        Nodes a panel.
    beyond : array_like, shape (R,)
        A point that the interval must reach beyond as well.

    Returns
    -------
    nodes, weights : ndarray, shape (R, M)
    """
    turns, widths = np.asarray(turns), np.fmin(np.fmax(widths, _NARROWEST), 1.0)  # NaN counts as 1
    n_levels = int(np.ceil(np.log2(8 / widths.min()))) + 1
    offsets = widths[..., None] * 2.0 ** np.arange(n_levels)
    around = np.concatenate([turns[..., None], turns[..., None] - offsets, turns[..., None] + offsets], axis=-1)
    beyond = np.broadcast_to(np.asarray(beyond, dtype=float), len(turns))[:, None]
    low, high = np.minimum(-_REACH, beyond - _REACH), np.maximum(_REACH, beyond + _REACH)
    even = np.broadcast_to(np.arange(-_REACH, _REACH + 1, 2.0), (len(turns), int(_REACH) + 1))
    ends = np.concatenate([low, high, even, around.reshape(len(turns), -1)], axis=-1)
    ends = np.sort(np.clip(ends, low, high), axis=-1)
    half = np.diff(ends)[..., None] / 2
    x, w = roots_legendre(order)
    nodes = ends[:, :-1, None] + half * (1 + x)
    return nodes.reshape(len(turns), -1), (half * w).reshape(len(turns), -1)


def gaussian_line(turns: ArrayLike, widths: ArrayLike, order: int) -> tuple[_Floats, _Floats]:
    """`line` with the density of a standard Gaussian in the weights: ∫Dx."""
    nodes, weights = line(turns, widths, order)
    return nodes, weights * np.exp(log_density(nodes))


def log_density(x: _Floats) -> _Floats:
    """Logarithm of the standard Gaussian density."""
    return -0.5 * x**2 - 0.5 * np.log(2 * np.pi)


def log_tail(x: _Floats) -> _Floats:
    """``ln H(x)``, H(x) the chance that a standard Gaussian exceeds x."""
    return log_ndtr(-x)


def hazard(x: _Floats) -> _Floats:
    """``−d ln H/dx``, the density over H(x)."""
    return np.sqrt(2 / np.pi) / erfcx(np.asarray(x) / np.sqrt(2))
