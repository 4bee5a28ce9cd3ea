"""The fully-connected committee machine (eq. 7): pre-activations, outputs and errors."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _floats(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:  # text, ragged lists, complex numbers
        raise ValueError(f"{name} must be an array of real numbers ({error})") from error


def check_weights(weights: ArrayLike) -> NDArray[np.float64]:
    """Return `weights` as float64, shape (..., K, N), or raise a ValueError that says what to mend."""
    weights = _floats("weights", weights)
    if weights.ndim not in (2, 3):
        raise ValueError(f"weights must have shape (K, N) or (R, K, N), not {weights.shape}")
    if weights.size == 0:
        raise ValueError(f"weights are empty: shape {weights.shape}")
    if weights.shape[-2] % 2 == 0:
        raise ValueError(f"weights have K = {weights.shape[-2]} hidden units; K must be odd: no tied votes")
    if not np.isfinite(weights).all():
        raise ValueError("weights contain NaN or infinite entries; was the training stable?")
    return weights


def check_patterns(patterns: ArrayLike, n_inputs: int) -> NDArray[np.float64]:
    """Return `patterns` as float64, shape (P, N), or raise a ValueError that says what to mend."""
    patterns = _floats("patterns", patterns)
    if patterns.ndim != 2:
        raise ValueError(f"patterns must have shape (P, N), not {patterns.shape}")
    if patterns.size == 0:
        raise ValueError(f"patterns are empty: shape {patterns.shape}")
    if patterns.shape[1] != n_inputs:
        raise ValueError(f"patterns have N = {patterns.shape[1]} inputs but weights have N = {n_inputs}")
    if not np.isfinite(patterns).all():
        raise ValueError("patterns contain NaN or infinite entries")
    return patterns


def check_labels(labels: ArrayLike, n_patterns: int) -> NDArray[np.float64]:
    """Return `labels` as float64 ±1, shape (P,), or raise a ValueError that says what to mend."""
    labels = _floats("labels", labels)
    if labels.shape != (n_patterns,):
        raise ValueError(f"labels must have shape ({n_patterns},) to match patterns, not {labels.shape}")
    if not np.isin(labels, (-1.0, 1.0)).all():
        raise ValueError("labels must be -1 or +1; map your two classes to them")
    return labels


def check_problem(
    weights: ArrayLike, patterns: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Check weights (..., K, N), patterns (P, N) and labels (P,) together and return them as float64."""
    weights = check_weights(weights)
    patterns = check_patterns(patterns, weights.shape[-1])
    return weights, patterns, check_labels(labels, len(patterns))


def fingerprint(weights: NDArray[np.float64]) -> str:
    """Sixteen hexadecimal digits that tell one checked reference (K, N) from another; kept with what is measured."""
    return hashlib.sha256(np.ascontiguousarray(weights).tobytes()).hexdigest()[:16]


def preactivations(weights: NDArray, patterns: NDArray) -> NDArray:
    """Hidden pre-activations ``h_k = Σ_i w_ki x_i / √N``, shape (..., P, K), of checked arrays."""
    return patterns @ np.swapaxes(weights, -1, -2) / np.sqrt(patterns.shape[1])


def vote(hidden: NDArray) -> NDArray[np.int8]:
    """Output ``sign Σ_k sign(h_k)`` of pre-activations (..., K), with sign(0) = +1; shape (...)."""
    return np.where(2 * np.count_nonzero(hidden >= 0, axis=-1) > hidden.shape[-1], 1, -1).astype(np.int8)


def predict(weights: ArrayLike, patterns: ArrayLike) -> NDArray[np.int8]:
    """Output of the committee machine (eq. 7).

    Parameters
    ----------
    weights : array_like, shape (K, N) or (R, K, N)
        K odd.  The scale of a row does not matter.
    patterns : array_like, shape (P, N)

    Returns
    -------
    ndarray of int8, shape (P,) or (R, P)
        ±1.  A hidden unit whose pre-activation is exactly 0 counts as +1.

    Raises
    ------
    ValueError
        Even K, wrong shapes, empty arrays, NaN or infinite entries.
    """
    weights = check_weights(weights)
    return vote(preactivations(weights, check_patterns(patterns, weights.shape[-1])))


def error(weights: ArrayLike, patterns: ArrayLike, labels: ArrayLike, *, balanced: bool = False):
    """Fraction of patterns that the committee machine gets wrong.

    Parameters
    ----------
    weights : array_like, shape (K, N) or (R, K, N)
    patterns : array_like, shape (P, N)
    labels : array_like, shape (P,)
        ±1.
    balanced : bool
        Average the error of the two classes instead of the patterns, so that a constant answer errs on 1/2.

    Returns
    -------
    float or ndarray of shape (R,)
        In [0, 1].

    Raises
    ------
    ValueError
        Bad input as in `predict`, labels other than ±1, or `balanced` with a class missing.
    """
    weights, patterns, labels = check_problem(weights, patterns, labels)
    wrong = vote(preactivations(weights, patterns)) != labels
    if balanced:
        if np.all(labels == labels[0]):
            raise ValueError("labels hold one class only; the balanced error needs both")
        rate = (wrong[..., labels > 0].mean(axis=-1) + wrong[..., labels < 0].mean(axis=-1)) / 2
    else:
        rate = wrong.mean(axis=-1)
    return float(rate) if weights.ndim == 2 else rate
