"""Files that are either whole or absent: atomic writes and checked reads of ``.npz`` results."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from bpflat.arguments import check_path
from bpflat.provenance import Provenance

if TYPE_CHECKING:
    from typing_extensions import Self


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
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
    ValueError
        When `path` cannot be the name of a file.
    OSError
        When the folder cannot be written or the disk is full; the message names the path and the mend, and `path`
        holds what it held before.
    """
    path = Path(check_path("path", path))
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


def discard_temporaries(folder: str | os.PathLike[str], pattern: str) -> None:
    """Delete what killed writers left in `folder` of files whose names match the glob `pattern`."""
    for temporary in Path(folder).glob(f".{pattern}.*.part"):
        temporary.unlink(missing_ok=True)


def save_npz(path: str | os.PathLike[str], kind: str, **values: object) -> None:
    """Write arrays of `values` and the mark `kind` to a compressed ``.npz`` file, atomically.

    Raises
    ------
    OSError
        Whatever `atomic_write` raises.
    ValueError
        When one of `values` is not of numbers or text (None, say): it could not be read back without pickle.
    """
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in values.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name} cannot be stored: an array of Python objects; use numbers or text")
    with atomic_write(path) as file:
        np.savez_compressed(file, kind=np.array(kind), **arrays)


def read_npz(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz`` file of numbers and text.

    Raises
    ------
    OSError
        When there is no such file (FileNotFoundError) or it may not be read.
    ValueError
        When the file is truncated, corrupted, or no such file, or `path` cannot be the name of one.
    """
    with open(check_path("path", path), "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}  # reading all checks every CRC
        except Exception as error:  # damage shows as BadZipFile, zlib.error, TypeError, nearly anything
            raise ValueError(f"{path} is not a whole bpflat file ({error}); delete it and make it again") from error


def load_npz(path: str | os.PathLike[str], kind: str, names: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
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
    OSError
        When there is no such file (FileNotFoundError) or it may not be read.
    ValueError
        When the file is truncated, corrupted, of another kind, or lacks one of `names`.
    """
    arrays = read_npz(path)
    stored_kind = str(arrays.pop("kind", "unmarked"))
    if stored_kind != kind:
        raise ValueError(f"{path} holds a result of kind {stored_kind!r}, not {kind!r}; check the file name")
    missing = sorted(set(names) - set(arrays))
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it was made by another version: make it again")
    return arrays


@dataclass(frozen=True, eq=False)
class StoredResult:
    """Base of results that are frozen dataclasses of arrays, numbers and text: files and comparison.

    Two results are equal if they are of one class and their files would hold the same numbers and text, NaN being equal
    to NaN; the provenance does not count.

    Attributes
    ----------
    kind : str
        Mark of the files of a class.
    provenance : Provenance
        Versions and revision that the result was made with.
    """

    kind: ClassVar[str]

    provenance: Provenance = field(default=Provenance(), kw_only=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a ``.npz`` file, whole or not at all.

        Parameters
        ----------
        path : path-like
            Missing parent folders are made.

        Raises
        ------
        OSError
            When the folder cannot be written or the disk is full; `path` then holds what it held before.
        ValueError
            When `path` cannot be the name of a file.
        """
        save_npz(path, self.kind, **self._stored(), provenance=self.provenance.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote, by this version or an earlier one.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ValueError
            When the file is truncated, corrupted or of another kind.
        """
        arrays = load_npz(path, cls.kind, tuple(field.name for field in fields(cls) if _is_required(field)))
        stored = {name: array if array.ndim else array.item() for name, array in arrays.items()}
        try:
            return cls(**cls._restored(stored), provenance=Provenance.stored_in(stored))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged or was made by another version: {error}; make it again") from error

    def _stored(self) -> dict[str, Any]:
        """Arrays, numbers and text that a file holds beside the provenance: all fields that are not None."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "provenance"}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def _restored(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """Fields that a file gives, without the provenance; those that it lacks keep their default."""
        names = {field.name for field in fields(cls)} - {"provenance"}
        return {name: value for name, value in stored.items() if name in names}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredResult) or type(other) is not type(self):
            return NotImplemented
        mine, others = self._stored(), other._stored()
        return mine.keys() == others.keys() and all(_equal(mine[name], others[name]) for name in mine)

    __hash__ = None  # type: ignore[assignment]  # as of arrays


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _equal(value: object, other: object) -> bool:
    a, b = np.asarray(value), np.asarray(other)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f")
