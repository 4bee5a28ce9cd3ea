"""Pictures, tables and text on disk, each file whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from bpflat.storage import atomic_write


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.pdf and NAME.png to `folder`; returns their paths."""
    paths = []
    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", None)):
        paths.append(folder / (name + suffix))
        with atomic_write(paths[-1]) as file:
            figure.savefig(file, format=suffix[1:], metadata=metadata)
    return paths


def save_table(rows: Iterable[tuple], folder: Path, name: str) -> Path:
    """Write NAME.csv to `folder`; returns its path."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return save_text(text.getvalue(), folder / f"{name}.csv")


def save_text(text: str, path: Path) -> Path:
    """Write `text` to `path`; returns the path."""
    with atomic_write(path) as file:
        file.write(text.encode())
    return path
