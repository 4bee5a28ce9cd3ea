"""Results as text: one line at a prompt, a table where they are printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np

_LONGEST = 40  # characters of a text in a repr
_PRINTED = 3  # references that `str` shows, of what may be hundreds


class Brief:
    """Base of dataclasses whose repr is one line: shape and range in the place of an array."""

    _brief: ClassVar[tuple[str, ...]] = ()
    """Fields and properties that the repr shows, where there is something to show; all fields if empty."""

    def __repr__(self) -> str:
        names = self._brief or [field.name for field in fields(self)]  # type: ignore[arg-type]
        shown = ((name, in_brief(getattr(self, name))) for name in names)
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in shown if text)})"


def in_brief(value: Any) -> str:
    """A number, a text, or shape and range of an array, in a few characters; empty where there is nothing to show."""
    if isinstance(value, Brief):
        return repr(value)
    array = np.asarray(value)
    present = array[~np.isnan(array)] if array.dtype.kind == "f" else array
    if array.dtype.kind not in "biufU" or not present.size:
        return ""
    if not array.ndim:
        return _plain(array[()])
    if array.dtype.kind == "b":
        return f"{np.count_nonzero(array)} of {array.size}"
    if array.dtype.kind == "U":
        return f"{array.shape}"
    low, high = _plain(present.min()), _plain(present.max())
    return f"{array.shape} of {low}" if low == high else f"{array.shape} in [{low}, {high}]"


def _plain(value: Any) -> str:
    """A number to four digits, or a text that is not too long."""
    if isinstance(value, str):
        return repr(str(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]}…") if value else ""
    return f"{value:.4g}" if isinstance(value, np.floating) else str(value)


class Tabulated(Brief):
    """Base of results that are printed as a table, one row per point and one block per reference."""

    _always: ClassVar[tuple[str, ...]]
    """Fields and properties that are columns of the table, of shape (D,) or (R, D)."""
    _if_finite: ClassVar[tuple[str, ...]] = ()
    """Those that are columns only where one of their entries is finite."""

    def _title(self) -> str:
        """What the table is of."""
        raise NotImplementedError

    def _notes(self) -> Iterable[str]:
        """Lines below the table."""
        converged = getattr(self, "converged", None)
        if converged is not None and not np.all(converged):
            yield f"{np.count_nonzero(~converged)} of {np.size(converged)} points did not converge (nan)"

    def __str__(self) -> str:
        return table_of(self, _PRINTED)


def table_of(result: Tabulated, most: int | None = None) -> str:
    """The points of a result as text, those of the first `most` references."""
    names = [*result._always, *(name for name in result._if_finite if _is_anywhere_finite(getattr(result, name)))]
    columns = np.broadcast_arrays(*(getattr(result, name) for name in names))
    widths = [max(12, len(name)) for name in names]
    errors = getattr(result, "train_error", None)
    blocks = np.stack(columns, axis=-1).reshape(-1, columns[0].shape[-1], len(names))
    lines = []
    for r, block in enumerate(blocks[:most]):
        title = [result._title()]
        title += [f"reference {r}"] if columns[0].ndim > 1 else []
        title += [] if errors is None else [f"training error {np.ravel(errors)[r]:.2%}"]
        lines.append(", ".join(title))
        lines.append(" ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True)))
        lines += [" ".join(f"{value:{width}.5g}" for value, width in zip(row, widths, strict=True)) for row in block]
    if most is not None and len(blocks) > most:
        lines.append(f"… and {len(blocks) - most} more references")
    return "\n".join([*lines, *result._notes()])


def _is_anywhere_finite(values: Any) -> bool:
    return values is not None and bool(np.isfinite(values).any())
