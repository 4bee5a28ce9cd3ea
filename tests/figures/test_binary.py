"""Solutions with weights ±1: what the stored results say, drawing without computing, and other plans refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from bpflat import committee, load_reduced_fashion_mnist
from figures import binary
from figures.measure.binary import DISTANCES, FLIPS, SAMPLED, SOLVERS, BinarySeries, Plan, measure
from tests.stored import RESULTS

FOLDER = RESULTS / "binary"


@pytest.fixture
def forbidden(monkeypatch):
    def computed_again(*args, **options):
        raise AssertionError("a stored result was computed again")

    for name in ("figures.measure.binary._find", "bpflat.binary.local_entropy", "bpflat.binary.local_energy"):
        monkeypatch.setattr(name, computed_again)


@pytest.fixture(params=[500, 200])
def series(request, forbidden):
    folder = FOLDER if request.param == 500 else RESULTS / f"binary-{request.param}"
    return {one.name: one for one in measure(folder, Plan(n_train=request.param), n_jobs=1)}


def test_everything_converged(series):
    assert list(series) == list(SOLVERS)
    for one in series.values():
        assert one.entropy.converged.all() and one.sampled.converged.all()
        np.testing.assert_allclose(one.entropy.distance, np.tile(DISTANCES, (Plan().restarts, 1)), rtol=1e-8)
        np.testing.assert_array_equal(one.noise, FLIPS)


def test_errors_of_the_stored_weights(series):
    for one in series.values():
        data = load_reduced_fashion_mnist(one.minima.n_train)
        test = data.test_patterns, data.test_labels
        weights, minima = one.minima.weights.astype(float), one.minima
        train = committee.error(weights, data.train_patterns, data.train_labels)
        np.testing.assert_array_equal(train, minima.train_error)
        np.testing.assert_array_equal(train, one.entropy.train_error)
        np.testing.assert_array_equal(committee.error(weights, *test), minima.test_error)
        np.testing.assert_array_equal(committee.error(weights, *test, balanced=True), minima.test_error_balanced)


def test_against_monte_carlo(series):
    """Belief propagation puts Φ(0.05) too low around every machine."""
    for one in map(BinarySeries.solved, series.values()):
        ratio = one.entropy.phi[:, SAMPLED[1]] / one.sampled.phi[:, 1]
        assert np.all(ratio > 1) and np.all(ratio < 2.2)
        assert np.all(np.abs(one.sampled.distance / DISTANCES[SAMPLED] - 1) < 0.05)


def test_clean_revision(series):
    for one in series.values():
        for result in (one.minima, one.entropy, one.energy, one.sampled):
            assert len(result.provenance.git_revision) == 40


def test_drawn(tmp_path, forbidden, capsys):
    for path in FOLDER.glob("*.npz"):
        shutil.copy(path, tmp_path)
    assert binary.main(["--results", str(tmp_path)]) == 0
    for suffix in (".pdf", ".png", ".csv", ".md"):
        assert (tmp_path / f"binary{suffix}").stat().st_size > 500
    assert (tmp_path / "binary.md").read_text("utf-8") == (FOLDER / "binary.md").read_text("utf-8")
    assert "BP − Monte Carlo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--restarts 2", "choose another folder of results"),
        ("--n-hidden 3", "choose another folder of results"),
        ("--n-train 100", "choose another folder of results"),
        ("--n-samples 50", "n_samples must be"),
    ],
)
def test_refused(options, message, forbidden, tmp_path, capsys):
    shutil.copy(FOLDER / "focusing.npz", tmp_path)
    assert binary.main(["--results", str(tmp_path), *options.split()]) == 2
    assert message in capsys.readouterr().err


def test_unsolved_machines_are_left_out(series):
    """Around them Φ counts weights with errors, which is another measure."""
    one = series["decimation"]
    left, kept = one.minima.train_error > 0, one.solved()
    assert left.any() and not kept.minima.train_error.any()
    np.testing.assert_array_equal(kept.entropy.reference, one.minima.reference[~left])
    np.testing.assert_array_equal(kept.energy.delta_error, one.energy.delta_error[~left])
    np.testing.assert_array_equal(kept.noise, FLIPS)
    none = replace(one, minima=replace(one.minima, train_error=one.minima.train_error + 1))
    with pytest.raises(ValueError, match=r"every restart makes training errors on [25]00 patterns"):
        none.solved()
