"""Patterns that may be wrong: the output node softened so that a reference's own number of errors is allowed.

Eq. 3 counts every w' that makes no more errors than w.  With the pattern factor ``e^{-β} + (1 - e^{-β}) 1[right]`` the
output node's Z becomes ``Z + e^{-β}(1 - Z)``; an error costs β, and β is chosen so that the mean number of errors is
the reference's.  Where the prior alone makes no more errors than that, nothing is constrained and β = 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, log_expit, logsumexp

from bpflat.bp.kernels import output_node


class Outputs(NamedTuple):
    """What the output nodes say: derivatives g, Γ (P, K), log Z_μ (P,), the cost β and the mean number of errors."""

    g: NDArray[np.float64]
    curvature: NDArray[np.float64]
    log_z: NDArray[np.float64]
    beta: float
    errors: float


def tolerant_output_node(omega, variance, labels, n_errors: int = 0, beta: float | None = None) -> Outputs:
    """`bpflat.bp.output_node` that allows errors.

    Parameters
    ----------
    omega, variance : ndarray, shape (P, K)
    labels : ndarray, shape (P,)
        As in `bpflat.bp.output_node`.
    n_errors : int
        Mean number of errors to balance β for; none means β = ∞.
    beta : float, optional
        Fixes β instead.
    """
    g, curvature, log_z = output_node(omega, variance, labels)
    if (beta is None and n_errors == 0) or beta == np.inf:
        return Outputs(g, curvature, log_z, np.inf, 0.0)
    odds = _log_odds_of_error(log_z)
    log_softness = -beta if beta is not None else balance(odds, n_errors)
    # P(right | softened factor) = (1 - e^{-β}) Z/(Z + e^{-β}(1 - Z)) scales the slope of log Z
    weight = (-np.expm1(log_softness) * expit(-(log_softness + odds)))[:, None]
    curvature = weight * curvature - weight * (1 - weight) * g**2
    soft_log_z = log_z - log_expit(-(log_softness + odds))
    return Outputs(weight * g, curvature, soft_log_z, 0.0 - log_softness, float(expit(log_softness + odds).sum()))


def balance(odds: NDArray[np.float64], n_errors: int) -> float:
    """Find log s ≤ 0 with ``Σ_μ sigmoid(log s + odds_μ) = n_errors``, from the log odds of an error (P,)."""
    if expit(odds).sum() <= n_errors:
        return 0.0
    ranked = np.sort(odds)
    right, wrong = ranked[:-n_errors], ranked[-n_errors:]  # n_errors largest odds: errors already

    def surplus(log_s):
        """Log of (errors too many among `right`)/(errors missing among `wrong`): well scaled even where both vanish."""
        return logsumexp(log_expit(log_s + right)) - logsumexp(log_expit(-log_s - wrong))

    lowest = -1.0 - max(wrong.min(), 0.0) - np.log(len(odds))
    while surplus(lowest) > 0:
        lowest *= 2
    return float(brentq(surplus, lowest, 0.0, xtol=1e-13, rtol=1e-15))


def _log_odds_of_error(log_z: NDArray[np.float64]) -> NDArray[np.float64]:
    """``log((1 - Z)/Z)``, limited where 1 - Z is below the smallest float."""
    return np.log(np.maximum(-np.expm1(log_z), 1e-300)) - log_z
