"""Files that are either whole or absent: atomic writes and checked reads of ``.npz`` results."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` only when the block ends without an exception.

    Parameters
    ----------
    path : path-like
        The final name.  Missing parent folders are made.

    Yields
    ------
    file object
        Opened for binary writing, in the folder of `path` (so that the renaming is atomic).

    Raises
    ------
    OSError
        With the path and what to do, when the folder cannot be written or the disk is full;
        `path` then holds what it held before.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files; results are for sharing
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path}: {error.strerror or error}. Nothing was changed there; free some space "
            "or choose a folder that can be written",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def save_npz(path: str | os.PathLike, kind: str, **arrays: object) -> None:
    """Write `arrays` and the mark `kind` to a compressed ``.npz`` file, atomically.

    Raises
    ------
    OSError
        As `atomic_write`.
    """
    with atomic_write(path) as file:
        np.savez_compressed(file, kind=np.array(kind), **{k: np.asarray(v) for k, v in arrays.items()})


def load_npz(path: str | os.PathLike, kind: str, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Read every array of a file written by `save_npz`.

    Parameters
    ----------
    path : path-like
    kind : str
        The mark it must carry.
    names : tuple of str
        Arrays that must be there.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is truncated, corrupted, of another kind, or lacks one of `names`.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}  # reading all checks every CRC
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, EOFError, OSError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole bpflat file ({error}); delete it and make it again") from error
    found = str(arrays.pop("kind", "unmarked"))
    if found != kind:
        raise ValueError(f"{path} holds a result of kind {found!r}, not {kind!r}; check the file name")
    missing = sorted(set(names) - set(arrays))
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it was made by another version: make it again")
    return arrays
