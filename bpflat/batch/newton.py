"""Newton-Krylov for a batch of independent systems of the same size: `bpflat.newton`, in step.

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
from bpflat.newton import _DIFFERENCE, _HALVINGS, _KRYLOV
from bpflat.point import Point


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
        As in `bpflat.bp.solve_nodes` and `bpflat.ep.solve_ep`.

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
        product, precondition = family.linearize(x, residual, extra)
        # Precise enough for superlinear convergence, no more.
        step, directions = _gmres(product, precondition, residual, norm.clamp(1e-4, 1e-2))
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


def _gmres(product: Callable, precondition: Callable, b: Tensor, rtol: Tensor) -> tuple[Tensor, Tensor]:
    """Solve the systems from right-hand sides b (R, n) to relative residuals rtol (R,), preconditioned from the right.

    Returns solutions (R, n), and how many directions each used.
    """
    n_systems, n = b.shape
    norm = b.norm(dim=1)
    basis = torch.empty(n_systems, _KRYLOV + 1, n, dtype=torch.float32, device=b.device)
    basis[:, 0] = b / norm[:, None]
    triangle = np.zeros((n_systems, _KRYLOV, _KRYLOV))
    rotations: list[tuple[NDArray, NDArray]] = []
    goal, rest = (rtol * norm).cpu().numpy(), np.zeros((n_systems, _KRYLOV + 1))
    rest[:, 0] = norm.cpu().numpy()
    used = np.zeros(n_systems, dtype=np.int64)
    open_, rows = np.arange(n_systems), slice(None)
    for j in range(_KRYLOV):
        used[open_] = j + 1
        direction = precondition(basis[:, j])
        if len(open_) == n_systems:
            w = product(direction, slice(None)).float()
        else:  # those that have ended go on with nothing
            rows = torch.from_numpy(open_).to(b.device)
            w = torch.zeros_like(basis[:, 0])
            w[rows] = product(direction[rows], rows).float()
        known = basis[:, : j + 1]
        h = torch.zeros(n_systems, j + 2, device=b.device)
        for _ in range(2):  # twice is enough
            overlap = torch.bmm(known, w[:, :, None])
            w -= torch.bmm(overlap.mT, known)[:, 0]
            h[:, :-1] += overlap[:, :, 0]
        h[:, -1] = w.norm(dim=1)
        torch.div(w, h[:, -1:].clamp(min=1e-30), out=basis[:, j + 1])
        column = h[rows].cpu().double().numpy()
        for i, (cosine, sine) in enumerate(rotations):
            upper, lower = column[:, i].copy(), column[:, i + 1].copy()
            column[:, i] = cosine[open_] * upper + sine[open_] * lower
            column[:, i + 1] = cosine[open_] * lower - sine[open_] * upper
        radius = np.maximum(np.hypot(column[:, j], column[:, j + 1]), 1e-30)
        cosine, sine = np.ones(n_systems), np.zeros(n_systems)
        cosine[open_], sine[open_] = column[:, j] / radius, column[:, j + 1] / radius
        rotations.append((cosine, sine))
        column[:, j] = radius
        triangle[open_, : j + 1, j] = column[:, : j + 1]
        rest[open_, j + 1] = -sine[open_] * rest[open_, j]
        rest[open_, j] *= cosine[open_]
        open_ = open_[np.abs(rest[open_, j + 1]) > goal[open_]]
        if not len(open_):
            break
    size = used.max()
    triangle, rest = triangle[:, :size, :size], rest[:, :size].copy()
    unused = np.arange(size) >= used[:, None]
    rest[unused] = 0.0
    triangle[:, np.arange(size), np.arange(size)] += unused
    weights = torch.from_numpy(np.linalg.solve(triangle, rest[:, :, None])).to(basis)
    solution = precondition(torch.bmm(weights.mT, basis[:, :size])[:, 0])
    return solution.double(), torch.from_numpy(used).to(b.device)


def directional_differences(function: Callable, at: Tensor, value: Tensor, directions: Tensor) -> Tensor:
    """``(function(at + h directions) - value)/h`` row by row, with steps h that keep half the digits."""
    norm = directions.abs().amax(dim=1, keepdim=True)
    h = torch.where(norm > 0, _DIFFERENCE / norm, 1.0)
    return (function(at + h * directions) - value) / h.view(-1, *[1] * (value.ndim - 1))
