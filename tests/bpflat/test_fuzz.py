"""Every public function with one argument made wrong: a ValueError or TypeError that names it, and nothing else."""

import re
import signal
import time
import warnings
import zlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from tests.bpflat.public_calls import CALLS
from tests.bpflat.wrong_arguments import Argument

matplotlib.use("Agg")
SOON = 5  # seconds of the processor
HANGING = 60  # seconds; to stop a call that is being compiled would crash


def outcome(function, arguments: dict, says: str) -> str:
    """What is wrong with how a call ends; nothing where it is refused by a message that holds `says`, and soon."""
    begin = time.process_time()
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(HANGING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = function(**arguments)
    except (ValueError, TypeError) as error:
        if not re.search(rf"\b({says})\b", str(error)):
            return f"{type(error).__name__} does not name it: {error}"
    except KeyboardInterrupt:
        return "hangs"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return f"accepted, with {type(result).__name__}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    return "" if time.process_time() - begin < SOON else "is slow"


def wrong_calls(call: str, name: str):
    """Ways to make an argument of a call wrong, and the keyword arguments that come of each."""
    arguments: dict[str, Argument] = CALLS[call][1]
    valid = {other: argument.value for other, argument in arguments.items()}
    for way in arguments[name].all_ways:
        rng = np.random.default_rng(zlib.crc32(f"{call} {name} {way}".encode()))
        yield way, valid | {name: arguments[name].wrong(way, rng)}


PAIRS = [(call, name) for call, (_, arguments) in CALLS.items() for name in arguments]


@pytest.mark.parametrize(("call", "name"), PAIRS, ids=map("-".join, PAIRS))
def test_a_wrong_argument_is_named(call, name):
    function, arguments = CALLS[call]
    says = arguments[name].says or name
    outcomes = {way: outcome(function, wrong, says) for way, wrong in wrong_calls(call, name)}
    assert not (bad := {way: found for way, found in outcomes.items() if found}), "\n".join(
        f"{name} made wrong, {way}: {found}" for way, found in bad.items()
    )


@pytest.mark.parametrize("call", CALLS)
def test_right_arguments_are_taken(call):
    function, arguments = CALLS[call]
    function(**{name: argument.value for name, argument in arguments.items()})
    plt.close("all")


def test_there_are_a_thousand_calls():
    assert sum(1 for pair in PAIRS for _ in wrong_calls(*pair)) > 1000
