"""Belief and expectation propagation around many references at once, through torch, on a CPU or a GPU.

All references share their patterns, so that one product with the Gram matrix serves them all, and none waits for Python
alone.  What is computed is what `bpflat.bp.solve_nodes` and `bpflat.estimators.ep.solve_ep` compute for one reference.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bpflat.batch.bp import BinaryBP, RealBP
from bpflat.batch.ep import FullEP
from bpflat.batch.family import Family
from bpflat.batch.newton import solve_family

__all__ = ["Family", "make_family", "solve_family"]


def make_family(
    method: str,
    weights: NDArray[np.float64],
    patterns: NDArray[np.float64],
    labels: NDArray[np.float64],
    *,
    n_errors: NDArray[np.int64],
    beta: float | None = None,
    device: torch.device | str = "cpu",
) -> Family:
    """Put R references and their patterns on a device, for `solve_family`.

    Parameters
    ----------
    method : {"bp", "ep"}
    weights : ndarray, shape (R, K, N)
        K odd.
    patterns : ndarray, shape (P, N)
        Any real inputs; fastest for ±1.
    labels : ndarray, shape (P,)
        ±1.
    n_errors : ndarray of int, shape (R,)
        Training errors that each reference makes and its solutions may make (see `bpflat.estimators.output_node`).
    beta : float, optional
        Cost of an error, where any number of them is allowed instead.
    device : torch.device or str
        It must know float64.
    """
    belief_propagation = BinaryBP if np.all(np.abs(patterns) == 1) else RealBP
    inputs = torch.tensor(patterns / np.sqrt(patterns.shape[1]), device=device)
    return {"bp": belief_propagation, "ep": FullEP}[method](
        inputs=inputs,
        gram=inputs @ inputs.T,
        labels=torch.tensor(labels, device=device),
        hidden=torch.tensor(weights, device=device) @ inputs.T,
        n_errors=n_errors,
        beta=beta,
        delta=torch.ones(len(weights), 1, 1, dtype=torch.float64, device=device),
    )
