"""The README's example runs, and its commands exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
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
