"""Signals at a chosen call of a function."""

import contextlib
import os
import sys


@contextlib.contextmanager
def signal_at(calls, number):
    """Take one off ``calls.value`` at every call of a function in the block; send a signal when none is left."""

    def profile(frame, event, argument):
        if event.endswith("call"):
            calls.value -= 1
            if calls.value == 0:
                os.kill(os.getpid(), number)

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
