"""Files of results and checkpoints: how records are stored, and whether one belongs to the run that wants it."""

from __future__ import annotations

import json
import os
from typing import Any


def json_object(text: str) -> dict[str, Any]:
    """Object that a field of a stored result holds as JSON; ValueError for any other text."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is no object of JSON")
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


def _flat(configuration: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in configuration.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
