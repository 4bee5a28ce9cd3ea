"""Stored tables, as the text of the manual quotes them."""

import csv
import re

from tests.stored import RESULTS


def tables(path):
    """Tables of a stored file in Markdown: lists of rows, each a dictionary by the heads of the columns."""
    found, head = [], None
    for line in (RESULTS / path).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            head = None
        elif head is None:
            head = cells
            found.append([])
        elif not set(line) <= set("| -"):
            found[-1].append(dict(zip(head, cells, strict=True)))
    return found


def row(rows, **cells):
    """The one row that has these cells."""
    (match,) = (r for r in rows if all(r[name.replace("_", " ")] == value for name, value in cells.items()))
    return match


def number(text):
    """The first number of a cell."""
    return float(re.match(r"[+−-]?[\d,.]+", text)[0].replace("−", "-").replace(",", ""))


def bracketed(text):
    """A correlation without its p-value."""
    return text.partition(",  p")[0].partition(", p")[0]


def records(path):
    with open(RESULTS / path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
