"""Training patterns as users have them, tensors or batches, brought to the device once or streamed to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

Data = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]

_CPU_BYTES = 4 << 30
"""Most that is kept of streamed data on the CPU without being asked to."""


class Patterns:
    """Inputs and targets, in the same order at every pass.

    Parameters
    ----------
    data : tuple of Tensor, or iterable of them
        (inputs, targets), or batches of such; numpy arrays will do.
    device : torch.device
    dtype : torch.dtype
        What floating-point inputs become.
    resident : bool, optional
        Keep all of it on the device: True, False, or None to do so if it fits (a third of a GPU's free memory, 4 GiB
        on the CPU).
    channels_last : bool
        Memory format of images.

    Attributes
    ----------
    whole : tuple of Tensor, or None
        Everything as one pair, resident or not; None where it is streamed from an iterable.
    largest : int or None
        Rows of the largest batch seen in an iterable.

    Raises
    ------
    ValueError
        When there are no patterns or they are not pairs of arrays of the same length.
    """

    def __init__(
        self,
        data: Data,
        device: torch.device,
        *,
        dtype: torch.dtype,
        resident: bool | None = None,
        channels_last: bool = False,
    ):
        self.device, self.dtype, self.channels_last = device, dtype, channels_last
        self.whole: tuple[Tensor, Tensor] | None = None
        self.largest: int | None = None
        if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(d, Tensor | np.ndarray) for d in data):
            pair = _check_pair(data)
            if not len(pair[0]):
                raise ValueError("the data set is empty")
            fits = _bytes(pair) <= _room(device) or pair[0].device == device
            self.whole = self._move(pair) if resident or (resident is None and fits) else pair
            return
        one_pass = isinstance(data, Iterator)
        if resident is False and one_pass:
            raise ValueError("an iterator can be read only once; pass a list or a DataLoader, or let it be resident")
        self.iterable = data
        if resident is not False:
            self.whole = self._gather(np.inf if resident else _room(device))
        if self.whole is None and one_pass:
            raise ValueError("the data do not fit on the device, and an iterator can be read only once: pass a list")

    def _gather(self, room: float) -> tuple[Tensor, Tensor] | None:
        """All batches of the iterable on the device as one pair, or None if they take more than `room` bytes."""
        parts, used = [], 0
        for batch in self._batches():
            self.largest = max(self.largest or 0, len(batch[0]))
            used += _bytes(batch)
            if used > room:
                return None
            parts.append(self._move(batch))
        if not parts:
            raise ValueError("the data set is empty")
        try:
            inputs, targets = (torch.cat(column) for column in zip(*parts, strict=True))
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"batches of the data do not have the same shape ({error}); use resident=False") from error
        return self._move((inputs, targets))

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        try:
            batches = iter(self.iterable)
        except TypeError:
            name = type(self.iterable).__name__
            raise ValueError(f"data must be (inputs, targets) or an iterable of such batches, not {name}") from None
        for batch in batches:
            pair = _check_pair(batch)
            if len(pair[0]):
                yield pair

    def _move(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = pair
        where = {"device": self.device, "non_blocking": self.device.type == "cuda"}  # unsafe towards the CPU
        layout = {"memory_format": torch.channels_last} if self.channels_last and inputs.ndim == 4 else {}
        inputs = inputs.to(**where, **layout, dtype=self.dtype if inputs.is_floating_point() else inputs.dtype)
        is_integer = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
        return inputs, targets.to(**where, dtype=torch.int64 if is_integer else targets.dtype)

    def blocks(self, size: int | None = None, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Every pattern once, or those of `rows`, in one block or in nearly equal ones of at most `size` rows.

        Streamed batches are the blocks, whatever `size`; they have no `rows`.
        """
        if self.whole is None:
            yield from self._batches()
            return
        whole = self.whole if rows is None else tuple(part[rows.to(part.device)] for part in self.whole)
        if size is None:
            yield whole
        else:
            n_blocks = -(-len(whole[0]) // size)
            yield from zip(*(part.tensor_split(n_blocks) for part in whole), strict=True)

    def slices(self, block: tuple[Tensor, Tensor], start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Rows of a block, on the device."""
        return self._move((block[0][start:stop], block[1][start:stop]))


def _check_pair(batch: object) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"data must be (inputs, targets) or batches of such, not batches of {type(batch).__name__}")
    try:
        inputs, targets = (torch.as_tensor(part) for part in batch)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"inputs and targets must be tensors or arrays of numbers ({error})") from error
    if inputs.ndim < 1 or targets.ndim != 1 or len(inputs) != len(targets):
        raise ValueError(
            f"targets must have shape (N,), one for each row of the inputs; "
            f"inputs have shape {tuple(inputs.shape)}, targets {tuple(targets.shape)}"
        )
    return inputs, targets


def _bytes(pair: tuple[Tensor, Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in pair)


def _room(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[0] / 3 if device.type == "cuda" else _CPU_BYTES
