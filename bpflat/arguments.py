"""Checks of what users pass in: float64 arrays come back, or a ValueError that names the argument and the fix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch


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


def check_grid(name: str, grid: ArrayLike, *, zero: bool = False) -> NDArray[np.float64]:
    """Return `grid` as float64, shape (n,), if it is positive (or not negative, with `zero`), finite and rising."""
    grid = np.atleast_1d(_floats(name, grid))
    if grid.ndim != 1 or grid.size == 0:
        raise ValueError(f"{name} must be a non-empty one-dimensional grid, not of shape {grid.shape}")
    allowed = np.isfinite(grid) & ((grid >= 0) if zero else (grid > 0))
    if not allowed.all():
        wanted = "at least 0" if zero else "positive"
        raise ValueError(f"{name} must be {wanted} and finite; found {grid[~allowed][0]:g}")
    if not (np.diff(grid) > 0).all():
        raise ValueError(f"{name} must rise strictly: sort them and drop repeated ones (numpy.unique)")
    return grid.copy()


def check_seed(seed: int | np.random.SeedSequence | None) -> np.random.SeedSequence:
    """Return `seed` as a seed sequence (fresh entropy for None), or raise a ValueError that says what to mend."""
    if isinstance(seed, np.random.SeedSequence):
        return seed
    try:
        return np.random.SeedSequence(seed)
    except (TypeError, ValueError) as error:
        raise ValueError(f"seed must be None, an integer ≥ 0 or a SeedSequence, not {seed!r}") from error


def stream(seed: np.random.SeedSequence, *key: int) -> np.random.SeedSequence:
    """Independent seed sequence of (seed, key): a descendant, as if by ``spawn`` in `seed` and its children.

    Made by hand because ``spawn`` counts what it gave: a SeedSequence would not give the same one twice.
    """
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key), pool_size=seed.pool_size)


def spawn_streams(seed: int | np.random.SeedSequence | None, n: int) -> list[np.random.SeedSequence]:
    """Return n seed sequences: the children that ``SeedSequence(seed).spawn`` gives first."""
    seed = check_seed(seed)
    return [stream(seed, r) for r in range(n)]


def check_scalar(
    name: str,
    value: float,
    *,
    at_least: float = 0.0,
    above: float = -np.inf,
    at_most: float = np.inf,
    below: float = np.inf,
) -> float:
    """Return `value` as a float if it is finite and within the bounds, of which the stricter counts on either side."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number, not {value!r}") from error
    if np.isfinite(number) and number >= at_least and number > above:
        if number <= at_most and number < below:
            return number
        wanted = f"below {below:g}" if below <= at_most else f"at most {at_most:g}"
    else:
        wanted = f"greater than {above:g}" if above >= at_least else f"at least {at_least:g}"
    raise ValueError(f"{name} must be finite and {wanted}; got {value!r}")


def check_count(name: str, value: int, *, at_least: int = 1, at_most: float = np.inf) -> int:
    """Return `value` as an int if it is a whole number within the bounds."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not (whole and at_least <= value <= at_most):
        wanted = f"at most {at_most}" if whole and value > at_most else f"at least {at_least}"
        raise ValueError(f"{name} must be a whole number, {wanted}; got {value!r}")
    return int(value)


def check_device(device: str | torch.device) -> torch.device:
    """Return the torch device if it is there, or raise a ValueError that says why it cannot be used."""
    import torch  # seconds, which callers without torch need not wait for

    try:
        if (found := torch.empty(0, device=device).device).type != "meta":
            return found
        reason = "it holds no numbers"
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # as the backends please
        reason = str(error).splitlines()[0]
    raise ValueError(f"device {str(device)!r} cannot be used: {reason}; use device='cpu'")
