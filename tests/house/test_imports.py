"""Data flow one way through the folders: who may never import whom, read from the files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.stored import ROOT

FOLDERS = ("bpflat", "training", "figures", "benchmarks", "tests")

SHARED = ("workers", "cluster", "result_file", "progress", "randomness")  # ground of both wings of training
# Of each pair, nothing within the first imports anything within the second.
NEVER = [
    ("bpflat", "training"),
    ("bpflat", "figures"),
    ("bpflat", "benchmarks"),
    ("bpflat", "tests"),
    ("training", "figures"),
    ("training", "benchmarks"),
    ("training", "tests"),
    ("figures", "benchmarks"),
    ("figures", "tests"),
    ("benchmarks", "tests"),
    *(("bpflat.estimators", f"bpflat.{door}") for door in ("entropy", "posing", "bp", "nodes", "binary")),
    ("bpflat.binary", "bpflat.entropy"),
    ("bpflat.entropy", "bpflat.binary"),
    *((f"bpflat.{wing}", "bpflat.theory") for wing in ("estimators", "entropy", "binary", "flatness", "optim")),
    *(("bpflat.theory", f"bpflat.{wing}") for wing in ("estimators", "entropy", "flatness", "optim")),
    ("bpflat.flatness", "bpflat.entropy"),
    ("bpflat.entropy", "bpflat.flatness"),
    ("bpflat.flatness", "bpflat.optim"),
    ("bpflat.optim", "bpflat.flatness"),
    ("training.committee", "training.deep"),
    ("training.deep", "training.committee"),
    *((f"training.{shared}", f"training.{wing}") for shared in SHARED for wing in ("committee", "deep")),
    ("figures.measure", "figures.draw"),
]


class Import(NamedTuple):
    """A module, the name that it imports (of a module or of something in one), and where."""

    importer: str
    imported: str
    line: int


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def trees(root: Path) -> dict[str, tuple[Path, ast.Module]]:
    """Path and syntax of every module in the folders, by name."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    return {module_name(path, root): (path, ast.parse(path.read_text(encoding="utf-8"))) for path in paths}


def imports_of(module: str, path: Path, tree: ast.Module) -> Iterator[Import]:
    """Everything that a module imports: at its top or later, for types only, or by a name in quotes."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield Import(module, source, node.lineno)
            yield from (Import(module, f"{source}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            yield from (Import(module, a.value, node.lineno) for a in node.args[:1] if isinstance(a, ast.Constant))


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__", "importorskip")


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def is_script(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body)


def violations(root: Path) -> list[str]:
    """What the rules forbid, in words."""
    modules = trees(root)
    scripts = {m for m, (_, tree) in modules.items() if re.fullmatch(r"figures\.\w+", m) and is_script(tree)}
    tests = {m for m in modules if re.fullmatch(r"tests\..*\btest_\w+", m)}
    forbidden_here = []
    for module, (path, tree) in modules.items():
        for _, imported, line in imports_of(module, path, tree):
            where = f"{path.relative_to(root)}:{line}: {module} imports {imported}"
            for importer, forbidden in NEVER:
                if within(module, importer) and within(imported, forbidden):
                    forbidden_here.append(f"{where}; {importer} never imports {forbidden}")
            for kind, members in (("script", scripts), ("test", tests)):
                if {module, imported} <= members and module != imported:
                    forbidden_here.append(f"{where}; a {kind} imports no other {kind}")
    return sorted(set(forbidden_here))


def test_arrows():
    assert violations(ROOT) == []


def test_all_of_the_house_is_read():
    modules = trees(ROOT)
    assert {name.partition(".")[0] for name in modules} == set(FOLDERS) and len(modules) > 150
    read = {
        (one.importer, one.imported) for name, (path, tree) in modules.items() for one in imports_of(name, path, tree)
    }
    assert ("bpflat.cli", "bpflat.flatness") in read  # within a function
    assert ("bpflat.arguments", "matplotlib.axes") in read  # for types only


FORBIDDEN = [
    ("bpflat/cli.py", "import figures.fig1"),
    ("bpflat/committee.py", "from training import loss"),
    ("bpflat/committee.py", "from benchmarks.timing import seconds as s"),
    ("bpflat/optim/wrapper.py", "def f():\n    from bpflat import flatness"),
    ("bpflat/flatness/noise.py", "from ..optim import noise"),
    ("bpflat/flatness/__init__.py", "from ..optim.noise import Noise"),
    ("bpflat/flatness/entropy.py", "if TYPE_CHECKING:\n    from bpflat.entropy import local_entropy"),
    ("bpflat/entropy.py", "from bpflat import committee, flatness"),
    ("bpflat/entropy/curves.py", "from bpflat.flatness.entropy import local_entropy"),
    ("bpflat/estimators/ep.py", "import numpy, bpflat.entropy as e"),
    ("training/committee/trainer.py", "from training.deep.images import load_images"),
    ("training/deep/__main__.py", "from .. import committee"),
    ("training/deep/__main__.py", 'importlib.import_module("training.committee.protocols")'),
    ("training/workers.py", "import figures"),
    ("figures/measure/networks.py", "from figures.draw.style import COLORS"),
    ("figures/fig2.py", "from figures.table1 import table"),
    ("figures/fig2.py", "from figures import table1"),
    ("figures/table1.py", "from tests.stored import STORED"),
    ("tests/figures/test_fig2.py", "from tests.figures.test_table1 import saved"),
]
ALLOWED = [
    ("bpflat/flatness/energy.py", "from bpflat.results import LocalEnergyProfile\nfrom bpflat import entropy_sums"),
    ("bpflat/entropy.py", "from bpflat.estimators import ep\nimport trainings, figures_of_speech"),
    ("training/deep/__main__.py", "from training.deep import recipes\nfrom training.committees import x"),
    ("training/deep_trainer.py", "import training.committee"),
    ("figures/fig2.py", "from figures import program\nfrom figures.draw.tables import table\nimport figures.fig2"),
    ("figures/draw/style.py", "from figures.measure.networks import Network"),
    ("tests/figures/test_fig2.py", "from figures.fig2 import main\nfrom tests.figures.toy_runs import saved"),
]


@pytest.fixture
def house(tmp_path):
    """A function that writes a made-up house with one more file in it, in which Fig. 2 and Table 1 are scripts."""

    def build(name, text):
        script = 'if __name__ == "__main__":\n    main()\n'
        files = {f"figures/{one}.py": script for one in ("fig2", "table1")} | {"figures/program.py": ""}
        files |= {f"tests/figures/test_{one}.py": "" for one in ("fig2", "table1")}
        files[name] = f"{text}\n{files.get(name, '')}"
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        return tmp_path

    return build


@pytest.mark.parametrize(("name", "text"), FORBIDDEN)
def test_forbidden(house, name, text):
    (first, *_) = violations(house(name, text))
    assert first.startswith(f"{name}:")


@pytest.mark.parametrize(("name", "text"), ALLOWED)
def test_allowed(house, name, text):
    assert violations(house(name, text)) == []


def test_every_rule_is_tried(house):
    """Each pair of NEVER by itself: a file in the one that imports the other."""
    for importer, forbidden in NEVER:
        path = importer.replace(".", "/") + "/some/module.py"
        root = house(path, f"import {forbidden}.part")
        assert len(violations(root)) == 1, (importer, forbidden)
        (root / path).unlink()
