"""Files that tests read: what the repository holds, and published weights and pictures where they are at hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bpflat import load_reduced_fashion_mnist

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "tests" / "reference"
RESULTS = ROOT / "figures" / "results"
STORED = RESULTS / "fig1-quick"
WEIGHTS = ROOT / "../shared/data/weights"
CIFAR10 = ROOT / "../shared/data/cifar10"

needs_published_networks = pytest.mark.skipif(
    not (WEIGHTS.exists() and CIFAR10.exists()), reason="weights or images are not here"
)


def forbid_computing(patch):
    """Let trainings and measurements fail, so that all must be read."""

    def forbidden(*args, **options):
        raise AssertionError("a stored result was computed again")

    for name in ("training.committee.sweep.train", "bpflat.local_entropy", "bpflat.local_energy"):
        patch.setattr(name, forbidden)


@pytest.fixture(scope="module")
def stored():
    """Three trained machines with their data, and what an independent implementation found around them."""
    with np.load(REFERENCE / "solutions.npz") as archive:
        weights = archive["weights"].astype(float)
    data = load_reduced_fashion_mnist()
    problems = [(w, data.train_patterns, data.train_labels) for w in weights]
    return problems, json.loads((REFERENCE / "expected.json").read_text())


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory):
    """All of CIFAR-10 in a file as `training.deep.images` reads it, unpacked once."""
    path = tmp_path_factory.mktemp("cifar10") / "images.npz"
    subprocess.run([sys.executable, CIFAR10.parent / "unpack_cifar10.py", path], check=True)
    return path
