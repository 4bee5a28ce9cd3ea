"""The README's example runs, and its commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_example_runs(capsys):
    example, _ = EXAMPLES
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["curve"].converged.all()
    assert abs(names["point"].log_z / names["plain"].log_z - 1) < 1e-8
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_commands_and_pictures_exist():
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^ +)make ([a-z0-9]+)", README, flags=re.MULTILINE)) <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_example_of_flatness_runs():
    """Ten lines, on a torchvision model."""
    pytest.importorskip("torchvision")
    names = {}
    exec(compile(EXAMPLES[1], "README.md", "exec"), names)
    assert len(EXAMPLES[1].splitlines()) <= 10
    assert names["profile"].n_samples == 4 and names["profile"].delta_error.shape == (3,)


def test_tables_are_those_of_the_results():
    for name in ("fig1-paper/fig1.md", "readings/readings.md"):
        for line in (ROOT / "figures" / "results" / name).read_text(encoding="utf-8").splitlines():
            assert not line.startswith("|") or line in README, line
