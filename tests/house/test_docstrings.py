"""The docstrings of public names have examples, which run by themselves; none begins with a bare preposition."""

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


@pytest.mark.parametrize("folder", ["bpflat", "training", "figures", "benchmarks", "tests", "docs", "data"])
def test_no_docstring_begins_with_a_preposition(folder):
    found = [
        f"{path.relative_to(ROOT)}: {name}: {text}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name, text in beginnings(ast.parse(path.read_text(encoding="utf-8")))
        if PREPOSITION.match(text)
    ]
    assert found == []
