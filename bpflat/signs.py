"""Functions of weights ±1 that message passing and theory share: hyperbolic ones, and the entropy of a shell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlog1py

_Floats = NDArray[np.float64]


def log_cosh(x: _Floats | float) -> _Floats:
    """Logarithm of cosh x, which never overflows."""
    size = np.abs(x)
    return size + np.log1p(np.exp(-2 * size)) - np.log(2)


def sech(x: _Floats) -> _Floats:
    """1/cosh x, which never overflows."""
    decay = np.exp(-np.abs(x))
    return 2 * decay / (1 + decay**2)


def shell_entropy(distance: float | _Floats) -> _Floats:
    """``H(d) = -d log d - (1 - d) log(1 - d)``, log number per weight of the weights at Hamming distance d."""
    d = np.asarray(distance)
    return -xlog1py(d, d - 1) - xlog1py(1 - d, -d)
