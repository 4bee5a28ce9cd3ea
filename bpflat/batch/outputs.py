"""The output nodes of many references at once: those of `bpflat.estimators` on tensors (R, K, P)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bpflat.estimators.kernels import _LIKELY, output_node
from bpflat.estimators.output_node import count_errors, price_errors, scaled


class Outputs(NamedTuple):
    """Derivatives g, Γ (R, K, P), log Z of all patterns (R,), and the mean number of errors at a cost β (R,)."""

    g: Tensor
    curvature: Tensor
    log_z: Tensor
    errors: Tensor


def output_nodes(omega: Tensor, variance: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """g, Γ (R, K, P) and log Z (R, P) from cavity means ω and variances V > 0 (R, K, P) and labels ±1 (P,)."""
    return (_by_kernel if omega.device.type == "cpu" else _by_tensors)(omega, variance, labels)


def _by_kernel(omega: Tensor, variance: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`output_nodes` on a CPU: the compiled kernel, whose rows are the patterns of all references."""
    shape = omega.movedim(1, -1).shape
    rows = (t.movedim(1, -1).reshape(-1, shape[-1]).numpy() for t in (omega, variance))
    g, curvature, log_z = map(torch.from_numpy, output_node(*rows, labels.repeat(shape[0]).numpy()))
    return *(t.view(shape).movedim(-1, 1).contiguous() for t in (g, curvature)), log_z.view(shape[:2])


def _by_tensors(omega: Tensor, variance: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`output_nodes` on a GPU: the sums of the compiled kernel, which gets patterns whose Z might underflow."""
    n_hidden = omega.shape[1]
    m = (n_hidden + 1) // 2
    root = variance.sqrt()
    y = labels * omega / root
    p, q = (0.5 * torch.special.erfc(s * math.sqrt(0.5) * y) for s in (-1, 1))
    agree = _count(p, q, range(n_hidden))
    disagree = _count(q, p, range(n_hidden - 1, -1, -1))
    success, fail = agree[-1][m:].sum(0), agree[-1][:m].sum(0)
    density = torch.exp(-0.5 * y * y - 0.5 * math.log(2 * math.pi))
    ratio = torch.empty_like(y)
    for k in range(n_hidden):
        # as many of the others agree as disagree: j agree before k, so m - 1 - k + j disagree after it
        before, after = agree[k], disagree[n_hidden - 1 - k]
        low, high = max(0, k + 1 - m), min(k, m - 1) + 1
        ratio[:, k] = (before[low:high] * after[m - 1 - k + low : m - 1 - k + high]).sum(0)
    ratio *= density / success[:, None]
    # the smaller of the two tails is the one known to full relative precision
    log_z = torch.where(fail < success, torch.log1p(-fail), success.log())
    hard = ~(success > _LIKELY)
    if hard.any():
        hard_y = y.movedim(1, -1)[hard].cpu().numpy()
        ratios, _, logs = output_node(hard_y, np.ones(hard_y.shape), np.ones(len(hard_y)))
        ratio.movedim(1, -1)[hard] = torch.from_numpy(ratios).to(y)
        log_z[hard] = torch.from_numpy(logs).to(y)
    return labels * ratio / root, ratio * (ratio + y) / variance, log_z


def _count(p: Tensor, q: Tensor, units) -> list[Tensor]:
    """Distributions (k + 1, R, P) of how many of the first k `units` say yes, for k = 0, 1, ..., K; p + q = 1."""
    counts = [torch.ones_like(p[:, 0])[None]]
    for unit in units:
        before = counts[-1]
        after = torch.empty(len(before) + 1, *before.shape[1:], dtype=p.dtype, device=p.device)
        torch.mul(before, q[:, unit], out=after[:-1])
        torch.mul(before[-1], p[:, unit], out=after[-1])
        after[1:-1].addcmul_(before[:-1], p[:, unit])
        counts.append(after)
    return counts


def tolerant_output_nodes(
    omega: Tensor, variance: Tensor, labels: Tensor, n_errors: np.ndarray, beta: float | None
) -> Outputs:
    """`output_nodes` that allow errors: n_errors (R,) of them, or any number at the cost β."""
    g, curvature, log_z = output_nodes(omega, variance, labels)
    if beta is None and not n_errors.any():
        return Outputs(g, curvature, log_z.sum(dim=1), torch.zeros_like(log_z[:, 0]))
    if beta is None:
        totals, pivotal = count_errors(log_z.cpu().numpy(), n_errors)
        errors = np.zeros(len(totals))
    else:
        totals, pivotal, errors = price_errors(log_z.cpu().numpy(), beta)
        totals, errors = totals.sum(axis=1), errors.sum(axis=1)
    totals, pivotal, errors = (torch.from_numpy(a).to(log_z.device) for a in (totals, pivotal, errors))
    return Outputs(*scaled(g, curvature, pivotal[:, None]), totals, errors)
