"""Small files that ask for much memory are refused before it is taken."""

import json
import os
import subprocess
import sys

import pytest

ROOM = 200  # MB above the program's own

pytest.importorskip("h5py")
pytest.importorskip("torchvision")


def test_no_bomb_takes_memory(tmp_path):
    from tests.fuzz import bombs

    bombs.write_all(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.bombs", tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    answers = {name: (memory, answer) for name, memory, answer in map(json.loads, done.stdout.splitlines())}
    assert answers.keys() == bombs.BOMBS.keys(), done.stderr
    for name, (memory, answer) in answers.items():
        assert memory < ROOM and answer != "read", (name, memory, answer)
