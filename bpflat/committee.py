"""The fully-connected committee machine (eq. 7): pre-activations, outputs and errors."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bpflat.arguments import check_array, check_flag, check_patterns, check_problem, check_weights

__all__ = ["error", "fingerprint", "predict", "tree"]


def fingerprint(weights: NDArray[np.float64]) -> str:
    """Sixteen hexadecimal digits that tell one checked reference (K, N) from another; kept with what is measured.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat.committee import fingerprint
    >>> ones, zeros = np.ones((3, 5)), np.zeros((3, 5))
    >>> fingerprint(ones) == fingerprint(ones.copy()), fingerprint(ones) == fingerprint(zeros)
    (True, False)
    """
    return hashlib.sha256(np.ascontiguousarray(weights).tobytes()).hexdigest()[:16]


def fingerprints(weights: NDArray[np.float64]) -> str | NDArray[np.str_]:
    """`fingerprint` of one checked reference (K, N), or those (R,) of references (R, K, N)."""
    return fingerprint(weights) if weights.ndim == 2 else np.array([fingerprint(w) for w in weights])


def preactivations(weights: NDArray[np.float64], patterns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hidden pre-activations ``h_k = Σ_i w_ki x_i / √N``, shape (..., P, K), of checked arrays."""
    return patterns @ np.swapaxes(weights, -1, -2) / np.sqrt(patterns.shape[1])


def vote(hidden: NDArray[np.float64]) -> NDArray[np.int8]:
    """Output ``sign Σ_k sign(h_k)`` of pre-activations (..., K), with sign(0) = +1; shape (...)."""
    return np.where(2 * np.count_nonzero(hidden >= 0, axis=-1) > hidden.shape[-1], 1, -1).astype(np.int8)


def in_unit_range(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of `weights` (..., N), of any finite scale, times powers of two that bring largest entries into [1/2, 1).

    Nothing is rounded but entries below 1e-300 of the largest, so pre-activations keep their signs and ties stay ties.
    """
    return np.ldexp(weights, -_exponents(weights))


def _exponents(weights: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.frexp(np.abs(weights).max(axis=-1, keepdims=True))[1]


def normalised(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Checked weights (..., K, N), of any finite scale, with rows rescaled to ``|w_k|² = N``, and their scales.

    The scales ``|w_k|/√N``, shape (..., K), times these rows are the weights.  A row of zeros stays one, at scale 1.
    """
    rows = in_unit_range(weights)  # else squares might overflow, or underflow
    rms = np.sqrt(np.mean(rows**2, axis=-1, keepdims=True))
    rms[rms == 0] = 1.0
    return rows / rms, np.ldexp(rms, _exponents(weights))[..., 0]


def answers(weights: NDArray[np.float64], patterns: NDArray[np.float64]) -> NDArray[np.int8]:
    """Outputs, shape (..., P), of checked weights of any finite scale for checked patterns."""
    return vote(preactivations(in_unit_range(weights), patterns))


def predict(weights: ArrayLike, patterns: ArrayLike) -> NDArray[np.int8]:
    """Output of the committee machine (eq. 7).

    Parameters
    ----------
    weights : array_like, shape (K, N) or (R, K, N)
        Machines with K odd.  The scale of a row does not matter; any finite one will do.
    patterns : array_like, shape (P, N)
        Inputs x, of sizes between 1e-70 and 1e70, or zeros.

    Returns
    -------
    ndarray of int8, shape (P,) or (R, P)
        ±1.  A hidden unit whose pre-activation is exactly 0 counts as +1.

    Raises
    ------
    ValueError
        Even K, wrong shapes, empty arrays, NaN or infinite entries, arrays of anything but real numbers: complex,
        bool, masked, of dates, records, objects or text; tensors that are sparse, elsewhere or require gradients.

    Examples
    --------
    >>> from bpflat.committee import predict
    >>> predict([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[2.0, 1.0], [-1.0, -3.0]])
    array([ 1, -1], dtype=int8)
    """
    weights = check_weights(weights)
    return answers(weights, check_patterns(patterns, weights.shape[-1]))


def error(
    weights: ArrayLike, patterns: ArrayLike, labels: ArrayLike, *, balanced: bool = False
) -> float | NDArray[np.float64]:
    """Fraction of patterns that the committee machine gets wrong.

    Parameters
    ----------
    weights : array_like, shape (K, N) or (R, K, N)
    patterns : array_like, shape (P, N)
    labels : array_like, shape (P,)
        ±1.
    balanced : bool
        Average the error of the two classes instead of the patterns, so that the error of a constant answer is 1/2.

    Returns
    -------
    float or ndarray of shape (R,)
        A fraction in [0, 1].

    Raises
    ------
    ValueError
        Bad input as in `predict`, labels other than ±1, or `balanced` with a class missing.

    Examples
    --------
    >>> from bpflat.committee import error
    >>> patterns, labels = [[1.0], [2.0], [3.0], [-1.0]], [1, 1, -1, -1]
    >>> error([[1.0]], patterns, labels), error([[1.0]], patterns, labels, balanced=True)
    (0.25, 0.25)
    """
    weights, patterns, labels = check_problem(weights, patterns, labels)
    balanced = check_flag("balanced", balanced)
    wrong = answers(weights, patterns) != labels
    if balanced:
        if np.all(labels == labels[0]):
            raise ValueError("labels hold one class only; the balanced error needs both")
        rate = (wrong[..., labels > 0].mean(axis=-1) + wrong[..., labels < 0].mean(axis=-1)) / 2
    else:
        rate = wrong.mean(axis=-1)
    return float(rate) if weights.ndim == 2 else rate


def tree(weights: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pose a tree committee, whose units have inputs of their own, as a machine with weights that are 0 and stay.

    Parameters
    ----------
    weights : array_like, shape (K, M)
        Weights of unit k for its own inputs, which are those from kM to (k + 1)M of N = KM.

    Returns
    -------
    weights : ndarray, shape (K, N)
        The same, with zeros for the inputs of other units.
    prior_scale : ndarray, shape (K, N)
        What `bpflat.local_entropy` takes with them: the root mean square of a unit's own weights, and 0 elsewhere.

    Raises
    ------
    ValueError
        Anything but finite real numbers, another shape, a unit without weights.

    Notes
    -----
    For no reference, the prior is what is left: give ``prior_scale`` for weights of ones to
    ``local_entropy(None, ..., n_hidden=K)``.

    Examples
    --------
    >>> from bpflat.committee import tree
    >>> weights, scale = tree([[3.0, 4.0], [1.0, 0.0]])
    >>> weights.tolist()
    [[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    >>> (scale**2).round(3).tolist()
    [[12.5, 12.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    own = check_array("weights", weights, ("K", "M"))
    if not own.any(axis=1).all():
        raise ValueError("weights have a hidden unit whose weights are all zero: it has no direction to start from")
    (n_hidden, size), unit = own.shape, np.eye(len(own))[:, :, None]
    spread = np.sqrt(np.mean(own**2, axis=1))[:, None, None]
    blocks = unit * own[:, None, :], unit * spread * np.ones(size)
    full, scale = (block.reshape(n_hidden, n_hidden * size) for block in blocks)
    return full, scale
