"""Fixtures that tests in several folders share."""

from tests.stored import cifar10, stored

__all__ = ["cifar10", "stored"]
