"""The way from what users pass to `local_entropy` to the `Problem` that its estimators solve."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bpflat.arguments import check_array, check_count, check_problem, check_scale
from bpflat.bp import check_costs, check_counting
from bpflat.committee import fingerprints
from bpflat.estimators.problem import Problem
from bpflat.estimators.tables import OutputNode, TableNode
from bpflat.nodes import node_for


class Posed(NamedTuple):
    """A problem with all references (R, K, N), and how it was given.

    The weights (..., K, N), zeros where there is no reference; the scale of the prior in a word; whether there is none.
    """

    problem: Problem
    weights: NDArray[np.float64]
    scale: str
    is_free: bool

    @property
    def train_error(self) -> float | NDArray[np.float64]:
        """Fraction of the patterns that each reference gets wrong, or the one."""
        errors = self.problem.n_errors / self.problem.hidden.shape[-1]
        return float(errors[0]) if self.weights.ndim == 2 else errors

    @property
    def node(self) -> str:
        """Name of the output node, or that of its class."""
        return str(getattr(self.problem.node, "name", type(self.problem.node).__name__))

    @property
    def reference(self) -> str | NDArray[np.str_]:
        """Fingerprint of each reference, or of the one; empty where there is none."""
        return "" if self.is_free else fingerprints(self.weights)


def pose(
    weights: ArrayLike | None,
    patterns: ArrayLike,
    labels: ArrayLike,
    *,
    n_hidden: int | None,
    prior_scale: str | ArrayLike | None,
    node: OutputNode | None,
    check: bool,
    beta: float | None,
    betas: NDArray[np.float64] | None,
    method: str,
    device: str | None,
) -> Posed:
    """Check what is asked of a method, and pose it."""
    is_free = weights is None
    given = _no_reference(n_hidden, patterns) if weights is None else _check_reference(weights, n_hidden)
    w, patterns, labels = check_problem(
        given, patterns, labels, zero_rows=False, zero_weights=is_free, even=node is not None
    )
    node = node_for(node, w.shape[-2], check)
    check_costs(node, beta=beta, betas=betas)
    if device is not None and not isinstance(node, TableNode):
        raise ValueError("device is for the nodes of bpflat.nodes; leave it out for one of your own")
    scale_name, scale = check_scale(prior_scale, w)
    references = (-1, *w.shape[-2:])
    scale = None if scale is None else scale.reshape(references)
    problem = Problem.of(w.reshape(references), patterns, labels, node=node, beta=beta, scale=scale)
    if is_free:
        problem = replace(problem, n_errors=np.zeros_like(problem.n_errors))
    if method == "bp-edge":
        check_counting(node)
        _check_no_errors(problem)
    return Posed(problem, w, scale_name, is_free)


def _check_no_errors(problem: Problem) -> None:
    """Raise a ValueError where errors are to be allowed."""
    n_errors = problem.n_errors
    if problem.node.is_hard and np.any(n_errors):
        raise ValueError(
            f"weights: {np.count_nonzero(n_errors)} of {n_errors.size} references make training errors (the first: "
            f"{np.flatnonzero(n_errors)[0]}), which messages on edges cannot allow; use another method"
        )


def _no_reference(n_hidden: int | None, patterns: ArrayLike) -> NDArray[np.float64]:
    """Weights of zeros (K, N), the centre of the prior where there is no reference."""
    if n_hidden is None:
        raise ValueError("weights are None, which stands for no reference; then give n_hidden, the number K of units")
    n_hidden = check_count("n_hidden", n_hidden, at_most=10**4, why="units")
    return np.zeros((n_hidden, check_array("patterns", patterns, ("P", "N")).shape[1]))


def _check_reference(weights: ArrayLike, n_hidden: int | None) -> ArrayLike:
    """Return weights that were given without `n_hidden`, which they have."""
    if n_hidden is not None:
        raise ValueError("weights and n_hidden are both given; n_hidden is for weights=None, no reference")
    return weights
