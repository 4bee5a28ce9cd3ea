"""Kinds and shapes of stored arrays, declared beside the classes that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_KINDS = {"f": "floats", "i": "integers", "n": "numbers", "b": "flags", "U": "text"}
_OF_KIND = {"f": "f", "i": "iu", "n": "fiu", "b": "b", "U": "U"}


def check_layout(values: Mapping[str, Any], layout: Mapping[str, str]) -> None:
    """Check that arrays, numbers and text are of the wanted kinds and of shapes that go together.

    Parameters
    ----------
    values : mapping
        Arrays, numbers and text by name; those that are None or not in `layout` are not looked at.
    layout : mapping
        For each name a kind ("f" floats, "i" integers, "n" either, "b" flags, "U" text) and the names of the axes, as
        in ``"f R K N"``.  Axes of one name have one length; a first axis ``R?`` is absent from all or from none.

    Raises
    ------
    ValueError
        When one is of another kind or shape; the message names it.
    """
    lengths: dict[str, int | None] = {}
    for name, form in layout.items():
        if values.get(name) is None:
            continue
        kind, *axes = form.split()
        array = np.asarray(values[name])
        shape: tuple[int | None, ...] = array.shape
        if axes and axes[0].endswith("?") and len(shape) < len(axes):
            shape = (None, *shape)
        fits = array.dtype.kind in _OF_KIND[kind] and len(shape) == len(axes)
        if not (fits and all(lengths.setdefault(axis, n) == n for axis, n in zip(axes, shape, strict=True))):
            wanted = f" of shape ({', '.join(axes)})" if axes else ", a single one"
            raise ValueError(f"{name} must be {_KINDS[kind]}{wanted}, not {array.dtype} of shape {array.shape}")


def check_finite(values: Mapping[str, Any], *names: str) -> None:
    """Raise a ValueError that names the first of these arrays or numbers that is not finite everywhere."""
    for name in names:
        if values.get(name) is not None and not np.isfinite(values[name]).all():
            raise ValueError(f"{name} must be finite")


def check_distinct(values: Mapping[str, Any], name: str) -> None:
    """Raise a ValueError where an entry of this array is there twice."""
    if len(np.unique(values[name])) < np.size(values[name]):
        raise ValueError(f"{name} must be distinct")
