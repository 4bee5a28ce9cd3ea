"""Programs killed or interrupted at random moments, or started twice in one folder: the same files in the end."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.fuzz import ALL
from tests.fuzz.interruptions import PROGRAMS

TIMES = 10 if ALL else 1  # each signal; two at once
SEED = 17


@pytest.mark.parametrize("name", PROGRAMS if ALL else ["training.committee"])
def test_the_same_files_in_the_end(name, tmp_path):
    """Nothing is left behind that the next run does not remove; what fails says why, in one line."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.interruptions", name, tmp_path / "furnished", str(TIMES), str(SEED)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    interruptions = [record for record in records if "number" in record]
    twice = [record for record in records if "delay" in record]
    assert len(interruptions) == 3 * TIMES and len(twice) == TIMES
    faults = [*filter(fault_of_interruption, interruptions), *filter(fault_of_two, twice)]
    assert not faults, "\n".join(map(str, faults))


def fault_of_interruption(record):
    """Whether a program did not end by its signal as it should, or left what the next run did not mend."""
    killed = record["number"] == signal.SIGKILL
    wanted = -signal.SIGKILL if killed else 128 + record["number"]
    last = record["said"].strip().rpartition("\n")[2]
    says_so = killed or (last.startswith("interrupted; ") and "Traceback" not in record["said"])
    return record["status"] != wanted or not says_so or record["again"][0] != 0 or record["different"]


def fault_of_two(record):
    """Whether neither of two programs did the work, one did not say why it did not, or the files are others."""
    refused = [said for status, said in record["ends"] if status]
    named = all(said.startswith("error: the folder ") and " is in use: process " in said for said in refused)
    return len(refused) == 2 or not named or record["different"]
