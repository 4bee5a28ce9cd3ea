"""Result files: whole or absent, and read back or refused."""

import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from bpflat import locks
from bpflat.storage import atomic_write, load_npz, save_npz
from bpflat.tensor_files import save_tensors
from tests.signals import signal_at


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def interrupted_at_every_call(function):
    """What becomes of `function` where Ctrl-C comes before one of the calls of functions in it; once for each of them.

    Interruptions of destructors, which Python lets nothing out of, are left out.
    """
    calls, lost = SimpleNamespace(), []

    def outcome(moment):
        calls.value = moment
        try:
            with signal_at(calls, signal.SIGINT):
                function()
        except BaseException as error:
            return type(error)

    hook, sys.unraisablehook = sys.unraisablehook, lambda ignored: lost.append(ignored.exc_type)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(2):  # the first may compile or cache what later calls find
            outcome(0)
        for moment in range(1, 1 - calls.value):
            lost.clear()
            found = outcome(moment)
            if KeyboardInterrupt not in lost:
                yield found
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("save", [partial(save_npz, kind="kind"), lambda path, **arrays: save_tensors(path, arrays)])
def test_interruptions_of_a_save_are_no_other_errors(tmp_path, save):
    """Archives that are interrupted cannot be closed everywhere; torch's would abort the process."""
    outcomes = list(interrupted_at_every_call(lambda: save(tmp_path / "file", a=torch.ones(3), b=torch.zeros(2))))
    assert len(outcomes) > 100 and set(outcomes) == {KeyboardInterrupt}


def test_a_save_that_fails_after_an_interruption_says_so(tmp_path):
    """Who saves after Ctrl-C what there is learns why it cannot be saved."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(ValueError, match="no number"), atomic_write(tmp_path / "file"):
            int("no number")


class TestAtomicWrite:
    def test_writes_and_makes_folders(self, tmp_path):
        path = tmp_path / "new" / "deep" / "file"
        with atomic_write(path) as file:
            file.write(b"content")
            assert not path.exists()
        assert path.read_bytes() == b"content"
        assert names_in(path.parent) == ["file"]

    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
    def test_permissions_are_those_of_the_umask(self, tmp_path, umask, mode):
        before = os.umask(umask)
        try:
            for _ in range(2):  # new, and in place of another
                with atomic_write(tmp_path / "file") as file:
                    file.write(b"content")
                assert (tmp_path / "file").stat().st_mode & 0o777 == mode
        finally:
            os.umask(before)

    def test_pipes_and_sockets_stay(self, tmp_path, monkeypatch):
        """What is no file is refused, by its own name or through a link, and is there afterwards."""
        os.mkfifo(tmp_path / "pipe")
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
            os.symlink("pipe", "link")
            for name in ("pipe", "socket", "link"):
                refused = pytest.raises(OSError, match=f"cannot write {name}: .*no regular file. Choose another name")
                with refused, atomic_write(name) as file:
                    file.write(b"new")
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
        assert names_in(tmp_path) == ["link", "pipe", "socket"]

    def test_links_are_followed(self, tmp_path):
        """They lead to a file, which is replaced, or to a name that is free; a link to itself leads nowhere."""
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "file").write_bytes(b"old")
        os.symlink("elsewhere/file", tmp_path / "link")
        os.symlink(tmp_path / "fresh" / "file", tmp_path / "dangling")
        os.symlink("loop", tmp_path / "loop")
        for link, file in (("link", "elsewhere/file"), ("dangling", "fresh/file")):
            with atomic_write(tmp_path / link) as opened:
                opened.write(b"new")
            assert (tmp_path / link).is_symlink() and (tmp_path / file).read_bytes() == b"new"
        with pytest.raises(OSError, match="loop"), atomic_write(tmp_path / "loop"):
            pass
        assert (tmp_path / "loop").is_symlink()

    def test_what_killed_writers_left_is_tidied_and_nothing_else(self, tmp_path):
        """Not the temporary of a writer that lives, nor files that look like one."""
        path, theirs = tmp_path / "file", [".file.notes.part", ".file.abcd1234.part", ".file.bpflat-notes.part"]
        for name in theirs:
            (tmp_path / name).write_bytes(b"theirs")
        code = (
            "import os, signal, sys\nfrom bpflat.storage import atomic_write\n"
            "with atomic_write(sys.argv[1]) as file: os.kill(os.getpid(), signal.SIGKILL)"
        )
        subprocess.run([sys.executable, "-c", code, path], timeout=60)
        assert len(names_in(tmp_path)) == len(theirs) + 1
        with atomic_write(path) as outer:
            outer.write(b"outer")
            with atomic_write(path) as inner:
                inner.write(b"inner")
            assert len(names_in(tmp_path)) == len(theirs) + 2  # the outer temporary
        assert path.read_bytes() == b"outer"
        assert names_in(tmp_path) == sorted([*theirs, "file"])

    def test_nothing_is_tidied_where_nothing_can_be_locked(self, tmp_path, monkeypatch):
        """A temporary may be that of a writer that lives where there are no locks."""
        monkeypatch.setattr(locks, "CAN_LOCK", False)
        with atomic_write(tmp_path / "file") as outer:
            outer.write(b"outer")
            with atomic_write(tmp_path / "file") as inner:
                inner.write(b"inner")
        assert (tmp_path / "file").read_bytes() == b"outer"

    @pytest.mark.parametrize("failure", [RuntimeError, OSError, KeyboardInterrupt])
    def test_exception_leaves_the_old_file(self, tmp_path, failure):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with pytest.raises(failure), atomic_write(path) as file:
            file.write(b"half of the n")
            raise failure
        assert path.read_bytes() == b"old"
        assert names_in(tmp_path) == ["file"]

    def test_exception_leaves_nothing_new(self, tmp_path):
        with pytest.raises(RuntimeError), atomic_write(tmp_path / "file"):
            raise RuntimeError
        assert names_in(tmp_path) == []

    @pytest.mark.parametrize(
        ("owner", "function", "number"),
        [
            (os, "fsync", errno.ENOSPC),
            (os, "replace", errno.EROFS),
            (os, "open", errno.EACCES),
            (os, "open", errno.EROFS),
        ],
    )
    def test_disk_says_no(self, tmp_path, monkeypatch, owner, function, number):
        path = tmp_path / "file"
        path.write_bytes(b"old")

        def refuse(*args, **kwargs):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(owner, function, refuse)
        refused = pytest.raises(OSError, match=f"cannot write {path}.*free some space")
        with refused as caught, atomic_write(path) as file:
            file.write(b"new")
        assert caught.value.errno == number
        assert path.read_bytes() == b"old"
        assert names_in(tmp_path) == ["file"]

    def test_folder_is_a_file(self, tmp_path):
        (tmp_path / "file").write_bytes(b"old")
        with pytest.raises(OSError, match="cannot write"), atomic_write(tmp_path / "file" / "child"):
            pass

    def test_path_is_a_folder(self, tmp_path):
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError, match="cannot write"), atomic_write(tmp_path / "folder") as file:
            file.write(b"new")
        assert names_in(tmp_path) == ["folder"]


class TestSave:
    def test_round_trip(self, tmp_path):
        rng = np.random.default_rng(0)
        arrays = {"x": rng.standard_normal((3, 4)), "flags": rng.random(5) < 0.5, "text": "σ", "empty": []}
        save_npz(tmp_path / "a.npz", "test", number=7, **arrays)
        back = load_npz(tmp_path / "a.npz", "test", ("x", "number"))
        assert set(back) == {*arrays, "number"}
        assert_array_equal(back["x"], arrays["x"])
        assert back["x"].dtype == np.float64 and back["flags"].dtype == bool
        assert back["number"] == 7 and str(back["text"]) == "σ" and back["empty"].shape == (0,)

    def test_name_is_kept(self, tmp_path):
        """``numpy.savez`` would add .npz to a name without it."""
        save_npz(tmp_path / "checkpoint", "test", x=1)
        assert names_in(tmp_path) == ["checkpoint"]

    def test_objects_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="beta cannot be stored"):
            save_npz(tmp_path / "a.npz", "test", x=1, beta=None)
        assert names_in(tmp_path) == []

    def test_full_disk(self, tmp_path):
        """A limit on the size of files makes the writing itself fail, wherever numpy happens to be then."""
        path = tmp_path / "a.npz"
        save_npz(path, "test", x=np.arange(3))
        code = (
            "import resource, sys, numpy as np\n"
            "from bpflat.storage import save_npz\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, {resource.RLIM_INFINITY}))\n"
            "try: save_npz(sys.argv[1], 'test', x=np.random.default_rng(0).random(20_000))\n"
            "except OSError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60
        )
        assert f"cannot write {path}" in done.stdout and "free some space" in done.stdout
        assert_array_equal(load_npz(path, "test")["x"], np.arange(3))
        assert names_in(tmp_path) == ["a.npz"]


class TestLoad:
    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_npz(tmp_path / "a.npz", "test")

    def test_folder_is_not_called_corrupted(self, tmp_path):
        with pytest.raises(IsADirectoryError):
            load_npz(tmp_path, "test")

    def test_other_kind(self, tmp_path):
        save_npz(tmp_path / "a.npz", "test", x=1)
        with pytest.raises(ValueError, match="kind 'test', not 'other'"):
            load_npz(tmp_path / "a.npz", "other")
        np.savez(tmp_path / "b.npz", x=1)
        with pytest.raises(ValueError, match="kind 'unmarked'"):
            load_npz(tmp_path / "b.npz", "test")

    def test_missing_arrays(self, tmp_path):
        save_npz(tmp_path / "a.npz", "test", x=1)
        with pytest.raises(ValueError, match="lacks y, z;"):
            load_npz(tmp_path / "a.npz", "test", ("z", "x", "y"))

    @pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04", b"\x80\x04]\x94."])
    def test_other_files(self, tmp_path, content):
        path = tmp_path / "a.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a whole bpflat file.*make it again"):
            load_npz(path, "test")

    def test_bare_array(self, tmp_path):
        np.save(tmp_path / "a.npy", np.ones(3))
        with pytest.raises(ValueError, match="is not a whole bpflat file"):
            load_npz(tmp_path / "a.npy", "test")

    def test_pickles_are_not_opened(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez(path, kind="test", x=np.array([None]), allow_pickle=True)
        with pytest.raises(ValueError, match="is not a whole bpflat file"):
            load_npz(path, "test")

    def test_truncated_anywhere(self, tmp_path):
        path = tmp_path / "a.npz"
        save_npz(path, "test", x=np.random.default_rng(0).random(20))
        content = path.read_bytes()
        for length in range(0, len(content), 7):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match="is not a whole bpflat file"):
                load_npz(path, "test")

    def test_damaged_anywhere(self, tmp_path):
        """Whatever byte is wrong: the same arrays as before, or a ValueError."""
        path = tmp_path / "a.npz"
        x = np.random.default_rng(0).random(20)
        save_npz(path, "test", x=x)
        content, refused = path.read_bytes(), 0
        for position in range(len(content)):
            for flip in (0x01, 0xFF):
                damaged = bytearray(content)
                damaged[position] ^= flip
                path.write_bytes(damaged)
                try:
                    back = load_npz(path, "test", ("x",))
                except ValueError:
                    refused += 1
                else:
                    assert_array_equal(back["x"], x)
        assert refused > len(content)  # at least half of the trials
