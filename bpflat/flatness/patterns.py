"""Training patterns as users have them, batches of any form, brought to the device once or streamed to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bpflat.flatness.batches import Batch, form, joined, leaves, map_leaves, row_count, take, tensors

Data = Batch | Iterable[Batch]

_CPU_BYTES = 4 << 30
"""Most that is kept of streamed data on the CPU without being asked to."""
_WRAP = (
    "wrap the model: local_energy(..., forward=lambda model, batch: model(...), loss=lambda outputs, batch: ...), "
    "one loss for each pattern"
)


@dataclass(frozen=True)
class Reader:
    """What is asked of a batch.

    Attributes
    ----------
    pairs : bool
        It is (inputs, targets); else anything that holds tensors.
    plain : bool
        The model is called with the inputs, one tensor.
    classes : bool
        Targets are class indices, one for each row of the inputs.
    """

    pairs: bool = True
    plain: bool = True
    classes: bool = True

    def read(self, batch: object) -> Batch:
        """Return the batch with arrays as tensors, or raise a ValueError."""
        if not self.pairs:
            batch = _as_tensors(batch)
            if not any(hasattr(leaf, "to") for leaf in leaves(batch)):
                raise ValueError(f"batches of the data must hold tensors, not only {form(batch)}")
            return batch
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f"data must be (inputs, targets) or batches of such, not batches of {type(batch).__name__}; or {_WRAP}"
            )
        if any(np.ma.is_masked(part) for part in batch):
            raise ValueError("data have masked entries, which a tensor cannot hold: fill them or leave them out")
        try:
            inputs = torch.as_tensor(batch[0]) if self.plain else _as_tensors(batch[0])
            targets = torch.as_tensor(batch[1]) if self.classes else _as_tensors(batch[1])
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"inputs and targets must be tensors or arrays ({error}); or {_WRAP}") from error
        if self.plain and not inputs.ndim:
            raise ValueError("inputs must have shape (N, ...), a row for each pattern, not ()")
        if self.classes and (targets.ndim != 1 or row_count(inputs) not in (None, len(targets))):
            raise ValueError(
                f"targets must have shape (N,), one for each row of the inputs; inputs have shape {_shape(inputs)}, "
                f"targets {_shape(targets)}; for targets of another form give `loss`"
            )
        if self.plain and isinstance(targets, Tensor) and targets.shape[:1] != inputs.shape[:1]:
            raise ValueError(f"targets, of shape {_shape(targets)}, need a row for each of the inputs {_shape(inputs)}")
        return inputs, targets

    def is_one(self, data: Any) -> bool:
        """Whether the data are one batch, and not an iterable of batches."""
        if not self.pairs and (isinstance(data, np.ndarray | Mapping) or hasattr(data, "to")):
            return True
        if not self.pairs and is_dataclass(data) and not isinstance(data, Iterable):
            return True
        holds_arrays = isinstance(data, tuple | list) and any(isinstance(d, Tensor | np.ndarray) for d in data)
        return holds_arrays and (len(data) == 2 if self.pairs else isinstance(data, tuple))


def _shape(part: Batch) -> str:
    return str(tuple(part.shape)) if isinstance(part, Tensor) else form(part, shapes=True)


def _as_tensors(batch: object) -> Batch:
    """Arrays of numbers as tensors; of text, say, as they are."""

    def convert(leaf: object) -> object:
        return torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc" else leaf

    return map_leaves(convert, batch)


class Patterns:
    """Batches in the same order at every pass.

    Parameters
    ----------
    data : batch, or iterable of batches
        Patterns in batches that `reader` takes; numpy arrays will do for tensors.
    device : torch.device
    reader : Reader
    dtype : torch.dtype
        What floating-point inputs become where the model is called with them as they are.
    resident : bool, optional
        Keep all of it on the device: True, False, or None to do so if it fits (a third of a GPU's free memory, 4 GiB
        on the CPU).
    channels_last : bool
        Memory format of images.

    Attributes
    ----------
    whole : batch, or None
        Everything as one batch, resident or not; None where it is streamed, or kept in batches that cannot be joined.
    n_rows : int or None
        Patterns in `whole`, where it can be cut.
    largest : int or None
        Rows of the largest batch seen in an iterable.

    Raises
    ------
    ValueError
        When there are no patterns, or batches are not what the reader takes or not of the same form.
    """

    def __init__(
        self,
        data: Data,
        device: torch.device,
        *,
        reader: Reader,
        dtype: torch.dtype,
        resident: bool | None = None,
        channels_last: bool = False,
    ):
        self.device, self.reader, self.dtype, self.channels_last = device, reader, dtype, channels_last
        self.whole: Batch | None = None
        self.largest: int | None = None
        self.form: str | None = None
        if reader.is_one(data):
            batch = reader.read(data)
            if row_count(batch) == 0:
                raise ValueError("the data set is empty")
            fits = _bytes(batch) <= _room(device) or all(t.device == device for t in tensors(batch))
            self.whole = self._move(batch) if resident or (resident is None and fits) else batch
        else:
            one_pass = isinstance(data, Iterator)
            if resident is False and one_pass:
                raise ValueError("an iterator can be read only once; pass a list or a DataLoader, or set resident=True")
            self.iterable = data
            gathered = resident is not False and self._gather(np.inf if resident else _room(device))
            if one_pass and not gathered:
                raise ValueError(
                    "the data do not fit on the device, but an iterator can be read only once; pass a list"
                )
        self.n_rows = None if self.whole is None else row_count(self.whole)

    def _gather(self, room: float) -> bool:
        """Bring all batches of the iterable to the device, joined if they can be, unless they take more than `room`."""
        parts, used = [], 0
        for batch in self._batches():
            self.largest = max(self.largest or 0, row_count(batch) or 0) or None
            used += _bytes(batch)
            if used > room:
                return False
            parts.append(self._move(batch))
        if not parts:
            raise ValueError("the data set is empty")
        whole = joined(parts)
        if whole is None:
            self.iterable = parts
        else:
            self.whole = self._move(whole)
        return True

    def _batches(self) -> Iterator[Batch]:
        try:
            batches = iter(self.iterable)
        except TypeError:
            name = type(self.iterable).__name__
            raise ValueError(f"data must be a batch or an iterable of such batches, not {name}") from None
        for i, batch in enumerate(batches):
            batch = self.reader.read(batch)
            self.form = self.form or form(batch)
            if form(batch) != self.form:
                raise ValueError(
                    f"batches of the data must have the same form: batch {i} is {form(batch)}, not {self.form}"
                )
            if row_count(batch) != 0:
                yield batch

    def _move(self, batch: Batch) -> Batch:
        if not self.reader.pairs:
            return map_leaves(self._moved, batch)
        inputs, targets = batch
        dtype = self.dtype if self.reader.plain else None
        inputs = map_leaves(lambda leaf: self._moved(leaf, floating=dtype), inputs)
        return inputs, map_leaves(lambda leaf: self._moved(leaf, integer=torch.int64), targets)

    def _moved(self, leaf: Any, *, floating: torch.dtype | None = None, integer: torch.dtype | None = None) -> Any:
        """A leaf on the device; floating-point and integer tensors of these types, or of their own."""
        if not isinstance(leaf, Tensor):
            return leaf.to(self.device) if hasattr(leaf, "to") else leaf
        if leaf.is_floating_point():
            dtype = floating or leaf.dtype
        else:
            is_integer = not (leaf.is_complex() or leaf.dtype == torch.bool)
            dtype = integer if integer and is_integer else leaf.dtype
        if leaf.dtype != dtype or leaf.device != self.device:
            leaf = leaf.to(self.device, dtype, non_blocking=self.device.type == "cuda")  # unsafe towards the CPU
        is_picture = self.channels_last and leaf.ndim == 4
        return leaf.contiguous(memory_format=torch.channels_last) if is_picture else leaf

    def blocks(self, size: int | None = None, order: Tensor | None = None) -> Iterator[Batch]:
        """Every pattern once, or those of `order`, in one block or in nearly equal ones of at most `size` rows.

        Batches that are streamed or could not be joined are the blocks, whatever `size` and `order`.
        """
        if self.whole is None:
            yield from self._batches()
        elif self.n_rows is None or (size is None and order is None):
            yield self.whole
        else:
            n = self.n_rows if order is None else len(order)
            n_blocks = 1 if size is None else -(-n // size)
            for part in torch.arange(n).tensor_split(n_blocks):
                start, stop = int(part[0]), int(part[-1]) + 1
                yield take(self.whole, slice(start, stop) if order is None else order[start:stop])

    def reorder(self, order: Tensor) -> None:
        """Put the patterns in another order for all passes to come, where `whole` can be cut; copies them."""
        self.whole = take(self.whole, order)

    def slices(self, block: Batch, start: int | None = None, stop: int | None = None) -> Batch:
        """A block, or some rows of one that can be cut, on the device."""
        return self._move(block if start is None else take(block, slice(start, stop)))


def _bytes(batch: Batch) -> int:
    return sum(part.numel() * part.element_size() for part in tensors(batch))


def _room(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[0] / 3 if device.type == "cuda" else _CPU_BYTES
