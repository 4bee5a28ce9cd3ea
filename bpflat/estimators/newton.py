"""Newton-Krylov: solve ``change(x) = 0`` by linear systems for the steps and a line search on the norm.

`newton_krylov` treats one system, `newton_krylov_together` many that advance in step.  Neither knows what they are
about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from array_api_compat import device
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, gmres

from bpflat.estimators.arrays import Array, like, namespace, to_numpy

_KRYLOV = 60  # directions that a Newton step may use
_HALVINGS = 12  # of a Newton step, before it counts as failed
_DIFFERENCE = 1e-7  # largest move of an unknown in a difference quotient: half the digits of a float64

Operator = Callable[[Array], Array]  # directions (..., n) to directions


class System(Protocol):
    """The equations of one system, arrays (n,), or of R systems, arrays (R, n)."""

    product_cost: int
    """Evaluations of `change` that a product with the Jacobian takes."""

    def change(self, x: Array) -> tuple[Array, tuple[Array, ...]]:
        """Return the residual at x, infinite where x is not allowed, and arrays (R, ...) that `linearize` needs."""

    def linearize(self, x: Array, residual: Array, extra: Any) -> tuple[Operator, Operator | None]:
        """Return the product with ``-change'(x)``, and an approximate inverse of it or None for none."""

    def take(self, rows: NDArray[np.int64]) -> System:
        """Return the systems of these indices, which rise."""


class Root(NamedTuple):
    """Where the iteration ended: x, largest ``|change(x)|``, whether it converged, and evaluations of `change`.

    The latter three are arrays (R,) for R systems.  ``extra`` is what `change` gave beside the residual, for one.
    """

    x: Array
    residual: float | NDArray[np.float64]
    converged: bool | NDArray[np.bool_]
    evaluations: int | NDArray[np.int64]
    extra: Any = None


def newton_krylov(
    system: System, x: NDArray[np.float64], *, tolerance: float, max_steps: int, halvings: int = _HALVINGS
) -> Root:
    """Find x with ``max |change(x)| ≤ tolerance``.

    Parameters
    ----------
    system : System
    x : ndarray, shape (n,)
        Where to start.
    tolerance : float
    max_steps : int
    halvings : int
        Lengths of a step that are tried, each half as long as the one before.

    Returns
    -------
    Root
        Not ``converged`` when no fraction of a step reduced the norm of the residual, or after `max_steps`.
    """
    residual, extra = system.change(x)
    evaluations = 1
    for _ in range(max_steps):
        norm = np.linalg.norm(residual)
        if not norm < np.inf or not np.abs(residual).max(initial=0) > tolerance:
            break
        product, precondition = system.linearize(x, residual, extra)

        def counted(direction, product=product):
            nonlocal evaluations
            evaluations += system.product_cost
            return product(direction)

        jacobian, inverse = (f and LinearOperator((x.size, x.size), f, dtype=float) for f in (counted, precondition))
        # Precise enough for superlinear convergence, no more.
        step, _ = gmres(jacobian, residual, M=inverse, rtol=np.clip(norm, 1e-4, 1e-2), restart=_KRYLOV, maxiter=1)
        length = 1.0
        for _ in range(halvings):
            trial, trial_extra = system.change(x + length * step)
            trial_norm = np.linalg.norm(trial)
            evaluations += trial_norm != np.inf  # where x is not allowed, nothing was evaluated
            if trial_norm < (1 - 1e-4 * length) * norm:
                break
            length /= 2
        else:
            break
        x, residual, extra = x + length * step, trial, trial_extra
    largest = float(np.abs(residual).max(initial=0))
    return Root(x, largest, largest <= tolerance, int(evaluations), extra)


def newton_krylov_together(system: System, x: Array, *, tolerance: float, max_steps: int) -> Root:
    """`newton_krylov` for R systems in step, each until it converges or none of its steps helps; x has shape (R, n).

    Systems that have ended are left out.  Krylov spaces grow together, in single precision, which is enough for a
    direction; residuals are evaluated in double precision.
    """
    state = _state(x, system.change(x))  # x, residual and extra of the systems in `rows`
    ended, largest = _copy(x), _largest(state[1])
    rows, evaluations = np.arange(len(x)), np.ones(len(x), dtype=np.int64)
    for _ in range(max_steps):
        norm = _norms(state[1])
        keep = np.flatnonzero((norm < np.inf) & (_largest(state[1]) > tolerance))
        system, rows, norm, state = system.take(keep), rows[keep], norm[keep], _rows(state, keep)
        if not len(rows):
            break

        def linearize(members, system=system, state=state):
            at, residual, *extra = _rows(state, members)
            return system.take(members).linearize(at, residual, extra)

        # Precise enough for superlinear convergence, no more.
        step, directions = _gmres(linearize, state[1], np.clip(norm, 1e-4, 1e-2))
        evaluations[rows] += system.product_cost * directions
        length, pending = np.ones(len(rows)), np.arange(len(rows))
        accepted = [_copy(values) for values in state]
        for _ in range(_HALVINGS):
            trial = state[0][pending] + like(length[pending, None], x) * step[pending]
            trial_state = _state(trial, system.take(pending).change(trial))
            evaluations[rows[pending]] += 1
            good = _norms(trial_state[1]) < (1 - 1e-4 * length[pending]) * norm[pending]
            for values, tried in zip(accepted, _rows(trial_state, np.flatnonzero(good)), strict=True):
                values[pending[good]] = tried
            pending = pending[~good]
            if not len(pending):
                break
            length[pending] /= 2
        state = accepted
        ended[rows], largest[rows] = state[0], _largest(state[1])
        keep = np.setdiff1d(np.arange(len(rows)), pending)  # of the others no fraction of a step helped
        system, rows, state = system.take(keep), rows[keep], _rows(state, keep)
    return Root(ended, largest, largest <= tolerance, evaluations)


def directional_difference(function: Operator, at: Array, value: Array, directions: Array) -> Array:
    """``(function(at + h direction) - value)/h`` of each system, with steps h that keep half the digits.

    Directions have shape (..., n), function and value (..., m) or more dimensions.
    """
    xp = namespace(at)
    norm = xp.max(xp.abs(directions), axis=-1, keepdims=True)
    h = _DIFFERENCE / xp.where(norm > 0, norm, xp.ones_like(norm))
    return (function(at + h * directions) - value) / xp.reshape(h, h.shape + (1,) * (value.ndim - h.ndim))


def _state(x: Array, changed: tuple[Array, tuple[Array, ...]]) -> list[Array]:
    return [x, changed[0], *changed[1]]


def _copy(array: Array) -> Array:
    return namespace(array).asarray(array, copy=True)


def _rows(arrays: Sequence[Array], rows: NDArray[np.int64]) -> list[Array]:
    """Rows of arrays, by indices that rise."""
    return [a if len(rows) == len(a) else a[rows] for a in arrays]


def _norms(vectors: Array) -> NDArray[np.float64]:
    return to_numpy(namespace(vectors).linalg.vector_norm(vectors, axis=-1))


def _largest(vectors: Array) -> NDArray[np.float64]:
    xp = namespace(vectors)
    return np.array(to_numpy(xp.max(xp.abs(vectors), axis=-1)))


def _gmres(
    linearize: Callable[[NDArray[np.int64]], tuple[Operator, Operator | None]], b: Array, rtol: NDArray[np.float64]
) -> tuple[Array, NDArray[np.int64]]:
    """Solve systems for right-hand sides b (R, n) to relative residuals rtol (R,), preconditioned from the right.

    `linearize` makes (product, preconditioner) of the systems of some indices.  Systems that are solved go on with
    the others until these are a half; then they leave.  Returns solutions (R, n), and how many directions each used.
    """
    xp = namespace(b)
    solution, used = xp.zeros_like(b), np.zeros(len(b), dtype=np.int64)
    members = np.arange(len(b))  # the systems whose Krylov spaces are growing
    product, precondition = linearize(members)
    norm = _norms(b)
    basis = xp.empty((len(b), _KRYLOV + 1, b.shape[1]), dtype=xp.float32, device=device(b))
    basis[:, 0] = b / like(norm[:, None], b)
    goal, remainder = rtol * norm, np.zeros((len(b), _KRYLOV + 1))
    remainder[:, 0] = norm
    triangle, rotations = np.zeros((len(b), _KRYLOV, _KRYLOV)), np.zeros((len(b), _KRYLOV, 2))
    is_open = np.ones(len(b), dtype=bool)
    for j in range(_KRYLOV):
        used[members[is_open]] = j + 1
        column = _orthogonalize(product(precondition(basis[:, j]) if precondition else basis[:, j]), basis, j)
        for i in range(j):
            column[:, i], column[:, i + 1] = _rotate(rotations[:, i], column[:, i], column[:, i + 1])
        radius = np.maximum(np.hypot(column[:, j], column[:, j + 1]), 1e-30)
        rotations[:, j] = column[:, j : j + 2] / radius[:, None]
        triangle[:, :j, j], triangle[:, j, j] = column[:, :j], radius
        remainder[:, j], remainder[:, j + 1] = _rotate(rotations[:, j], remainder[:, j], 0.0)
        is_open &= np.abs(remainder[:, j + 1]) > goal
        if 2 * np.count_nonzero(is_open) <= len(members) or j == _KRYLOV - 1:
            weights = _back_substitute(triangle, remainder, used[members], j + 1).astype(np.float32)
            step = (like(weights, b) @ basis[:, : j + 1])[:, 0]
            # of systems that stay open, to be replaced
            solution[members] = xp.astype(precondition(step) if precondition else step, b.dtype)
            if not is_open.any():
                break
            keep = np.flatnonzero(is_open)
            members, basis = members[keep], basis[keep]
            triangle, rotations, remainder, goal = (a[keep] for a in (triangle, rotations, remainder, goal))
            is_open = is_open[keep]
            product, precondition = linearize(members)
    return solution, used


def _orthogonalize(vectors: Array, basis: Array, j: int) -> NDArray[np.float64]:
    """Make direction j + 1 of `basis` (R, _KRYLOV + 1, n) from vectors; returns overlaps and norm, (R, j + 2)."""
    xp = namespace(basis)
    known, overlaps = basis[:, : j + 1], 0.0
    vectors = xp.astype(vectors, basis.dtype)
    for _ in range(2):  # twice is enough; once is not, in single precision
        overlap = (known @ vectors[:, :, None])[:, :, 0]
        vectors = vectors - (overlap[:, None, :] @ known)[:, 0]
        overlaps = overlaps + overlap
    norm = xp.linalg.vector_norm(vectors, axis=1, keepdims=True)
    basis[:, j + 1] = vectors / xp.where(norm > 1e-30, norm, xp.full_like(norm, 1e-30))
    return to_numpy(xp.concat([overlaps, norm], axis=1)).astype(np.float64)


def _rotate(rotation: NDArray, upper: NDArray, lower: NDArray | float) -> tuple[NDArray, NDArray]:
    """Apply Givens rotations (cosine, sine) (R, 2)."""
    cosine, sine = rotation.T
    return cosine * upper + sine * lower, cosine * lower - sine * upper


def _back_substitute(triangle: NDArray, remainder: NDArray, used: NDArray, size: int) -> NDArray[np.float64]:
    """Weights (R, 1, size) of the directions, of which each system takes as many as it used."""
    unused = np.arange(size) >= used[:, None]
    square = np.where(unused[:, None, :] | unused[:, :, None], np.eye(size), triangle[:, :size, :size])
    return np.linalg.solve(square, np.where(unused, 0.0, remainder[:, :size])[:, :, None]).swapaxes(1, 2)
