"""Programs that are interrupted at random moments, or started twice in one folder.

``python -m tests.fuzz.interruptions PROGRAM FOLDER TIMES SEED`` does so with one of them, in processes forked from one
that has imported everything and run nothing, and prints a record in JSON for every time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import time
from functools import partial
from multiprocessing.sharedctypes import RawValue
from pathlib import Path

import numpy as np

from bpflat import programs
from bpflat.provenance import git_revision
from tests.fuzz.command_lines import LINES, furnish, mains
from tests.signals import signal_at

# Programs that store what they compute, and options that let them store more on their way.
PROGRAMS = {
    "training.committee": "--max-epochs 40 --chunk 1 --checkpoint-every 0",
    "training.deep": "--epochs-scale 0.012 --checkpoint-every 0",
    "figures.fig1": "--chunk 1",
    "figures.table1": "",
    "figures.fig7": "",
    "figures.any_model": "",
    "figures.conventions": "",
    "figures.published_resnets": "",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

MAINS = mains()
FORK = multiprocessing.get_context("fork")


def run(name, folder, calls=None, number=0, delay=0.0):
    """Run a program in `folder`; send it a signal after so many calls of functions, from when it listens to signals on.

    What it says on stderr goes to a file.  Results that tell times tell how often the clock was read instead, so that
    equal work tells equal times.
    """
    os.chdir(folder)
    for stream, path in ((1, os.devnull), (2, log_of(folder, os.getpid()))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    time.perf_counter = time.process_time = itertools.count(1.0).__next__
    time.sleep(delay)
    if calls is not None:
        programs._interruptible = partial(counted, programs._interruptible, calls, number)
    sys.exit(MAINS[name](shlex.split(f"{LINES[name]} {PROGRAMS[name]}")))


@contextlib.contextmanager
def counted(context, calls, number):
    """Enter a context; send a signal after so many calls of functions in it."""
    with context() as entered, signal_at(calls, number):
        yield entered


def log_of(folder, pid):
    return folder.parent / f"{pid}.log"


def started(name, folder, **options):
    process = FORK.Process(target=run, args=(name, folder), kwargs=options)
    process.start()
    return process


def end(process, folder):
    """Status of a process, and what it said on stderr."""
    process.join()
    return process.exitcode, log_of(folder, process.pid).read_text()


def contents(folder):
    """Files in `folder` with their bytes, and folders with None, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def different(folder, whole):
    """Names of what is missing, other or too much in `folder`, beside the contents `whole`."""
    found = contents(folder)
    return sorted(name for name in found.keys() | whole.keys() if found.get(name, "") != whole.get(name, ""))


@contextlib.contextmanager
def fresh(furnished):
    """A copy of the folder, which is deleted afterwards."""
    folder = furnished.parent / "run" / "folder"
    shutil.copytree(furnished, folder, copy_function=os.link)
    yield folder
    shutil.rmtree(folder.parent)


def main(name, furnished, times, seed):
    """Send each of the signals, and start the program twice at once, so many times."""
    rng = np.random.default_rng(seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
    git_revision()  # which is cached: the same for all, whatever is committed meanwhile
    furnished.mkdir(parents=True)
    furnish(furnished)
    for _ in range(2):  # the first may compile and cache what the others find
        with fresh(furnished) as folder:
            calls, begun = RawValue("q", 0), time.monotonic()
            status, said = end(started(name, folder, calls=calls), folder)
            assert status == 0, said
            seconds, n_calls, whole = time.monotonic() - begun, -calls.value, contents(folder)
    assert whole.keys() > contents(furnished).keys()
    for number, moment in zip(times * SIGNALS, rng.integers(1, n_calls, times * len(SIGNALS)), strict=True):
        with fresh(furnished) as folder:
            status, said = end(started(name, folder, calls=RawValue("q", int(moment)), number=number), folder)
            record = {"number": number, "moment": moment / n_calls, "status": status, "said": said}
            record |= {"left": different(folder, whole), "again": end(started(name, folder), folder)}
            show(record | {"different": different(folder, whole)})
    for delay in seconds * rng.random(times):
        with fresh(furnished) as folder:
            pair = [started(name, folder, delay=wait) for wait in (0.0, delay)]
            ends = [end(process, folder) for process in pair]
            show({"delay": delay, "ends": ends, "different": different(folder, whole)})


def show(record):
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
