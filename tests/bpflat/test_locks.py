"""Claims: one process at a time makes a file; those of dead processes are taken over."""

import os
import signal

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
