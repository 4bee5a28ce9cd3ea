"""Files that say who is at work on what: locks that end with their process, however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
    import resource
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
_NAMED_SECONDS = 1  # within which who has a lock writes its name into it
_LONGEST_NAME = 1000
_MOST_FILES = 10_240  # at once; no system that sets a limit refuses so many where it lets a process ask for them


def locked(descriptor: int, path: str | os.PathLike[str], *, where_none_can: bool = True) -> bool:
    """Lock the open file at `path` for as long as it is open.

    Returns
    -------
    bool
        False where somebody else has the lock, or has deleted the file meanwhile; `where_none_can` on systems and disks
        without locks.
    """
    if not CAN_LOCK:
        return where_none_can
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        return where_none_can
    return _is_at(descriptor, path)


def _is_at(descriptor: int, path: str | os.PathLike[str]) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def claimed(path: str | os.PathLike[str]) -> Iterator[None]:
    """Claim the making of the file `path` for this process, within the block.

    The file ``.NAME.lock`` beside it names the process.  What a killed process left of it is taken over: the lock
    itself is the kernel's, and ends with the process.

    Raises
    ------
    BlockingIOError
        When a process that runs has claimed it; the message names it.
    OSError
        When the folder cannot be written.
    """
    path = Path(path)
    lock = lock_path(path)
    descriptor = _lock_or_refuse(lock, path)
    try:
        with contextlib.suppress(OSError):  # on a full disk it is a lock without a name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _this_process().encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock)
        os.close(descriptor)


def disclaim(path: str | os.PathLike[str]) -> None:
    """Delete what a killed process has left of its claim of the file `path`; the claim of a living one stays."""
    if lock_path(Path(path)).exists():
        with contextlib.suppress(OSError), claimed(path):
            pass


def lock_path(path: Path) -> Path:
    """Where the process that makes the file `path` names itself."""
    return path.with_name(f".{path.name}.lock")


def _lock_or_refuse(lock: Path, path: Path) -> int:
    """Open and lock the file; BlockingIOError where a process that runs has it."""
    deadline = time.monotonic() + _NAMED_SECONDS
    while True:
        descriptor = _open(lock)
        if locked(descriptor, lock):
            return descriptor
        holder = os.pread(descriptor, _LONGEST_NAME, 0).decode(errors="replace")
        is_held = _is_at(descriptor, lock)
        os.close(descriptor)
        if is_held and (holder or time.monotonic() > deadline):
            raise BlockingIOError(
                f"the folder {path.parent} is in use: {holder or 'another process'} is making {path.name}; wait for "
                "it, end it, or choose another folder"
            )
        time.sleep(0.01)  # it was given back just now, or its holder is about to write its name


def _open(lock: Path) -> int:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno == errno.EMFILE and _may_open_more():
            return _open(lock)
        advice = "Choose a folder that can be written"
        if error.errno == errno.EMFILE:
            advice = "Allow more of them (ulimit -n), or ask for less at once"
        raise OSError(error.errno, f"cannot write {lock}: {error.strerror or error}. {advice}") from error


def _may_open_more() -> bool:
    """Raise the number of files that this process may have open to what the system lets it have, if that is more."""
    if not CAN_LOCK:
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = min(hard, _MOST_FILES) if hard != resource.RLIM_INFINITY else _MOST_FILES
    if more <= soft:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    return True


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M')},"
