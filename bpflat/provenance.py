"""What made a result: versions of the libraries and the revision of the code."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from bpflat.reading import parse_json

UNKNOWN = "unknown"
_LIBRARIES = ("bpflat", "numpy", "torch")


@dataclass(frozen=True)
class Provenance:
    """Versions and revision that a result was made with, stored beside its numbers.

    Attributes
    ----------
    versions : dict of str
        Version of bpflat, numpy, torch and python, by name; empty where a file does not say.
    git_revision : str
        Commit of the checkout, with "-dirty" where files were changed, or "unknown".

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import local_energy
    >>> profile = local_energy(np.ones((1, 3)), np.ones((1, 3)), [1], sigmas=[0.5], method="exact")
    >>> sorted(profile.provenance.versions)
    ['bpflat', 'numpy', 'python', 'torch']
    """

    versions: dict[str, str] = field(default_factory=dict)
    git_revision: str = UNKNOWN

    @classmethod
    def here(cls) -> Provenance:
        """Provenance of what this process makes."""
        return cls(library_versions(), git_revision())

    @classmethod
    def joined(cls, parts: Iterable[Provenance]) -> Provenance:
        """Provenance of a result in several parts; where they differ, all versions and revisions are named."""
        parts = list(parts)
        names = dict.fromkeys(name for part in parts for name in part.versions)
        versions = {name: _all(part.versions.get(name, UNKNOWN) for part in parts) for name in names}
        return cls(versions, _all(part.git_revision for part in parts))

    @classmethod
    def stored_in(cls, file: Mapping[str, Any]) -> Provenance:
        """Provenance that a file of a result holds by name: one record, or in earlier files its two parts or none.

        Raises
        ------
        ValueError
            When it is damaged.
        """
        if "provenance" in file:
            return cls.from_json(file["provenance"])
        versions, revision = file.get("versions", "{}"), json.dumps(file.get("git_revision", UNKNOWN))
        return cls.from_json(f'{{"versions": {versions}, "git_revision": {revision}}}')

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Provenance of a text that `to_json` wrote; raises ValueError for any other text."""
        try:
            record = parse_json(text)
            versions = {str(name): str(version) for name, version in record["versions"].items()}
            return cls(versions, str(record["git_revision"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{text!r} is no record of versions and revision ({error})") from error


def _all(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def library_versions() -> dict[str, str]:
    """Versions that can change the last bits of a result."""
    return {name: _version(name) for name in _LIBRARIES} | {"python": platform.python_version()}


def _version(name: str) -> str:
    loaded = getattr(sys.modules.get(name), "__version__", None)  # says which build it is, as in 2.4.0+cpu
    return _installed_version(name) if loaded is None else str(loaded)


@functools.cache
def _installed_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return UNKNOWN


@functools.cache
def git_revision() -> str:
    """Commit of the checkout this file is in, with "-dirty" where files were changed; "unknown" outside of one.

    It is looked up once per process: what changes later is not what the process has imported.
    """
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():  # installed: a repository farther up is somebody else's
        return UNKNOWN
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return answer.stdout.strip()
