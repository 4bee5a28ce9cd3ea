"""The README and the manual: their code runs, their commands are understood, their links lead somewhere."""

import argparse
import importlib.util
import inspect
import re
import runpy
import shlex
import subprocess
import sys

import matplotlib
import pytest

import bpflat
import bpflat.cli
from tests.house.pages import EXAMPLES, MODULES, PAGES, blocks, text_of
from tests.stored import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
OPTIONAL = {"distributed", "pytorch_lightning", "torchvision"}  # extras of the package


@pytest.fixture(autouse=True)
def no_screen():
    matplotlib.use("agg")


def test_readme_is_short():
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 100


def test_code_fits():
    """No line of code that is shown is wider than its block on a page of the manual, at a desk."""
    shown = {
        page: [block for language in ("python", "sh", "text") for block in blocks(page, language)] for page in PAGES
    }
    shown |= {script.name: [script.read_text(encoding="utf-8")] for script in EXAMPLES}
    assert not [
        (page, line) for page, texts in shown.items() for line in "\n".join(texts).splitlines() if len(line) > 105
    ]


@pytest.mark.parametrize("page", [name for name in PAGES if blocks(name, "python")])
def test_code_runs(page, monkeypatch, capsys):
    """All blocks of a page, one after the other, in the checkout; what the page says is printed is printed."""
    monkeypatch.chdir(ROOT)
    names = {"__name__": page}
    for block in blocks(page, "python"):
        try:
            exec(compile(block, page, "exec"), names)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(str(error))
    printed = capsys.readouterr().out
    assert all(block in printed for block in blocks(page, "text"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(script, monkeypatch, tmp_path, capfd):
    assert len(script.read_text(encoding="utf-8").splitlines()) < 40
    for name in set(re.findall(r"^(?:from|import) (\w+)", script.read_text(encoding="utf-8"), re.MULTILINE)) & OPTIONAL:
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if script.stem.startswith("torchrun"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
        subprocess.run(command, check=True, timeout=300)
    else:
        runpy.run_path(str(script), run_name="__main__")
    assert capfd.readouterr().out


def test_examples_are_shown():
    """Each of them on some page, and nothing else that is not there."""
    shown = {
        name for page in PAGES for name in re.findall(r"^```\{literalinclude\} (\S+)", text_of(page), re.MULTILINE)
    }
    assert {f"examples/{script.name}" for script in EXAMPLES} == {
        name for name in shown if name.startswith("examples/")
    }
    assert all((ROOT / "docs" / name).is_file() for name in shown)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_shown_is_also_linked(page):
    """Readers of the plain Markdown, where nothing is included, find it too."""
    for name in re.findall(r"^```\{literalinclude\} (\S+)", text_of(page), re.MULTILINE):
        assert f"({name})" in text_of(page)


@pytest.mark.parametrize("page", [name for name in PAGES if not name.startswith("docs/api")])
def test_page_has_an_example(page):
    assert blocks(page, "python") or blocks(page, "sh") or blocks(page, "{literalinclude}")


def test_reference_has_every_module():
    """Sphinx lists what is in __all__: names without an underscore, each with a docstring."""
    assert {f"docs/api/{name}.md" for name in (*MODULES, "index")} == {p for p in PAGES if p.startswith("docs/api")}
    for name in MODULES:
        assert f"automodule:: {name}\n" in text_of(f"docs/api/{name}.md")
        module = importlib.import_module(name)
        for public in module.__all__:
            assert not public.startswith("_") and getattr(module, public).__doc__


def returned_by(function):
    """Classes of bpflat that the annotation of a function says it returns."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    names = re.findall(r"\w+", str(inspect.signature(function).return_annotation))
    found = (function.__globals__.get(name) for name in names)
    return {kind for kind in found if inspect.isclass(kind) and kind.__module__.startswith("bpflat")}


def test_what_public_calls_return_is_public():
    """A reader of the reference can look up every class that it mentions as a result."""
    modules = [importlib.import_module(name) for name in MODULES]
    public = [getattr(module, name) for module in modules for name in module.__all__]
    classes = {thing for thing in public if inspect.isclass(thing)}
    methods = [m for c in classes for n, m in inspect.getmembers(c, inspect.isroutine) if not n.startswith("_")]
    calls = [thing for thing in (*public, *methods) if inspect.isfunction(thing) or inspect.ismethod(thing)]
    returned = set().union(*map(returned_by, calls))
    assert bpflat.LocalEntropyCurve in returned and bpflat.Cumulants in returned
    assert returned <= classes and bpflat.Provenance in classes  # the last is an attribute of all results


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(page)):
        assert link.startswith("https://") or (PAGES[page].parent / link).exists(), link


# --- commands -----------------------------------------------------------------------------------


class Understood(Exception):
    """Raised in the place of what a command would do."""


def source_of(module):
    """File that ``python -m module`` runs."""
    spec = importlib.util.find_spec(module)
    return importlib.util.find_spec(f"{module}.__main__").origin if spec.submodule_search_locations else spec.origin


def understand(monkeypatch, module, arguments):
    """Let a program parse its command line and go no further; it ends where it does not understand."""
    if not arguments:  # no more than its name
        assert source_of(module)
        return
    if module == "benchmarks":
        assert set(arguments) <= set(importlib.import_module("benchmarks.__main__").NAMES)
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *given):
        parse(parser, *given)
        raise Understood

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(Understood):
            runpy.run_path(source_of(module), run_name="__main__")


def check(monkeypatch, command):
    """Fail where a command names a program, target, file or option that does not exist."""
    program, *arguments = shlex.split(re.sub(r"^PYTHONPATH=\. ", "", command), comments=True)
    if program == "make":
        target, *settings = arguments
        assert re.search(rf"^{target}: ", MAKEFILE, re.MULTILINE), target
        for setting in settings:
            understand(monkeypatch, f"figures.{target}", shlex.split(setting.removeprefix("ARGS=")))
    elif program == "bpflat":
        bpflat.cli.parser().parse_args(arguments)
    elif program == "dask":
        assert arguments[0] in ("scheduler", "worker")
    elif arguments[:3] == ["-m", "pip", "install"]:
        extras = (ROOT / "setup.cfg").read_text(encoding="utf-8").partition("[options.extras_require]")[2]
        for extra in re.findall(r"\w+", arguments[-1].strip(".")):
            assert f"\n{extra} =\n" in extras
    else:
        assert program in ("python", "torchrun"), command
        if program == "torchrun":
            assert arguments[0] == "--nproc-per-node"
            arguments = arguments[2:]
        if arguments[0] == "-m":
            understand(monkeypatch, arguments[1], arguments[2:])
        else:
            assert (ROOT / arguments[0]).is_file()


@pytest.mark.parametrize("page", [name for name in PAGES if not name.startswith("docs/api")])
def test_commands_are_understood(page, monkeypatch):
    pytest.importorskip("torchvision")  # some programs need it to name their networks
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`((?:make|bpflat|torchrun|python|PYTHONPATH=\. python) [^`]+)`", text)
    for command in lines + [" ".join(found.split()) for found in inline]:
        check(monkeypatch, command)
