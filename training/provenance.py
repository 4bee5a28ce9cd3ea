"""What made a result: the versions of the libraries and the revision of the checkout, two fields of every result."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch


def provenance() -> dict:
    """Return ``versions`` and ``git_revision`` of what runs now, for a result that it makes."""
    return {"versions": library_versions(), "git_revision": git_revision()}


def joined_provenance(parts: Sequence) -> dict:
    """Return ``versions`` and ``git_revision`` of a result joined from `parts`: where these differ, all are named."""

    def joined(values: Iterable[str]) -> str:
        return ", ".join(sorted(set(values)))

    versions = {name: joined(part.versions[name] for part in parts) for name in parts[0].versions}
    return {"versions": versions, "git_revision": joined(part.git_revision for part in parts)}


def library_versions() -> dict[str, str]:
    """Versions that can change the last bits of a result."""
    from importlib import metadata

    try:
        own = metadata.version("bpflat")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        own = "unknown"
    return {"bpflat": own, "numpy": np.__version__, "torch": torch.__version__, "python": platform.python_version()}


def git_revision() -> str:
    """Commit of the checkout this file is in, with "-dirty" where files were changed; "unknown" outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
