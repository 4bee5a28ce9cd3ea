"""Newton-Krylov: solve ``change(x) = 0`` with GMRES for the linear systems and a line search on the norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, gmres

_KRYLOV = 60  # directions that a Newton step may use
_HALVINGS = 12  # of a Newton step, before it counts as failed
_DIFFERENCE = 1e-7  # largest move of an unknown in a difference quotient: half the digits of a float64


class Root(NamedTuple):
    """Where the iteration ended: x, ``change(x)``, what `change` gave beside it, and how it went."""

    point: NDArray[np.float64]
    residual: NDArray[np.float64]
    extra: Any
    converged: bool
    evaluations: int


def newton_krylov(
    change: Callable[[NDArray], tuple[NDArray, Any]],
    linearize: Callable[[NDArray, NDArray, Any], tuple[Callable, Callable | None]],
    point: NDArray[np.float64],
    *,
    tolerance: float,
    max_steps: int,
) -> Root:
    """Find x with ``max |change(x)| ≤ tolerance``.

    Parameters
    ----------
    change : callable
        x (n,) → (residual (n,), anything); a residual that is not finite marks an x that is not allowed.
    linearize : callable
        (x, residual, anything) → (product, preconditioner): the function direction → ``-change'(x) direction``, and an
        approximate inverse of it or None.
    point : ndarray, shape (n,)
        Where to start.
    tolerance : float
    max_steps : int

    Returns
    -------
    Root
        ``converged`` is False when no fraction of a step reduced the norm of the residual, or after `max_steps`.
    """
    residual, extra = change(point)
    evaluations = 1
    for _ in range(max_steps):
        norm = np.linalg.norm(residual)
        if not norm < np.inf or not np.abs(residual).max(initial=0) > tolerance:
            break
        product, precondition = linearize(point, residual, extra)
        operators = [
            f if f is None else LinearOperator((point.size, point.size), matvec=f, dtype=float)
            for f in (product, precondition)
        ]
        # Precise enough for superlinear convergence, no more.
        step, _ = gmres(
            operators[0], residual, M=operators[1], rtol=np.clip(norm, 1e-4, 1e-2), restart=_KRYLOV, maxiter=1
        )
        length = 1.0
        for _ in range(_HALVINGS):
            trial_residual, trial_extra = change(point + length * step)
            evaluations += 1
            if np.linalg.norm(trial_residual) < (1 - 1e-4 * length) * norm:
                break
            length /= 2
        else:
            break
        point, residual, extra = point + length * step, trial_residual, trial_extra
    converged = bool(np.abs(residual).max(initial=0) <= tolerance)
    return Root(point, residual, extra, converged, evaluations)


def directional_difference(function: Callable, at: NDArray, value: Any, direction: NDArray) -> Any:
    """``(function(at + h direction) - value)/h`` with a step h that keeps half the digits."""
    norm = np.abs(direction).max(initial=0)
    h = _DIFFERENCE / norm if norm > 0 else 1.0
    return (function(at + h * direction) - value) / h
