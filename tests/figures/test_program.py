"""The command line that all figures share."""

import matplotlib.pyplot as plt
import pytest

from figures.program import Output, run_program


def program(make, *argv):
    """Run a program of one option."""
    return run_program("toy_figure", "A toy.", lambda parser: parser.add_argument("--n", type=int), make, argv)


def test_everything_is_saved_and_named(tmp_path, capsys):
    figure, _ = plt.subplots()
    assert program(lambda a: Output(tmp_path, [("n",), (a.n,)], figure, "a table\n"), "--n", "3") == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"toy-figure.{end}" for end in ("pdf", "png", "csv", "md")}
    assert (tmp_path / "toy-figure.csv").read_text() == "n\n3\n"
    printed = capsys.readouterr().out
    assert printed.startswith("a table\n") and all(str(path) in printed for path in tmp_path.iterdir())
    assert not plt.fignum_exists(figure.number)


def test_numbers_alone(tmp_path, capsys):
    assert program(lambda a: Output(tmp_path, [("n",)])) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["toy-figure.csv"]
    assert capsys.readouterr().out.startswith("numbers:\n")


def test_errors(tmp_path, capsys):
    """Those that a user can mend are one line; a fault of the program is not hidden."""

    def fails(error):
        def make(arguments):
            raise error

        return make

    assert program(fails(FileNotFoundError("runs is not there"))) == 2
    assert capsys.readouterr().err == "error: runs is not there\n"
    with pytest.raises(KeyError):
        program(fails(KeyError("a fault")))
