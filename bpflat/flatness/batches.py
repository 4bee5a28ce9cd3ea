"""Batches of any form: tensors in tuples, lists, mappings and dataclasses, the first axis counting patterns."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

Batch: TypeAlias = Any
"""A tensor, or a tuple, list, mapping or dataclass of batches; any other leaf is handed on as it is."""


def _is_dataclass(batch: Batch) -> bool:
    return dataclasses.is_dataclass(batch) and not isinstance(batch, type)


def _children(batch: Batch) -> dict | None:
    """Parts of a batch by key, field or place; None of a leaf."""
    if isinstance(batch, Tensor):
        return None
    if isinstance(batch, Mapping):
        return {key: batch[key] for key in batch}
    if isinstance(batch, tuple | list):
        return dict(enumerate(batch))
    if _is_dataclass(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return None


def leaves(batch: Batch) -> Iterator[object]:
    """What a batch holds in the end, in order."""
    parts = _children(batch)
    for part in (batch,) if parts is None else parts.values():
        if parts is None or isinstance(part, Tensor):
            yield part
        else:
            yield from leaves(part)


def map_leaves(function: Callable[[object], object], batch: Batch) -> Batch:
    """Return a batch of the same form with each leaf replaced by its value under `function`."""
    if isinstance(batch, Tensor):
        return function(batch)
    if type(batch) is tuple:  # most batches, in the shortest way
        return tuple([map_leaves(function, part) for part in batch])
    parts = _children(batch)
    if parts is None:
        return function(batch)
    parts = {key: map_leaves(function, part) for key, part in parts.items()}
    if type(batch) is dict or (isinstance(batch, Mapping) and not isinstance(batch, MutableMapping)):
        return parts
    if isinstance(batch, tuple | list):
        return type(batch)(*parts.values()) if hasattr(batch, "_fields") else type(batch)(parts.values())
    twin = copy.copy(batch)
    if isinstance(twin, MutableMapping):
        twin.update(parts)
    else:
        for name, part in parts.items():
            object.__setattr__(twin, name, part)  # frozen ones too
    return twin


def tensors(batch: Batch) -> list[Tensor]:
    """All tensors of a batch, in order."""
    return [leaf for leaf in leaves(batch) if isinstance(leaf, Tensor)]


def clone(batch: Batch) -> Batch:
    """Return a batch whose tensors share no numbers with the given one's."""
    return map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, batch)


def row_count(batch: Batch) -> int | None:
    """Patterns of a batch; None where it cannot be cut: no first axis that all have, or leaves of unknown meaning."""
    lengths = set()
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor):
            lengths |= {len(leaf)} if leaf.ndim else set()
        elif not (leaf is None or isinstance(leaf, bool | int | float)):
            return None
    return lengths.pop() if len(lengths) == 1 else None


def take(batch: Batch, index: slice | Tensor) -> Batch:
    """Return some patterns of a batch that can be cut."""

    def rows(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.ndim):
            return leaf
        return leaf[index.to(leaf.device) if isinstance(index, Tensor) else index]

    return map_leaves(rows, batch)


def joined(batches: list[Batch]) -> Batch | None:
    """One batch of the patterns of all, which are of the same form; None where their shapes do not allow it."""
    if any(row_count(batch) is None for batch in batches):
        return None
    try:
        columns = iter([_joined_leaves(column) for column in zip(*map(leaves, batches), strict=True)])
    except (RuntimeError, TypeError, ValueError):
        return None
    return map_leaves(lambda leaf: next(columns), batches[0])


def _joined_leaves(column: tuple) -> object:
    first = column[0]
    if isinstance(first, Tensor) and first.ndim:
        return torch.cat(column)
    if any(bool(leaf != first) for leaf in column[1:]):
        raise ValueError("batches differ in what is not given for each pattern")
    return first


def form(batch: Batch, *, shapes: bool = False) -> str:
    """Say in words what a batch is made of, equal for batches of the same form; with the shapes of tensors or not."""
    if isinstance(batch, Tensor):
        return f"{tuple(batch.shape)} {batch.dtype}" if shapes else "tensor"
    parts = _children(batch)
    if parts is None:
        return type(batch).__name__
    if isinstance(batch, tuple | list):
        return f"({', '.join(form(part, shapes=shapes) for part in parts.values())})"
    inside = ", ".join(f"{key}: {form(parts[key], shapes=shapes)}" for key in sorted(parts, key=str))
    return f"{{{inside}}}" if isinstance(batch, Mapping) else f"{type(batch).__name__}({inside})"
