"""Files of results and checkpoints: whether one belongs to the run that wants it."""

from __future__ import annotations

import json
import os


def require_same(path: str | os.PathLike, found: dict, wanted: dict) -> None:
    """Raise a ValueError that names the first difference between two configurations."""
    found, wanted = _flat(found), _flat(json.loads(json.dumps(wanted)))
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} is of another run: its {name} is {found.get(name)!r}, not {wanted.get(name)!r}. "
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
