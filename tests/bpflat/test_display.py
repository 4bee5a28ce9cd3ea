"""Results at a prompt: one short line, without arrays; printed: a table of all points."""

from dataclasses import replace

import numpy as np
import pytest

import bpflat
from bpflat import binary, theory
from bpflat.cli import main
from bpflat.results import Cumulants
from bpflat.storage import StoredResult
from tests.instances import random_instance


@pytest.fixture(scope="module")
def problem():
    return random_instance(51, 3, 20)


@pytest.fixture(scope="module")
def results(problem):
    """One of each public class of results, by name."""
    weights, patterns, labels = problem
    signs = np.sign(weights)
    answers = bpflat.committee.predict(signs, patterns)
    found = (
        bpflat.local_entropy(weights, patterns, labels, distances=[0.05, 0.1]),
        bpflat.local_energy(weights, patterns, labels, [0.1, 0.5], method="exact"),
        binary.local_entropy(signs, patterns, answers, distances=[0.05, 0.2]),
        binary.local_energy(signs, patterns, answers, [0.0, 0.1]),
        binary.focusing_bp(patterns, labels, n_hidden=3, seed=0),
        theory.volume([0.5, 2.5]),
        theory.local_entropy(1.0, [0.05, 0.25]),
        Cumulants(np.array([0.0, 1.0]), np.array([[0.0, -3.5]]), np.full((1, 2), np.nan), np.array([[2.0, 1.5]])),
        bpflat.load_reduced_fashion_mnist(20),
        bpflat.bp.make_nodes(weights, patterns),
    )
    return {type(result).__name__: result for result in found}


def test_repr_is_short(results):
    for name, result in results.items():
        text = repr(result)
        assert text.startswith(f"{name}(") and text.endswith(")") and "\n" not in text
        assert "array" not in text and "nan" not in text and "None" not in text and len(text) < 300


def subclasses(base):
    return {base}.union(*map(subclasses, base.__subclasses__()))


def test_no_result_shows_its_arrays(results):
    """The decorator of dataclasses makes a repr of its own wherever it is not told to leave that."""
    assert {kind.__repr__ for kind in subclasses(StoredResult)} == {StoredResult.__repr__}


def test_repr(results):
    curve, found = results["LocalEntropyCurve"], results["Solution"]
    low, high = (f"{phi:.4g}" for phi in sorted(curve.phi))
    assert repr(curve) == (
        "LocalEntropyCurve(method='bp', distance=(2,) in [0.05, 0.1], "
        f"phi=(2,) in [{low}, {high}], converged=2 of 2, train_error=0)"
    )
    assert repr(found) == f"Solution(weights=(3, 51) in [-1, 1], n_errors=0, steps={found.steps})"
    assert "converged=1 of 2" in repr(results["Volume"])
    assert "beta=(2,) in [0, 1]" in repr(results["Cumulants"]) and "std_error" not in repr(results["Cumulants"])


def test_print(results, problem, tmp_path, capsys):
    """A row per point, a column per array with something in it: what the command prints."""
    curve = results["LocalEntropyCurve"]
    title, head, *rows = str(curve).splitlines()
    assert title.startswith("local entropy by bp") and title.endswith("training error 0.00%")
    assert head.split() == ["delta", "distance", "log_z", "phi"]
    printed = [[float(number) for number in row.split()] for row in rows]
    np.testing.assert_allclose(printed, np.column_stack([getattr(curve, name) for name in head.split()]), rtol=1e-4)
    curve.save(tmp_path / "curve.npz")
    assert main(["info", str(tmp_path / "curve.npz")]) == 0
    assert capsys.readouterr().out == f"{curve}\n"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("LocalEnergyProfile", "sigma delta_error std_error"),
        ("BinaryEntropyCurve", "gamma distance log_z phi entropy"),
        ("FlipEnergyProfile", "flip_probability delta_error std_error"),
        ("Volume", "alpha phi overlap replicon"),
        ("TheoryCurve", "distance phi overlap replicon"),
    ],
)
def test_columns(results, name, head):
    _, columns, *rows = str(results[name]).splitlines()
    assert columns.split() == head.split() and len(rows) == 2 + (name == "Volume")


def test_points_that_did_not_converge_are_counted(results):
    curve = results["LocalEntropyCurve"]
    sampled = {"sigma": np.array([0.3, 0.4]), "message": np.array(["", "chains disagree"])}
    curve = replace(curve, converged=np.array([True, False]), **sampled)
    assert str(curve).splitlines()[-2:] == ["1 of 2 points did not converge (nan)", "σ = 0.4: chains disagree"]


def test_many_references(problem):
    """Printed are the first; the command prints all of them."""
    weights, patterns, labels = problem
    curves = bpflat.local_entropy(np.stack([weights, *(-weights,) * 4]), patterns, labels, [0.1], beta=1.0)
    assert "phi=(5, 1) in [" in repr(curves) and "train_error=(5,) in [0, 1]" in repr(curves)
    lines = str(curves).splitlines()
    assert len(lines) == 3 * 3 + 1 and lines[-1] == "… and 2 more references"
    assert "reference 2, training error 100.00%" in lines[6]
    assert lines[1].split()[-1] == "beta" and "at the cost beta" in lines[0]
