"""Fixtures of the tests of flatness."""

import pytest

from tests.bpflat.flatness.toy_models import Fails, copy_with_gradients, trained


@pytest.fixture
def small():
    """A trained small net, its inputs and targets."""
    model, inputs, targets = trained()
    return copy_with_gradients(model), inputs.clone(), targets.clone()


@pytest.fixture
def fails(monkeypatch):
    """A function that sets when `Fails` fails."""
    monkeypatch.setattr(Fails, "calls", [])

    def set_when(when):
        monkeypatch.setattr(Fails, "when", staticmethod(when))

    return set_when
