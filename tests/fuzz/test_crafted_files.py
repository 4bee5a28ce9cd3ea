"""Files that are whole, but made up: one line that says what is wrong, no traceback, little memory, and soon."""

import os
import shutil
import time
import warnings

import pytest

from tests.fuzz.crafted import all_crafted

ALL = os.environ.get("BPFLAT_FUZZ") == "all"
SOME = 120
SECONDS = 10  # of computing

pytest.importorskip("h5py")


def test_one_line_each(tmp_path):
    failures = []
    (tmp_path / "whole").mkdir()
    every = all_crafted(tmp_path / "whole")
    assert len(every) > 500
    for i, crafted in enumerate(every if ALL else every[:SOME]):
        folder = tmp_path / str(i)
        folder.mkdir()
        crafted.write(folder / crafted.name)
        begun = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                crafted.read(folder / crafted.name)
        except (ValueError, OSError) as error:
            if len(str(error).splitlines()) != 1:
                failures.append(f"{crafted.label}: {str(error)!r}")
        except Exception as error:
            failures.append(f"{crafted.label}: {error!r}"[:300])
        if time.process_time() - begun > SECONDS:
            failures.append(f"{crafted.label}: {time.process_time() - begun:.0f} s")
        shutil.rmtree(folder)
    assert not failures, "\n".join(failures)
