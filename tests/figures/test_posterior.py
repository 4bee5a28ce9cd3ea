"""Test errors of local posteriors: what the stored results say, and drawing without computing."""

import shutil

import numpy as np
import pytest

from figures import posterior
from figures.measure.posterior import DELTAS, METHODS, measure
from tests.stored import STORED, forbid_computing

FOLDER = STORED.with_name("posterior")
FLAT = ("sgd-slow", "rsgd-fast", "rsgd-slow", "esgd")


@pytest.fixture
def measured(monkeypatch):
    forbid_computing(monkeypatch)
    return {one.minima.protocol.name: one for one in measure(STORED, FOLDER, n_jobs=1)}


def test_everything_converged(measured):
    for one in measured.values():
        assert list(one.errors) == list(METHODS)
        for method, errors in one.errors.items():
            assert np.isfinite(errors.gibbs).all() and np.isfinite(errors.bayes).all()
            assert len(errors.gibbs) == (1 if method == "mcmc" else 3)


def test_centre(measured):
    """The nearest posterior errs as its centre does, but for a few patterns out of 677."""
    for one in measured.values():
        for errors in (one.errors["bp"], one.errors["ep"]):
            for rule in (errors.gibbs, errors.bayes):
                assert np.all(np.abs(rule[:, 0] - one.minima.test_error) < 4 / 677)


def test_majority(measured):
    """Around SGD fast the majority errs less than the centre, around each minimum; elsewhere it does not differ."""
    sharp = measured["sgd-fast"]
    assert np.all(sharp.errors["ep"].bayes[:, 3:] < sharp.minima.test_error[:, None])
    for name in FLAT:
        gain = measured[name].errors["ep"].bayes[:, posterior.FAR] - measured[name].minima.test_error
        assert abs(gain.mean()) < 3 / 677


def test_one_machine(measured):
    """The mean error of a w' rises with the distance."""
    for one in measured.values():
        mean = one.errors["ep"].gibbs.mean(axis=0)
        assert np.all(np.diff(mean[1:]) > -1e-4) and mean[-1] > one.minima.test_error.mean()


def test_against_monte_carlo(measured):
    """The Gibbs error by EP within three standard errors; by BP far off around SGD fast, as the manual says."""
    for one in measured.values():
        sampled, ep = one.errors["mcmc"], one.errors["ep"]
        places = np.searchsorted(DELTAS, sampled.delta)
        np.testing.assert_array_equal(sampled.delta, DELTAS[places])
        off = ep.gibbs[0, places] - sampled.gibbs[0]
        assert np.all(np.abs(off) < 3 * sampled.gibbs_std_error[0])
    sharp = measured["sgd-fast"].errors
    assert sharp["bp"].gibbs[0, 2] > sharp["mcmc"].gibbs[0, 1] + 5 * sharp["mcmc"].gibbs_std_error[0, 1]


def test_drawn(tmp_path, monkeypatch, measured, capsys):
    for path in FOLDER.glob("*.npz"):
        shutil.copy(path, tmp_path)
    assert posterior.main(["--results", str(tmp_path)]) == 0
    for suffix in (".pdf", ".png", ".csv", ".md"):
        assert (tmp_path / f"posterior{suffix}").stat().st_size > 500
    assert "Bayes − centre" in capsys.readouterr().out
