"""The README and the pages of the manual, as text."""

import re

from tests.stored import ROOT

EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))}
MODULES = (
    "bpflat",
    "bpflat.binary",
    "bpflat.bp",
    "bpflat.committee",
    "bpflat.flatness",
    "bpflat.nodes",
    "bpflat.optim",
    "bpflat.optim.focusing",
    "bpflat.theory",
)


def text_of(name):
    return PAGES[name].read_text(encoding="utf-8")


def blocks(name, language):
    """Contents of the fenced blocks of a page in one language, such as "python" or "{include}"."""
    return re.findall(rf"^```{re.escape(language)}[^\n]*\n(.*?)^```", text_of(name), flags=re.DOTALL | re.MULTILINE)


def prose(name):
    """A page without its blocks of code and of formulas, in one line."""
    text = re.sub(r"^```.*?^```", "", text_of(name), flags=re.DOTALL | re.MULTILINE)
    return " ".join(re.sub(r"\$\$.*?\$\$( \(eq-[\w-]+\))?", "", text, flags=re.DOTALL).split())
