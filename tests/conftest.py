"""Fixtures that tests in several folders share."""

import signal

from tests.stored import cifar10, stored

__all__ = ["cifar10", "stored"]

# Shells let what they run in the background ignore Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
