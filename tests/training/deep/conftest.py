"""Fixtures of the tests of deep networks: a tiny network by name, and coloured images for it."""

import pytest

from tests.training.deep.toy_deep import Tiny, coloured_images
from training import models


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", Tiny)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return coloured_images(tmp_path_factory.mktemp("data") / "toy.npz")
