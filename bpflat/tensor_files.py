"""Files of tensors, as torch.save writes them: sealed when written, and checked before torch reads them."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from bpflat.reading import check_growth, digest, open_regular, open_zip, reason, seal
from bpflat.storage import atomic_write


def save_tensors(path: str | os.PathLike[str], content: Any) -> None:
    """Write tensors, and containers and numbers around them, with their digest; raises OSError as `atomic_write`.

    torch.load reads the file as any other of torch.save.
    """
    written = io.BytesIO()  # never closed: an interrupted torch.save still writes as it is deleted, or aborts
    torch.save(content, written)
    with atomic_write(path) as file:
        file.write(written.getbuffer())
        seal(file)


def load_tensors(path: str | os.PathLike[str]) -> Any:
    """Read what torch.save wrote, on the CPU, after its checksums, which torch itself does not look at.

    Files in the format before torch 1.6 have none: they are taken as they are, with a warning.  But where their name
    ends in the beginning of their SHA-256, as that of published weights does (``resnet20-12fca82f.th``), that counts.

    Raises
    ------
    OSError
        When there is no such file (FileNotFoundError), it may not be read, or is a pipe or a device.
    ValueError
        When it is damaged, no such file, holds more than tensors and plain containers, or tensors larger than itself.
    """
    with open_regular(path) as file:
        try:
            _check_sums(file, Path(path))
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
            tensors = list(tensors_in(content))
            if any(tensor.layout != torch.strided or tensor.is_meta for tensor in tensors):
                raise ValueError("it holds tensors that are sparse or without values")
            check_growth(size, sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        except Exception as error:  # damage shows as OSError, RuntimeError, EOFError, UnpicklingError, nearly anything
            why = reason(error)[:300]
            raise ValueError(f"{path} is no whole file of tensors that torch.save wrote ({why})") from error
    return content


def _check_sums(file: BinaryIO, path: Path) -> None:
    """Check all checksums that the open file at `path` carries; raises nearly anything where one does not hold."""
    if file.read(1) != b"\x80":  # the first byte of a pickle, and so of the old format
        with open_zip(file, growth=1) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged} does not hold")
    elif digits := re.search(r"-([0-9a-f]{8,64})$", path.stem):
        if not digest(file).startswith(digits[1]):
            raise ValueError("its SHA-256 does not begin as its name ends; rename it if that is no digest")
    else:
        warnings.warn(
            "a file of tensors in the format before torch 1.6 has no checksums, so that damage may go unseen; "
            "write it again by torch.save",
            stacklevel=4,
        )


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Every tensor in containers within containers."""
    waiting, seen = [content], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, dict | list | tuple | set) and id(part) not in seen:
            seen.add(id(part))  # a container may hold itself
            waiting.extend(part.values() if isinstance(part, dict) else part)
