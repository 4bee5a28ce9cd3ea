"""Files of results and checkpoints: how records are stored, and whether one belongs to the run that wants it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bpflat.arguments import shown
from bpflat.locks import claimed, disclaim
from bpflat.reading import parse_json


def json_object(text: str) -> dict[str, Any]:
    """Object that a field of a stored result holds as JSON; ValueError for any other text."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"{shown(text)} is no object of JSON")
    return value


def require_same(path: str | os.PathLike, stored: dict, wanted: dict) -> None:
    """Raise a ValueError that names the first difference between two configurations."""
    stored, wanted = _flat(stored), _flat(json.loads(json.dumps(wanted)))
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} is of another run: its {name} is {stored.get(name)!r}, not {wanted.get(name)!r}. "
                "Ask for the same configuration, choose another folder, or delete that file"
            )


def is_missing(path: Path, setting: dict, setting_in: Callable[[Path], str], claims: ExitStack) -> bool:
    """Whether a result has to be made: then it is claimed; else the setting in it, as JSON, is checked."""
    if not path.exists():
        claims.enter_context(claimed(path))
    if not path.exists():  # by now
        return True
    require_same(path, parse_json(setting_in(path)), setting)
    disclaim(path)
    return False


def _flat(configuration: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in configuration.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
