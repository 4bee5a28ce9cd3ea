"""Test errors of local posteriors: what the stored results say, and drawing without computing."""

import shutil

import numpy as np
import pytest

from figures import posterior
from figures.measure.posterior import DELTAS, METHODS, SAMPLED, measure
from tests.stored import STORED, forbid_computing

FOLDER = STORED.with_name("posterior")
FLAT = ("sgd-slow", "rsgd-fast", "rsgd-slow", "esgd")


@pytest.fixture
def measured(monkeypatch):
    forbid_computing(monkeypatch)
    return {one.minima.protocol.name: one for one in measure(STORED, FOLDER, n_jobs=1)}


def test_convergence(measured):
    """Everything converged but Monte Carlo around SGD fast at the largest distance."""
    for name, one in measured.items():
        assert list(one.errors) == list(METHODS)
        for method, errors in one.errors.items():
            converged = np.ones((1 if method == "mcmc" else 3, len(errors.delta)), bool)
            if (name, method) == ("sgd-fast", "mcmc"):
                converged[0, -1] = False
            for values in (errors.distance, errors.gibbs, errors.bayes):
                np.testing.assert_array_equal(np.isfinite(values), converged)


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
    """The Gibbs error by EP within three standard errors up to d = 0.05; further out, and by BP, as the manual says."""
    for name, one in measured.items():
        sampled = one.errors["mcmc"]
        np.testing.assert_allclose(sampled.delta, DELTAS[SAMPLED])
        ep, bp = (one.errors[method].gibbs[0, SAMPLED] - sampled.gibbs[0] for method in ("ep", "bp"))
        assert np.all(np.abs(ep[:2]) < 3 * sampled.gibbs_std_error[0, :2])
        if name != "sgd-fast":
            assert 0 < ep[2] < 0.0012 and ep[2] < bp[2] < 0.007
    sharp = measured["sgd-fast"].errors
    assert sharp["bp"].gibbs[0, 2] > sharp["mcmc"].gibbs[0, 1] + 5 * sharp["mcmc"].gibbs_std_error[0, 1]


def test_drawn(tmp_path, monkeypatch, measured, capsys):
    for path in FOLDER.glob("*.npz"):
        shutil.copy(path, tmp_path)
    assert posterior.main(["--results", str(tmp_path)]) == 0
    for suffix in (".pdf", ".png", ".csv", ".md"):
        assert (tmp_path / f"posterior{suffix}").stat().st_size > 500
    assert "Bayes − centre" in capsys.readouterr().out
