"""The README's example runs, and its commands exist."""

import re

import numpy as np
import pytest

from figures.draw.tables import interval_text
from figures.draws import values_of
from figures.measure.statistics import paired_difference
from figures.measure.study import load
from tests.stored import RESULTS, ROOT

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
    lines = (RESULTS / "fig1-paper" / "fig1.md").read_text(encoding="utf-8").splitlines()
    endings = (RESULTS / "conventions" / "conventions.md").read_text(encoding="utf-8").partition("Means over draws")[0]
    lines += [line.replace("| natural ", "") for line in endings.splitlines() if line.startswith("| natural |")]
    for line in lines:
        assert not line.startswith("|") or line in README, line


def test_what_is_said_of_draws_follows_from_the_results():
    """Means and intervals over draws, as the README rounds them."""
    text = " ".join(README.split())
    for sampling, draws in load(RESULTS / "conventions").items():
        assert f"{len(draws)} {sampling}" in text
        values = values_of(draws)["test_error"]
        for first, second in (("sgd-fast", "sgd-slow"), ("rsgd-slow", "rsgd-fast")):
            assert interval_text(paired_difference(values[first], values[second]), ".2f") in text


def test_cosine_at_a_distance():
    """A Gaussian around w, at the three distances that are named."""
    rng = np.random.default_rng(0)
    w = rng.choice([-1.0, 1.0], 100_000)
    for distance, named in ((0.05, "0.95"), (0.25, "0.82"), (1.0, "0.58")):
        other = w + np.sqrt(2 * distance) * rng.normal(size=w.size)
        cosine = w @ other / np.linalg.norm(w) / np.linalg.norm(other)
        assert abs(cosine - 1 / np.sqrt(1 + 2 * distance)) < 0.01 and abs(cosine - float(named)) < 0.01
        assert named in README
