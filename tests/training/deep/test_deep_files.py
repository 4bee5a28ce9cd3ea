"""Files of a deep run: what is deleted is the run's own."""

from tests.training.deep.toy_deep import toy
from training.deep.training import DeepTraining


def test_a_run_discards_its_own_files(tmp_path):
    """And the folder, once nothing of others is in it."""
    training = DeepTraining(toy("baseline"), tmp_path / "scratch")
    (tmp_path / "scratch").mkdir()
    left = f".{training.name}.pt.bpflat-1-0123abcd.part"
    for name in (*(training.name + suffix for suffix in (".npz", ".csv", ".pt", ".checkpoint.pt")), left, "notes.txt"):
        (tmp_path / "scratch" / name).write_bytes(b"")
    training.discard()
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["notes.txt"]
    (tmp_path / "scratch" / "notes.txt").unlink()
    training.discard()
    assert not (tmp_path / "scratch").exists()
