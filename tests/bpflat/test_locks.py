"""Claims: one process at a time makes a file; those of dead processes are taken over."""

import os
import signal
import subprocess
import sys

import pytest

from bpflat.locks import claimed, disclaim, lock_path


def in_use(path):
    return pytest.raises(
        BlockingIOError, match=rf"{path.parent} is in use: process {os.getpid()} on .* is making {path.name}; wait"
    )


def test_a_second_claim_is_told_whose_the_first_is(tmp_path):
    path = tmp_path / "new" / "result.npz"
    with claimed(path):
        with in_use(path), claimed(path):
            pass
        with claimed(path.with_name("another.npz")):
            pass
        assert [file.name for file in path.parent.iterdir()] == [".result.npz.lock"]
    assert list(path.parent.iterdir()) == []
    with claimed(path):
        pass


def test_a_claim_ends_with_what_raises(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "x"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_killed_process_is_taken_over(tmp_path):
    path = tmp_path / "result.npz"
    child = os.fork()
    if child == 0:
        with claimed(path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert f"process {child} on" in lock_path(path).read_text()
    with claimed(path):
        assert f"process {os.getpid()} on" in lock_path(path).read_text()
    assert list(tmp_path.iterdir()) == []


def test_only_stale_claims_are_deleted(tmp_path):
    path = tmp_path / "result.npz"
    disclaim(path)
    with claimed(path):
        disclaim(path)
        with in_use(path), claimed(path):
            pass
    lock_path(path).write_text("process 1 on another machine")
    disclaim(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*\.x\.lock.*Choose a folder"), claimed(tmp_path / "file" / "x"):
        pass


MANY = """
import contextlib, resource, sys
from bpflat.locks import claimed
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))
with contextlib.ExitStack() as claims:
    for i in range(100):
        claims.enter_context(claimed(f"{sys.argv[1]}/{i}.npz"))
"""


def test_more_claims_than_files_may_be_open(tmp_path):
    """The limit is raised as far as the system lets it be, and named where that is not far enough."""
    many, few = (
        subprocess.run([sys.executable, "-c", MANY, tmp_path, limit], capture_output=True, text=True)
        for limit in ("256", "64")
    )
    assert many.returncode == 0, many.stderr
    assert "Too many open files. Allow more of them (ulimit -n), or ask for less at once" in few.stderr
    assert list(tmp_path.iterdir()) == []
