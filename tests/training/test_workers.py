"""The engine that cuts results into tasks and joins their parts."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bpflat.locks import claimed, lock_path
from bpflat.storage import load_npz, save_npz
from training.workers import Assembly, SweepError, complete, part_path


@dataclass
class Squares:
    """Squares of some numbers, and of which choice of numbers they are."""

    choice: int
    values: np.ndarray

    def save(self, path):
        save_npz(path, "squares", choice=self.choice, values=self.values)


def squares(calls, choice, entries):
    calls.append(list(entries))
    return Squares(choice, np.array(entries) ** 2)


def read(choice, path, entries):
    stored = load_npz(path, "squares", ("choice", "values"))
    if stored["choice"] == choice and len(stored["values"]) == len(entries):
        return Squares(choice, stored["values"])
    return None


def assembly(folder, calls, *, chunk, choice=0):
    return Assembly(
        path=Path(folder) / "squares.npz",
        size=7,
        chunk=chunk,
        describe=lambda entries: f"{entries[0]} to {entries[-1]}",
        prepare=lambda entries: partial(squares, calls, choice, entries),
        read=partial(read, choice),
        join=lambda parts: Squares(choice, np.sort(np.concatenate([part.values for part in parts]))),
    )


def test_chunks_begin_at_multiples_and_what_is_there_is_kept(tmp_path):
    calls = []
    squares([], 0, range(3, 5)).save(part_path(tmp_path / "squares.npz", 3, 4))
    (result,) = complete([assembly(tmp_path, calls, chunk=2)])
    assert calls == [[0, 1], [2], [5], [6]]
    assert result.values.tolist() == [0, 1, 4, 9, 16, 25, 36]
    assert [path.name for path in tmp_path.iterdir()] == ["squares.npz"]
    complete([assembly(tmp_path, calls, chunk=3)])
    assert len(calls) == 4


def test_results_and_parts_of_something_else_are_made_again(tmp_path):
    calls = []
    squares([], 1, range(7)).save(tmp_path / "squares.npz")
    squares([], 1, range(4)).save(part_path(tmp_path / "squares.npz", 0, 3))
    squares([], 0, range(4, 7)).save(part_path(tmp_path / "squares.npz", 4, 6))
    (result,) = complete([assembly(tmp_path, calls, chunk=4)])
    assert calls == [[0, 1, 2, 3]] and result.choice == 0
    assert [path.name for path in tmp_path.iterdir()] == ["squares.npz"]


def test_tidying_spares_files_of_others(tmp_path):
    """Names that only look like those of parts, and files with such a name that are not this program's."""
    squares([], 0, range(3)).save(part_path(tmp_path / "squares.npz", 0, 2))
    theirs = {"squares.part-time.npz", "squares.checkpoint.npz", ".squares.npz.draft.part", "squares.part-3-4.csv"}
    for name in theirs:
        (tmp_path / name).write_bytes(b"theirs")
    np.savez(tmp_path / "squares.part-time.npz", x=1)
    complete([assembly(tmp_path, [], chunk=7)])
    assert {path.name for path in tmp_path.iterdir()} == theirs | {"squares.npz"}


def test_one_chunk_needs_no_parts(tmp_path):
    whole = assembly(tmp_path, [], chunk=7)
    assert [task.path for task in whole.tasks()] == [whole.path]


def test_parts_that_overlap_count_once(tmp_path):
    for first, last in ((0, 3), (2, 5), (4, 6)):
        squares([], 0, range(first, last + 1)).save(part_path(tmp_path / "squares.npz", first, last))
    parts = assembly(tmp_path, [], chunk=7).parts()
    assert list(parts) == [range(0, 4), range(4, 7)]


def test_what_another_process_makes_is_left_to_it(tmp_path):
    path, calls = tmp_path / "squares.npz", []
    part = part_path(path, 0, 2)
    squares([], 0, range(3)).save(part)
    with claimed(path):
        with pytest.raises(BlockingIOError, match=r"is in use: process .* is making squares\.npz"):
            complete([assembly(tmp_path, calls, chunk=3)])
        assert calls == [] and part.exists()
        squares([], 0, range(7)).save(path)
        (result,) = complete([assembly(tmp_path, calls, chunk=3)])
        assert len(result.values) == 7 and calls == []
        assert lock_path(path).exists() and part.exists()  # it may be making the result of something else
    complete([assembly(tmp_path, calls, chunk=3)])
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_drivers_claimed_is_taken_over(tmp_path):
    for _ in range(2):  # to make the result, and when it is there
        lock_path(tmp_path / "squares.npz").write_text("process 1 on this machine")
        complete([assembly(tmp_path, [], chunk=3)])
        assert [path.name for path in tmp_path.iterdir()] == ["squares.npz"]


def test_a_claim_ends_with_a_task_that_fails(tmp_path):
    with pytest.raises(SweepError):
        complete([replace(assembly(tmp_path, [], chunk=3), prepare=lambda entries: partial(int, "x"))])
    assert list(tmp_path.iterdir()) == []
