"""Checks of what users pass in: plain numbers and float64 arrays come back, or a ValueError that names the argument.

An argument that numpy would take for numbers without their being meant as such (text of digits, masked or complex
entries, dates, True and False) is refused, never converted.
"""

from __future__ import annotations

import math
import numbers
import os
import re
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

LARGEST = 1e70
"""Largest entry of patterns, and the inverse of the smallest scale: fourth powers of both are ordinary numbers."""
_SQUARABLE = (
    1e100  # most that a number may be where nothing else bounds it: its square is a number, and a thousand more
)
_WIDEST = 1e12  # most that a scale of the prior may be, in units of weights: nothing is left of these in six digits
_MOST_DRAWS = 10**9  # of anything that is counted: years of computing, and sums of squared counts still fit 64 bits
_MOST_PROCESSES = 4096  # more than a machine has cores
_NOT_NUMBERS = {
    "b": "it holds True and False: 2.0 * x - 1 turns them to ±1",
    "c": "it is complex: take x.real, if that is meant",
    "m": "it holds time spans",
    "M": "it holds dates",
    "O": "it holds Python objects: x.astype(float), if they are numbers",
    "S": "it is text",
    "T": "it is text",
    "U": "it is text",
    "V": "it holds records: take one field of them",
}
_NUMBERS = {int, float, np.float64, np.float32, np.int64, np.int32}  # as they come in lists


def shown(value: object) -> str:
    """One short line that says what `value` is, for messages."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # integers of 5,000 digits, objects of users
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- arrays -------------------------------------------------------------------------------------


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # without it there are none, and its import takes seconds
    return torch is not None and isinstance(value, torch.Tensor)


def _unwrapped(values: Any) -> Any:
    """`values` with tensors as arrays, or a ValueError for what numpy would misread, even within lists."""
    if isinstance(values, list | tuple):
        return values if set(map(type, values)) <= _NUMBERS else [_unwrapped(value) for value in values]
    if isinstance(values, bool | np.bool_):
        raise ValueError(_NOT_NUMBERS["b"])
    if isinstance(values, np.ma.MaskedArray):
        if not values.dtype.names and np.ma.is_masked(values):
            raise ValueError("it has masked entries: fill them or leave them out")
        return values.data
    if _is_tensor(values):
        if values.requires_grad:
            raise ValueError("it is a tensor that requires gradients: detach it, x.detach()")
        if values.device.type != "cpu":
            raise ValueError(f"it is a tensor on {values.device}: move it first, x.cpu()")
        if str(values.layout) != "torch.strided":
            raise ValueError("it is a sparse tensor: x.to_dense()")
        return (values.double() if values.is_floating_point() else values).numpy()  # numpy knows no bfloat16
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise ValueError("it is a sparse matrix: x.toarray()")
    return values


def reals(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """`values` as float64, of any shape, finite or not."""
    try:
        array = np.asarray(_unwrapped(values))
        if array.dtype.kind not in "iuf":
            reason = _NOT_NUMBERS.get(array.dtype.kind, f"it is of {array.dtype}")
            raise ValueError(reason if array.ndim else f"it is {shown(values)}")
        with np.errstate(over="ignore"):  # of long doubles: found as infinite
            return array.astype(np.float64, copy=False)
    except Exception as error:  # ragged lists, and whatever an object's own conversion raises
        raise ValueError(f"{name} must be an array of real numbers ({error})") from error


def check_array(
    name: str,
    values: ArrayLike,
    shape: tuple[int | str, ...] | None = None,
    *,
    between: tuple[float, float] = (-_SQUARABLE, _SQUARABLE),
    hint: str = "",
) -> NDArray[np.float64]:
    """Return `values` as float64: real, finite, not empty, and as asked.

    Parameters
    ----------
    name : str
        What the user calls it.
    values : array_like
        Tensors on the CPU too, if they require no gradients.
    shape : tuple of int or str, optional
        Wanted lengths, letters where any length will do: ``("P", 5)``.  By default any shape.
    between : tuple of float
        The least and the largest value that an entry may have.
    hint : str
        What may be behind NaN and infinite entries, added to that message.

    Raises
    ------
    ValueError
        Anything else than real numbers, another shape, no entries, or entries that are NaN, infinite or out of bounds.
    """
    array = reals(name, values)
    if shape is not None and not _fits(array.shape, shape):
        raise ValueError(f"{name} must have shape ({', '.join(map(str, shape))}), not {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} are empty: shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contain NaN or infinite entries{hint}")
    outside = (array < between[0]) | (array > between[1])
    if outside.any():
        raise ValueError(f"{name} must lie between {between[0]:g} and {between[1]:g}; found {array[outside][0]:g}")
    return array


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    return len(shape) == len(wanted) and all(isinstance(w, str) or n == w for n, w in zip(shape, wanted, strict=True))


def check_weights(
    weights: ArrayLike, *, many: bool = True, zero_rows: bool = True, even: bool = False
) -> NDArray[np.float64]:
    """Return `weights` as float64, shape (K, N) or with `many` (R, K, N); rows of any finite scale.

    K is odd, or with `even` any.  Without `zero_rows`, no hidden unit may have all its weights zero.
    """
    weights = reals("weights", weights)
    if weights.ndim not in ((2, 3) if many else (2,)):
        raise ValueError(f"weights must have shape (K, N){' or (R, K, N)' * many}, not {weights.shape}")
    weights = check_array("weights", weights, between=(-np.inf, np.inf), hint="; was the training stable?")
    if weights.shape[-2] % 2 == 0 and not even:
        raise ValueError(f"weights have K = {weights.shape[-2]} hidden units; K must be odd: no tied votes")
    if not (zero_rows or weights.any(axis=-1).all()):
        raise ValueError("weights have a hidden unit whose weights are all zero: it has no direction to start from")
    return weights


def check_patterns(
    patterns: ArrayLike, n_inputs: int, *, name: str = "patterns", zero_rows: bool = True
) -> NDArray[np.float64]:
    """Return `patterns`, called `name`, as float64 (P, N): entries to ±1e70, and none of smaller ones than 1e-70 alone.

    Their fourth powers enter the equations.  Without `zero_rows`, no pattern may be zero altogether.
    """
    patterns = reals(name, patterns)
    if patterns.ndim != 2:
        raise ValueError(f"{name} must have shape (P, N), not {patterns.shape}")
    if patterns.size and patterns.shape[1] != n_inputs:
        raise ValueError(f"{name} have N = {patterns.shape[1]} inputs but weights have N = {n_inputs}")
    patterns = check_array(name, patterns, between=(-np.inf, np.inf))
    largest = np.maximum(patterns.max(axis=1), -patterns.min(axis=1))
    extreme = (largest > LARGEST) | ((largest < 1 / LARGEST) & (largest > 0))
    if extreme.any():
        raise ValueError(
            f"{name} must be of sizes between {1 / LARGEST:g} and {LARGEST:g}, whose fourth powers are numbers; "
            f"found one with a largest entry of {largest[extreme][0]:g}; rescale it, which changes no answer"
        )
    if not (zero_rows or largest.all()):
        raise ValueError(f"{name} hold one of zeros only: no weights can change its answer; leave it out")
    return patterns


def check_labels(labels: ArrayLike, n_patterns: int) -> NDArray[np.float64]:
    """Return `labels` as float64 ±1, shape (P,), or raise a ValueError that says what to mend."""
    labels = reals("labels", labels)
    if labels.shape != (n_patterns,):
        raise ValueError(f"labels must have shape ({n_patterns},) to match patterns, not {labels.shape}")
    if not np.isin(labels, (-1.0, 1.0)).all():
        raise ValueError("labels must be -1 or +1; map your two classes to them")
    return labels


def check_problem(
    weights: ArrayLike,
    patterns: ArrayLike,
    labels: ArrayLike,
    *,
    many: bool = True,
    zero_rows: bool = True,
    zero_weights: bool = False,
    even: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Check weights (..., K, N), patterns (P, N) and labels (P,) together and return them as float64.

    Rows of zeros are refused in both without `zero_rows`, but with `zero_weights` in patterns alone.
    """
    weights = check_weights(weights, many=many, zero_rows=zero_rows or zero_weights, even=even)
    patterns = check_patterns(patterns, weights.shape[-1], zero_rows=zero_rows)
    return weights, patterns, check_labels(labels, len(patterns))


def check_scale(
    prior_scale: str | ArrayLike | None, weights: NDArray[np.float64]
) -> tuple[str, NDArray[np.float64] | None]:
    """Return what was given in a word, and the scales of the prior, of the shape of checked `weights`, or None."""
    if prior_scale is None:
        return "isotropic", None
    if isinstance(prior_scale, str):
        if not weights.any():
            raise ValueError("prior_scale 'multiplicative' needs a reference; give the scales as an array")
        return check_choice("prior_scale", prior_scale, ("multiplicative",)), np.abs(weights)
    scale = reals("prior_scale", prior_scale)
    if scale.shape not in (weights.shape, weights.shape[-2:]):
        raise ValueError(f"prior_scale must have the shape of weights, {weights.shape}, not {scale.shape}")
    scale = np.broadcast_to(check_array("prior_scale", scale, between=(-np.inf, np.inf)), weights.shape)
    if (scale < 0).any():
        raise ValueError(f"prior_scale must be at least 0; found {scale[scale < 0][0]:g}")
    if not scale.any(axis=(-2, -1)).all():
        raise ValueError("prior_scale is zero for all weights of a reference: nothing is perturbed")
    largest = np.abs(weights).max(axis=-1, keepdims=True)
    if (scale / _WIDEST > np.where(largest > 0, largest, 1.0)).any():
        raise ValueError(f"prior_scale must be at most {_WIDEST:g} times the largest weight of its hidden unit")
    return "given", scale


def check_grid(
    name: str, grid: ArrayLike, *, zero: bool = False, between: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Return a copy of `grid` as float64, shape (n,), if it rises strictly and lies between two bounds.

    By default these are 1e-12 and 1e12, generous for variances and squared distances of weights of order one: at 1e-12
    nothing differs from the reference in six digits, at 1e12 nothing is left of it in six digits.  With `zero`, for
    amplitudes of noise, they are 0 and 1e70.
    """
    low, high = between or ((0.0, LARGEST) if zero else (1e-12, 1e12))
    grid = np.atleast_1d(reals(name, grid))
    if grid.ndim != 1 or grid.size == 0:
        raise ValueError(f"{name} must be a non-empty one-dimensional grid, not of shape {grid.shape}")
    allowed = np.isfinite(grid) & ((grid >= 0) if zero else (grid > 0))
    if not allowed.all():
        wanted = "at least 0" if zero else "positive"
        raise ValueError(f"{name} must be {wanted} and finite; found {grid[~allowed][0]:g}")
    grid = check_array(name, grid, between=(low, high))
    if not (np.diff(grid) > 0).all():
        raise ValueError(f"{name} must rise strictly: sort them and drop repeated ones (numpy.unique)")
    return grid.copy()


# --- numbers ------------------------------------------------------------------------------------


def _number(value: Any) -> Any:
    """What a number of numpy, an array or a tensor without dimensions holds; other things as they are."""
    if isinstance(value, np.timedelta64 | np.ma.MaskedArray) or getattr(value, "ndim", None) != 0:
        return value
    try:
        return value.item()
    except Exception:  # tensors on "meta", for one
        return value


def check_scalar(
    name: str,
    value: float,
    *,
    at_least: float = 0.0,
    above: float = -math.inf,
    at_most: float = _SQUARABLE,
    below: float = math.inf,
    why: str = "",
) -> float:
    """Return `value` as a float if it is a real number within the bounds.

    Parameters
    ----------
    name : str
        What the user calls it.
    value : float
        Numbers of Python and numpy, and arrays and tensors that hold a single one in no dimension.
    at_least, above, at_most, below : float
        Bounds, of which the stricter counts on either side.  The default upper bound of 1e100 is there for its square.
    why : str
        The reason of the bounds that are not the default ones, for the message.

    Raises
    ------
    ValueError
        Anything but a number (text and bool are none), NaN, infinity, or a number beyond the bounds.
    """
    number = _number(value)
    if isinstance(number, bool | np.timedelta64) or not isinstance(number, numbers.Real):
        raise ValueError(f"{name} must be a number, not {shown(value)}")
    try:
        number = float(number)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if math.isfinite(number) and number >= at_least and number > above:
        if number <= at_most and number < below:
            return number
        wanted = f"below {below:g}" if below <= at_most else f"at most {at_most:g}"
        given = (at_most, below) != (_SQUARABLE, math.inf)
    else:
        wanted = f"greater than {above:g}" if above >= at_least else f"at least {at_least:g}"
        given = (at_least, above) != (0.0, -math.inf)
    reason = f" ({why})" if why and given else ""
    raise ValueError(f"{name} must be finite and {wanted}{reason}; got {shown(value)}")


def _is_whole(number: object) -> bool:
    return isinstance(number, numbers.Integral) and not isinstance(number, bool | np.timedelta64)


def check_count(name: str, value: int, *, at_least: int = 1, at_most: int = _MOST_DRAWS, why: str = "") -> int:
    """Return `value` as an int if it is a whole number within the bounds; `why` says why these.

    The default upper bound, 1e9, is more than any loop of this package ends in a lifetime, and sums of squared counts
    over so many draws are still exact in 64 bits.
    """
    number = _number(value)
    if _is_whole(number) and at_least <= number <= at_most:
        return int(number)
    if _is_whole(number) and number > at_most:
        wanted, given = f"at most {at_most}", at_most != _MOST_DRAWS
    else:
        wanted, given = f"at least {at_least}", at_least != 1
    reason = f" ({why})" if why and given else ""
    raise ValueError(f"{name} must be a whole number, {wanted}{reason}; got {shown(value)}")


def check_n_samples(n_samples: int) -> int:
    """Return `n_samples` as an int ≥ 2, or raise a ValueError that says what to mend."""
    return check_count("n_samples", n_samples, at_least=2, why="for a standard error")


def check_jobs(n_jobs: int) -> int:
    """Return the number of processes as joblib reads it: from 1 on, or -1 for one per core, -2 for one less, ..."""
    try:
        if n_jobs := check_count("n_jobs", n_jobs, at_least=-_MOST_PROCESSES, at_most=_MOST_PROCESSES):
            return n_jobs
    except ValueError:
        pass
    raise ValueError(
        f"n_jobs must be a whole number other than 0, at most {_MOST_PROCESSES} (-1: one process per core); "
        f"got {shown(n_jobs)}"
    )


def check_threads(threads: int) -> int:
    """Return a number of threads: at least 1, and no more than a machine has cores."""
    return check_count("threads", threads, at_most=_MOST_PROCESSES)


# --- choices ------------------------------------------------------------------------------------


def check_choice(name: str, value: str, choices: Collection[str]) -> str:
    """Return `value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} {shown(value)} is unknown; choose one of {', '.join(map(repr, choices))}")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Return `value` if it is True or False; "no" and 0 are neither."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def check_path(name: str, value: str | os.PathLike) -> str | os.PathLike:
    """Return `value` if it can name a file; a number would be one that is open already."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in os.fsdecode(value):
        raise ValueError(f"{name} must be the name of a file, not {shown(value)}")
    return value


def check_file_name(name: str, value: str) -> str:
    """Return `value` if it can be part of the name of a file and leads to no other folder."""
    if not isinstance(value, str) or not re.fullmatch(r"(?!\.)[^/\\\0-\x1f]{1,200}", value):
        raise ValueError(f"{name} must be a name without folders, not {shown(value)}")
    return value


def check_axes(ax: Axes) -> Axes:
    """Return `ax` if it draws as matplotlib's Axes do."""
    if not callable(getattr(ax, "fill_between", None)):
        raise ValueError(f"ax must be matplotlib Axes, not {shown(ax)}")
    return ax


def check_device(device: str | torch.device) -> torch.device:
    """Return the torch device if it is there, or raise a ValueError that says why it cannot be used."""
    import torch  # seconds, which callers without torch need not wait for

    try:
        if not isinstance(device, str | torch.device):
            raise TypeError("it must be the name of one")
        if (present := torch.empty(0, device=device).device).type != "meta":
            return present
        reason = "it holds no numbers"
    except Exception as error:  # as the backends please
        reason = str(error).partition("\n")[0]
    raise ValueError(f"device {shown(device)} cannot be used: {reason}; use device='cpu'")


# --- seeds --------------------------------------------------------------------------------------


def check_seed(seed: int | np.random.SeedSequence | None) -> np.random.SeedSequence:
    """Return `seed` as a seed sequence (fresh entropy for None), or raise a ValueError that says what to mend."""
    if isinstance(seed, np.random.SeedSequence):
        return seed
    number = _number(seed)
    if seed is not None and not (_is_whole(number) and number >= 0):
        raise ValueError(f"seed must be None, an integer ≥ 0 or a SeedSequence, not {shown(seed)}")
    return np.random.SeedSequence(None if seed is None else int(number))
