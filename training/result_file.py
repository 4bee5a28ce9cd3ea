"""Files of results and checkpoints: how records are stored, and whether one belongs to the run that wants it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from bpflat.reading import parse_json
from bpflat.storage import load_npz, save_npz


def save_record(path: str | os.PathLike, kind: str, fields: dict, json_fields: Iterable[str]) -> None:
    """Write `fields` as arrays, those named in `json_fields` as JSON; raises OSError as `bpflat.storage.save_npz`."""
    save_npz(path, kind, **fields | {name: json.dumps(fields[name]) for name in json_fields})


def load_record(
    path: str | os.PathLike, kind: str, required: Iterable[str], json_fields: Iterable[str]
) -> dict[str, Any]:
    """Read what `save_record` wrote: arrays, numbers, text, and what was JSON.

    Raises
    ------
    FileNotFoundError, ValueError
        See `bpflat.storage.load_npz`; ValueError also where a field does not hold JSON.
    """
    arrays = load_npz(path, kind, tuple(required))
    try:
        fields = {name: array if array.ndim else array.item() for name, array in arrays.items()}
        return fields | {name: parse_json(fields[name]) for name in json_fields}
    except ValueError as error:
        raise ValueError(f"{path} was made by another version ({error}); make it again") from error


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
