"""Every program with one wrong value on its command line: an answer or one refusal, no traceback, and soon."""

import contextlib
import io
import os
import random
import shlex
import shutil
import signal
import warnings
import zlib

import pytest

from tests.fuzz import ALL
from tests.fuzz.command_lines import LINES, furnish, mains, wrong_lines
from training import cluster

LINES_OF_A_PROGRAM = 8  # in the suite
SECONDS, HANGING = 10, 600  # of computing; of waiting, where many share the machine

MAINS = mains()


class TooLongError(BaseException):
    """A line took its time."""


def too_long(number, frame):
    raise TooLongError(signal.Signals(number).name)


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("furnished")
    furnish(folder)
    return folder


@pytest.fixture
def run(furnished, tmp_path, monkeypatch):
    """A function that runs a program in a fresh copy of the furnished folder; returns its status and stderr."""
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 1)
    before = {number: signal.signal(number, too_long) for number in (signal.SIGPROF, signal.SIGALRM)}

    def call(name, line, seconds=SECONDS):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(furnished, folder, copy_function=os.link)
        monkeypatch.chdir(folder)
        out, err = io.StringIO(), io.StringIO()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, HANGING)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return MAINS[name](line), err.getvalue()
        except SystemExit as ended:
            return ended.code, err.getvalue()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def fault(run, name, line):
    """What is wrong with how a program takes a line; empty if nothing is."""
    try:
        status, err = run(name, line)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    last = err.strip().rpartition("\n")[2]
    if "Traceback" in err or status not in (0, 2) or (status == 2 and "error" not in err):
        return f"status {status}: {last[-300:]}"
    return ""


@pytest.mark.parametrize("name", LINES if ALL else [name for name in LINES if not name.startswith("figures")])
def test_right_lines_are_taken(name, run):
    status, err = run(name, shlex.split(LINES[name]), seconds=10 * SECONDS)
    assert status == 0, err


@pytest.mark.parametrize("name", LINES)
def test_one_wrong_value(name, run):
    lines = list(wrong_lines(name, MAINS[name]))
    if not ALL:
        lines = random.Random(zlib.crc32(name.encode())).sample(lines, LINES_OF_A_PROGRAM)
    faults = {shlex.join(line)[-300:]: found for line in lines if (found := fault(run, name, line))}
    assert faults == {}


def test_there_are_enough_lines():
    assert sum(len(list(wrong_lines(name, MAINS[name]))) for name in LINES) >= 1764
