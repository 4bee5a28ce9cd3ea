"""Sphinx's settings for the manual (`make docs`)."""

import importlib
import inspect
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import bpflat

project, author = "bpflat", "the bpflat developers"
copyright = author
version = release = bpflat.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx-mathjax-offline", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
smartquotes = False  # else w' would get a curly prime
default_role = "py:obj"  # names in backticks of docstrings become links
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the sections of the docstrings say more
autodoc_default_options = {"members": True, "inherited-members": "Optimizer"}  # torch documents its own
numpydoc_show_class_members = False
for page in Path(__file__).parent.glob("api/bpflat*.md"):
    module = importlib.import_module(page.stem)
    module.__all__ = sorted(module.__all__, key=lambda name: inspect.isclass(getattr(module, name)))  # functions first

html_theme = "furo"
html_title = "bpflat"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_show_sphinx = False
html_copy_source = False


def shorten(app, what, name, obj, options, signature, returned):
    """Signatures without the insides of defaults that are objects, such as ``Provenance()``."""
    return (re.sub(r"(=[A-Z]\w*)\([^()]*\)", r"\1()", signature), returned) if signature else None


def setup(app):
    """Tell Sphinx of the above."""
    app.connect("autodoc-process-signature", shorten)
