"""What all programs share: how they end, and terminals that know no Greek."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import os
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from bpflat.reading import reason

_REPEATED_SECONDS = 5  # a second signal so soon is the same wish, and must not disturb the clearing up
_AGAIN_SECONDS = 0.1  # until a destructor that swallowed an interruption has ended
_SPELLINGS = {"×": "x", "±": "+-", "→": "->", "−": "-", "–": "-", "—": "--", "≥": ">=", "≤": "<=", "≠": "!=", "·": "*"}


def run_command(
    parser: argparse.ArgumentParser,
    action: Callable[[argparse.Namespace], None],
    argv: Sequence[str] | None = None,
    *,
    expected: tuple[type[Exception], ...] = (),
    prefix: str = "error",
    resume: str = "",
) -> int:
    """Parse the command line and carry out `action`; returns the exit status of the program.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    action : callable
        Does what the parsed arguments ask for.
    argv : sequence of str, optional
        By default the command line of this process.
    expected : tuple of type
        Errors that a user can mend, beside ValueError, OSError and MemoryError; any other is a fault of the program.
    prefix : str
        What begins the message of an error.
    resume : str
        How to go on after an interruption, if that can be done.

    Returns
    -------
    int
        0; 2 after an expected error, told on stderr; 128 + signal after SIGINT (Ctrl-C) and SIGTERM, told in one line.
    """
    mendable: tuple[type[Exception], ...] = (ValueError, OSError, MemoryError, *expected)
    _spell_out_what_terminals_lack()
    with _interruptible() as signals:
        try:
            _refuse_dashes_as_values(parser, sys.argv[1:] if argv is None else argv)
            action(parser.parse_args(argv))
        except mendable as error:
            print(f"{prefix}: {reason(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as interruption:
            print("; ".join(filter(None, ["interrupted", str(interruption), resume])), file=sys.stderr)
            return 128 + (signals or [signal.SIGINT])[0]
    return 0


def _refuse_dashes_as_values(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse ``--option=--``, of which argparse makes an empty list whatever the option's type."""
    for word in argv:
        if word.startswith("--") and word.endswith("=--"):
            parser.error(f"argument {word[:-3]}: expected one argument")


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Let SIGTERM interrupt the block as Ctrl-C does; gives the numbers of the signals that came.

    An interruption that falls into a destructor, from which Python lets no exception out, comes again.  What
    destructors have to say about half-written files after an interruption is left out.
    """
    signals: list[int] = []
    deadline = 0.0
    hook = sys.unraisablehook
    again: threading.Timer | None = None

    def interrupt(number: int, frame: object) -> None:
        nonlocal deadline
        if time.monotonic() > deadline:
            deadline = time.monotonic() + _REPEATED_SECONDS
            signals.append(number)
            raise KeyboardInterrupt

    def after_destructor(lost: sys.UnraisableHookArgs) -> None:
        nonlocal deadline, again
        if not signals:
            hook(lost)
        elif issubclass(lost.exc_type, KeyboardInterrupt):
            deadline = 0.0
            again = threading.Timer(_AGAIN_SECONDS, os.kill, [os.getpid(), signals.pop()])
            again.daemon = True
            again.start()

    on_main_thread = threading.current_thread() is threading.main_thread()
    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if on_main_thread and signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    sys.unraisablehook = after_destructor
    try:
        yield signals
    finally:
        if again is not None:
            again.cancel()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _spell_out_what_terminals_lack() -> None:
    """Let stdout and stderr spell out the characters that their encoding lacks, such as Greek letters in ASCII."""
    codecs.register_error("bpflat.spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="bpflat.spelled")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Error handler of codecs: β becomes beta, ² becomes 2, and what has no spelling a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(spelling, error.object[error.start : error.end])), error.end


def spelling(character: str) -> str:
    """How ASCII writes a character: Φ as Phi, σ as sigma, ₀ as 0, → as ->."""
    if character in _SPELLINGS:
        return _SPELLINGS[character]
    alphabet, _, letter = unicodedata.name(character, "").rpartition(" LETTER ")
    if alphabet == "GREEK SMALL":
        return letter.split()[0].lower()
    if alphabet == "GREEK CAPITAL":
        return letter.split()[0].capitalize()
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"
