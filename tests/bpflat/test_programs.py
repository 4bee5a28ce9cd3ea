"""How all programs end, and what they say on terminals without Greek."""

import argparse
import importlib
import io
import os
import signal
import sys
import time

import pytest

from bpflat import cli
from bpflat.programs import run_command, spelling


def program(action, *, resume="", **options):
    return run_command(argparse.ArgumentParser(), lambda arguments: action(), [], resume=resume, **options)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_is_one_line(capsys, number, status):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    cleared_up = []

    def action():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # a second one does not disturb what comes after the first
            cleared_up.append(True)

    assert program(action, resume="do it again") == status
    assert capsys.readouterr() == ("", "interrupted; do it again\n") and cleared_up
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


class Destroyed:
    """Its end is no place for what `at_the_end` raises."""

    def __init__(self, at_the_end):
        self.at_the_end = at_the_end

    def __del__(self):
        self.at_the_end()


def test_an_interruption_of_a_destructor_comes_again(capsys):
    ended = []

    def action():
        Destroyed(lambda: os.kill(os.getpid(), signal.SIGTERM))
        ended.append("destructor")
        time.sleep(60)
        ended.append("sleep")

    assert program(action) == 143
    assert capsys.readouterr() == ("", "interrupted\n") and ended == ["destructor"]


def test_destructors_complain_of_no_interruption(capsys, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: print("ignored:", lost.exc_value, file=sys.stderr))
    complaint = fails(ValueError("half-written"))

    def interrupted():
        half_written = Destroyed(complaint)
        os.kill(os.getpid(), signal.SIGINT)
        return half_written

    assert program(interrupted) == 130
    assert program(lambda: Destroyed(complaint) and None) == 0
    assert capsys.readouterr() == ("", "interrupted\nignored: half-written\n")


def test_a_program_that_ignores_interruptions_goes_on_to(capsys):
    """The way nohup and the shell start programs in the background."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert program(lambda: os.kill(os.getpid(), signal.SIGINT)) == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr() == ("", "")


def fails(error):
    def action():
        raise error

    return action


def test_expected_errors_are_one_line_and_faults_are_not_hidden(capsys):
    assert program(fails(KeyError("x")), expected=(KeyError,), prefix="mine") == 2
    assert program(fails(MemoryError())) == 2
    assert capsys.readouterr().err == "mine: 'x'\nerror: MemoryError\n"
    with pytest.raises(KeyError):
        program(fails(KeyError("x")))


def test_dashes_are_no_value(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    with pytest.raises(SystemExit) as ended:
        run_command(parser, lambda arguments: None, ["--seed=--"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("error: argument --seed: expected one argument\n")


def test_spellings():
    text = "Φ(σ) ≥ δE · β², Δ₀ ± 3×3 → ½, naïve – ς “Ω” 中"
    assert "".join(map(spelling, text)).startswith("Phi(sigma) >= deltaE * beta2, Delta0 +- 3x3 -> 12, naive - ")


PROGRAMS = ["training.committee.__main__", "training.deep.__main__", "figures.table1"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("name", [*PROGRAMS, "entropy", "energy", "flatness"])
def test_help_on_terminals_without_greek(monkeypatch, name, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    main, line = (importlib.import_module(name).main, []) if "." in name else (cli.main, [name])
    with pytest.raises(SystemExit) as ended:
        main([*line, "--help"])
    sys.stdout.flush()
    assert ended.value.code == 0
    text = written.getvalue().decode(encoding)
    assert "usage:" in text and ("sigma" in text or "beta" in text)
