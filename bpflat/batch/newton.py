"""Newton-Krylov around the references of a family, each a system of its own: `bpflat.estimators.newton`, in step.

Systems that have ended leave the family.  Within a Newton step the Krylov spaces grow together; they are kept in single
precision, which is enough for a direction, while residuals are evaluated in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpflat.batch.family import Family, Status
from bpflat.estimators.newton import _DIFFERENCE, _HALVINGS, _KRYLOV
from bpflat.estimators.point import Point


def solve_family(
    family: Family,
    deltas: Sequence[float],
    starts: Sequence[Point | None],
    *,
    tolerance: float = 1e-9,
    max_steps: int = 40,
) -> list[Point]:
    """Find the fixed points around R references, each at its own Δ.

    Parameters
    ----------
    family : Family
        From `bpflat.batch.make_family`.
    deltas : sequence of float, length R
        Prior variances Δ > 0.
    starts : sequence of Point or None, length R
        Earlier results for the same references at a nearby Δ.
    tolerance, max_steps
        As in `bpflat.bp.solve_nodes` and `bpflat.estimators.ep.solve_ep`.

    Returns
    -------
    list of Point
        Their ``messages`` are tensors (K, P) on the device.
    """
    with torch.inference_mode():
        family = family.at(deltas)
        x, status = _newton(family, family.begin([s and s.messages for s in starts]), tolerance, max_steps)
        return family.points(x, status)


def _newton(family: Family, x: Tensor, tolerance: float, max_steps: int) -> tuple[Tensor, Status]:
    """Where each iteration from x (R, n) ended: where it converged, or where no step reduced its residual."""
    residual, extra = family.change(x)
    ended, largest = x.clone(), residual.abs().amax(dim=1)
    rows = torch.arange(len(x), device=x.device)
    sweeps = torch.ones(len(x), dtype=torch.int64, device=x.device)
    for _ in range(max_steps):
        norm = residual.norm(dim=1)
        going = (norm < torch.inf) & (residual.abs().amax(dim=1) > tolerance)
        if not going.all():
            keep = going.nonzero()[:, 0]
            family, rows, norm = family.take(keep), rows[keep], norm[keep]
            x, residual, extra = x[keep], residual[keep], _rows(extra, keep)
        if not len(rows):
            break

        def linearize(some, family=family, state=(x, residual, extra)):
            return family.take(some).linearize(*(t[some] for t in state[:2]), _rows(state[2], some))

        # Precise enough for superlinear convergence, no more.
        step, directions = _gmres(linearize, residual, norm.clamp(1e-4, 1e-2))
        sweeps[rows] += family.product_sweeps * directions
        length = torch.ones_like(norm)
        pending = torch.arange(len(rows), device=x.device)
        new_x, new_residual, new_extra = x.clone(), residual.clone(), tuple(t.clone() for t in extra)
        for _ in range(_HALVINGS):
            trial = x[pending] + length[pending, None] * step[pending]
            trial_residual, trial_extra = family.take(pending).change(trial)
            sweeps[rows[pending]] += 1
            good = trial_residual.norm(dim=1) < (1 - 1e-4 * length[pending]) * norm[pending]
            done = pending[good]
            new_x[done], new_residual[done] = trial[good], trial_residual[good]
            for new, tried in zip(new_extra, trial_extra, strict=True):
                new[done] = tried[good]
            pending = pending[~good]
            if not len(pending):
                break
            length[pending] /= 2
        x, residual, extra = new_x, new_residual, new_extra
        ended[rows], largest[rows] = x, residual.abs().amax(dim=1)
        if len(pending):  # no fraction of their step reduced the residual
            keep = torch.ones(len(rows), dtype=torch.bool, device=x.device)
            keep[pending] = False
            keep = keep.nonzero()[:, 0]
            family, rows = family.take(keep), rows[keep]
            x, residual, extra = x[keep], residual[keep], _rows(extra, keep)
    largest = largest.cpu().numpy()
    return ended, Status(largest, largest <= tolerance, sweeps.cpu().numpy())


def _rows(tensors: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, ...]:
    return tuple(t[rows] for t in tensors)


Operator = Callable[[Tensor], Tensor]  # directions (R, n) to directions


def _gmres(linearize: Callable[[Tensor], tuple[Operator, Operator]], b: Tensor, rtol: Tensor) -> tuple[Tensor, Tensor]:
    """Solve systems for right-hand sides b (R, n) to relative residuals rtol (R,), preconditioned from the right.

    `linearize` makes (product, preconditioner) of the systems of some indices.  Systems that are solved go on with
    the others until these are a half; then they leave.  Returns solutions (R, n), and how many directions each used.
    """
    solution, used = torch.empty_like(b), np.zeros(len(b), dtype=np.int64)
    here = np.arange(len(b))  # the systems whose Krylov spaces are growing
    product, precondition = linearize(torch.from_numpy(here).to(b.device))
    norm = b.norm(dim=1)
    basis = torch.empty(len(b), _KRYLOV + 1, b.shape[1], dtype=torch.float32, device=b.device)
    basis[:, 0] = b / norm[:, None]
    goal, rest = (rtol * norm).cpu().numpy(), np.zeros((len(b), _KRYLOV + 1))
    rest[:, 0] = norm.cpu().numpy()
    triangle, rotations = np.zeros((len(b), _KRYLOV, _KRYLOV)), np.zeros((len(b), _KRYLOV, 2))
    is_open = np.ones(len(b), dtype=bool)
    for j in range(_KRYLOV):
        used[here[is_open]] = j + 1
        w = product(precondition(basis[:, j])).float()
        column = _orthogonalize(w, basis, j)
        for i in range(j):
            column[:, i], column[:, i + 1] = _rotate(rotations[:, i], column[:, i], column[:, i + 1])
        radius = np.maximum(np.hypot(column[:, j], column[:, j + 1]), 1e-30)
        rotations[:, j] = column[:, j : j + 2] / radius[:, None]
        triangle[:, :j, j], triangle[:, j, j] = column[:, :j], radius
        rest[:, j], rest[:, j + 1] = _rotate(rotations[:, j], rest[:, j], 0.0)
        is_open &= np.abs(rest[:, j + 1]) > goal
        if 2 * np.count_nonzero(is_open) <= len(here) or j == _KRYLOV - 1:
            weights = _back_substitute(triangle, rest, used[here], j + 1)
            found = precondition(torch.bmm(torch.from_numpy(weights).to(basis).mT, basis[:, : j + 1])[:, 0])
            solution[torch.from_numpy(here).to(b.device)] = found.double()  # of those that stay, to be replaced
            if not is_open.any():
                break
            keep = torch.from_numpy(np.flatnonzero(is_open)).to(b.device)
            here, basis = here[is_open], basis[keep]
            triangle, rotations, rest, goal = (a[is_open] for a in (triangle, rotations, rest, goal))
            is_open = is_open[is_open]
            product, precondition = linearize(torch.from_numpy(here).to(b.device))
    return solution, torch.from_numpy(used).to(b.device)


def _orthogonalize(w: Tensor, basis: Tensor, j: int) -> NDArray[np.float64]:
    """Make direction j + 1 of `basis` (R, _KRYLOV + 1, n) from w (R, n); returns its overlaps and norm, (R, j + 2)."""
    known, overlaps = basis[:, : j + 1], 0.0
    for _ in range(2):  # twice is enough; once is not, in single precision
        overlap = torch.bmm(known, w[:, :, None])
        w -= torch.bmm(overlap.mT, known)[:, 0]
        overlaps = overlaps + overlap[:, :, 0]
    norm = w.norm(dim=1, keepdim=True)
    torch.div(w, norm.clamp(min=1e-30), out=basis[:, j + 1])
    return torch.cat([overlaps, norm], dim=1).cpu().double().numpy()


def _rotate(rotation: NDArray, upper: NDArray, lower: NDArray | float) -> tuple[NDArray, NDArray]:
    """Apply Givens rotations (cosine, sine) (R, 2)."""
    cosine, sine = rotation.T
    return cosine * upper + sine * lower, cosine * lower - sine * upper


def _back_substitute(triangle: NDArray, rest: NDArray, used: NDArray, size: int) -> NDArray[np.float64]:
    """Weights (R, size, 1) of the directions, of which each system takes as many as it used."""
    unused = np.arange(size) >= used[:, None]
    square = np.where(unused[:, None, :] | unused[:, :, None], np.eye(size), triangle[:, :size, :size])
    return np.linalg.solve(square, np.where(unused, 0.0, rest[:, :size])[:, :, None])


def directional_differences(function: Callable, at: Tensor, value: Tensor, directions: Tensor) -> Tensor:
    """``(function(at + h directions) - value)/h`` row by row, with steps h that keep half the digits."""
    norm = directions.abs().amax(dim=1, keepdim=True)
    h = torch.where(norm > 0, _DIFFERENCE / norm, 1.0)
    return (function(at + h * directions) - value) / h.view(-1, *[1] * (value.ndim - 1))
