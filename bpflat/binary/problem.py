"""Checks that all of `bpflat.binary` share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bpflat.arguments import check_array, check_count, check_labels, check_patterns, check_problem
from bpflat.estimators.binary import is_one_size
from bpflat.estimators.problem import Inputs, Problem
from bpflat.estimators.tables import majority_vote

_Floats = NDArray[np.float64]


def check_binary(weights: ArrayLike, patterns: ArrayLike, labels: ArrayLike) -> tuple[_Floats, _Floats, _Floats]:
    """Check weights ±1 (..., K, N), patterns (P, N) and labels (P,) together and return them as float64."""
    weights, patterns, labels = check_problem(weights, patterns, labels, zero_rows=False)
    others = weights[np.abs(weights) != 1]
    if others.size:
        raise ValueError(
            f"weights must be -1 or +1; found {others[0]:g}.  Real weights have a Gaussian prior: bpflat.local_entropy"
        )
    return weights, patterns, labels


def check_unanchored(patterns: ArrayLike, labels: ArrayLike, n_hidden: int) -> Problem:
    """The problem of all machines of K units without a reference, that may make no error, of checked arguments."""
    n_hidden = check_count("n_hidden", n_hidden, at_most=10**4, why="units")
    if n_hidden % 2 == 0:
        raise ValueError(f"n_hidden is {n_hidden}; it must be odd: no tied votes")
    patterns = check_array("patterns", patterns, ("P", "N"), between=(-np.inf, np.inf))
    patterns = check_patterns(patterns, patterns.shape[1], zero_rows=False)
    labels = check_labels(labels, len(patterns))
    return Problem(
        Inputs(patterns), labels, None, np.zeros((n_hidden, len(patterns))), np.array(0), majority_vote(n_hidden)
    )


def check_one_size(patterns: _Floats, method: str) -> None:
    """Refuse patterns whose inputs are not 0 or ±c, for a method that counts them."""
    others = np.flatnonzero(~is_one_size(patterns))
    if others.size:
        raise ValueError(
            f"patterns: inputs of different sizes (the first in pattern {others[0]}), where method {method!r} counts "
            "those of one size, 0 or ±c; use another method"
        )
