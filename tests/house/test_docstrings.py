"""Docstrings: those of public names have examples that run; all are worded as a native speaker would word them."""

import ast
import doctest
import importlib
import inspect
import re

import matplotlib
import pytest

from tests.house.pages import MODULES
from tests.stored import ROOT

PUBLIC = {
    f"{module}.{name}": value
    for module in MODULES
    for name, value in vars(importlib.import_module(module)).items()
    if name in importlib.import_module(module).__all__ and not inspect.ismodule(value)
}


@pytest.mark.parametrize("name", PUBLIC)
def test_examples(name):
    matplotlib.use("agg")
    tests = doctest.DocTestFinder().find(PUBLIC[name], name, globs={})
    assert tests[0].examples
    runner = doctest.DocTestRunner()
    for test in tests:
        assert runner.run(test).failed == 0


PREPOSITION = re.compile(
    r"(About|After|Against|Along|Among|As|At|Before|Between|Beyond|By|During|For|From|In|Into|Near|Of|On|Over|Through|To|"
    r"Under|Until|With|Within|Without)\b"
)


def beginnings(tree):
    """Name and first words of every docstring of a module."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, described) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "the module"), text.partition("\n")[0]


def helps(tree):
    """Line and text of every ``help=`` of a module."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.keyword)
            and node.arg == "help"
            and isinstance(node.value, ast.Constant | ast.JoinedStr)
        ):
            yield f"line {node.value.lineno}", ast.unparse(node.value).strip("f'\"").capitalize()


FOLDERS = ["bpflat", "training", "figures", "benchmarks", "tests", "docs", "data"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_none_begins_with_a_preposition(folder):
    found = [
        f"{path.relative_to(ROOT)}: {name}: {text}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for texts in (beginnings, helps)
        for name, text in texts(ast.parse(path.read_text(encoding="utf-8")))
        if PREPOSITION.match(text)
    ]
    assert found == []


# "one entry a point" should read "one entry per point".
PER = re.compile(
    r"\b(one|[A-Z0-9]+|entry|numbers?|point|row|column|panel|picture|file|term|pattern|restarts|references|them|once) "
    r"an? (algorithm|core|draw|line|minimum|network|pattern|point|process|reference|replica|restart|row|task|type|unit|"
    r"weight)\b"
)


@pytest.mark.parametrize("folder", FOLDERS)
def test_per(folder):
    found = [
        f"{path.relative_to(ROOT)}:{i}: {line}"
        for suffix in ("py", "md")
        for path in sorted((ROOT / folder).rglob(f"*.{suffix}"))
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PER.search(line) and path.name != "test_docstrings.py"
    ]
    assert found == []
