"""Files that are either whole or absent: atomic writes and checked reads of ``.npz`` results."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from bpflat.arguments import check_path
from bpflat.display import Brief
from bpflat.layout import check_layout
from bpflat.locks import locked
from bpflat.provenance import Provenance
from bpflat.reading import open_regular, read_arrays, reason, seal

if TYPE_CHECKING:
    from typing_extensions import Self


def target(path: str | os.PathLike[str]) -> Path:
    """Return the regular file, there already or not, that a write to `path` replaces: where symbolic links lead.

    Raises
    ------
    ValueError
        When `path` cannot be the name of a file.
    OSError
        When something stands there that is no regular file: a folder, a device, a pipe.  Renaming a new file over it
        would destroy it.
    """
    path = Path(check_path("path", path))
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG  # as it will be
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}. Choose another name") from error
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EEXIST
        raise OSError(number, f"cannot write {path}: what stands there is no regular file. Choose another name")
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` only when the block ends without an exception.

    It gets the permissions that the umask asks for.  What killed writers of `path` have left is deleted.

    Parameters
    ----------
    path : path-like
        The final name.  Missing parent folders are made, and symbolic links followed.

    Yields
    ------
    file object
        Opened for binary writing and reading, in the folder of `path` (so that the renaming is atomic).

    Raises
    ------
    ValueError
        When `path` cannot be the name of a file.
    OSError
        When what stands at `path` is no regular file, the folder cannot be written or the disk is full; the message
        names the path and the mend, and `path` holds what it held before.
    """
    final, temporary = target(path), None
    handled = sys.exc_info()[1]  # by who writes: no concern of the write
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary, descriptor = _new_temporary(final)
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, final)
    except Exception as error:
        if _hides_interruption(error, handled):
            raise KeyboardInterrupt from error
        if not isinstance(error, OSError) or error.errno is None:  # not the disk's
            raise
        raise OSError(
            error.errno,
            f"cannot write {path}: {error.strerror or error}. Nothing was changed there; free some space "
            "or choose a folder that can be written",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    discard_temporaries(final.parent, re.escape(final.name))


def _hides_interruption(error: BaseException | None, handled: BaseException | None) -> bool:
    """Whether an error arose as a writer cleared up after an interruption: archives cannot be closed everywhere.

    What was being `handled` before the write does not count.
    """
    while error not in (None, handled) and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error not in (None, handled)


def _new_temporary(final: Path) -> tuple[Path, int]:
    """A new file beside `final` and its descriptor, locked as long as this process writes it."""
    while True:
        temporary = final.with_name(f".{final.name}.bpflat-{os.getpid()}-{secrets.token_hex(4)}.part")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if locked(descriptor, temporary):  # else `discard_temporaries` came before the lock
            return temporary, descriptor
        os.close(descriptor)


def discard_temporaries(folder: str | os.PathLike[str], names: str) -> None:
    """Delete what killed writers have left in `folder` of files whose whole names match the pattern `names`.

    What another process is writing stays, and so does whatever has another form of name than `atomic_write` gives.
    """
    temporaries = re.compile(rf"\.(?:{names})\.bpflat-\d+-[0-9a-f]{{8}}\.part")
    with contextlib.suppress(OSError):  # the folder is gone, or not ours to tidy
        for path in [path for path in Path(folder).iterdir() if temporaries.fullmatch(path.name)]:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if locked(descriptor, path, where_none_can=False):
                    os.unlink(path)
            finally:
                os.close(descriptor)


def save_npz(path: str | os.PathLike[str], kind: str, **values: object) -> None:
    """Write arrays of `values` and the mark `kind` to a compressed ``.npz`` file with its digest, atomically.

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
        seal(file)


def read_npz(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz`` file of numbers and text, after all that can be checked of it.

    Raises
    ------
    OSError
        When there is no such file (FileNotFoundError), it may not be read, or is a pipe or a device.
    ValueError
        When the file is truncated, corrupted, no such file, or one whose arrays are larger than it can hold; or `path`
        cannot be the name of a file.
    """
    with open_regular(path) as file:
        try:
            return read_arrays(file)
        except Exception as error:  # damage shows as BadZipFile, zlib.error, TypeError, nearly anything
            why = reason(error)
            raise ValueError(f"{path} is not a whole bpflat file ({why}); delete it and make it again") from error


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """Mark of a file written by `save_npz`; None where it has none or is not whole."""
    try:
        return str(read_npz(path)["kind"])
    except (KeyError, OSError, ValueError):
        return None


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


@contextlib.contextmanager
def damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever goes wrong while the content of a file is interpreted into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # what was made up shows as nearly anything
        raise ValueError(f"{path} is damaged or was made by another version: {reason(error)}; make it again") from error


@dataclass(frozen=True, eq=False, repr=False)
class StoredResult(Brief):
    """Base of results that are frozen dataclasses of arrays, numbers and text: files and comparison.

    Two results are equal if they are of one class and their files would hold the same numbers and text, NaN being equal
    to NaN; the provenance does not count.

    Attributes
    ----------
    kind : str
        Mark of the files of a class.
    layout : mapping
        Kinds and shapes of its fields, see `bpflat.layout.check_layout`.
    provenance : Provenance
        Versions and revision that the result was made with.
    """

    kind: ClassVar[str]
    layout: ClassVar[Mapping[str, str]] = {}

    provenance: Provenance = field(default=Provenance(), kw_only=True)

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says.

        Called on what is read from files; classes with further conditions extend it.
        """
        check_layout(vars(self), self.layout)

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
            When the file is truncated, corrupted or of another kind, or a field is not what the class says.
        """
        arrays = load_npz(path, cls.kind, tuple(field.name for field in fields(cls) if _is_required(field)))
        stored = {name: array if array.ndim else array.item() for name, array in arrays.items()}
        with damage_named(path):
            result = cls(**cls._restored(stored), provenance=Provenance.stored_in(stored))
            result.check()
        return result

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
