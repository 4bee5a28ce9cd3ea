"""The docstrings of public names have examples, which run by themselves."""

import doctest
import importlib
import inspect

import matplotlib
import pytest

from tests.house.pages import MODULES

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
