"""References that make errors against counting: samples of the prior that make no more errors, for all methods."""

import csv

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bpflat import local_entropy
from tests.instances import random_instance
from tests.stored import REFERENCE

ERRORS = [0, 1, 2, 4]


def draw(weights, patterns, delta, n_samples, seed=0):
    """Answers (n_samples, P) and |w' - w|² (n_samples,) of samples of the prior, through the pre-activations alone."""
    values, vectors = np.linalg.eigh(patterns @ patterns.T / weights.shape[1])
    seen = values > 1e-10 * values[-1]
    factor = (vectors[:, seen] * np.sqrt(delta * values[seen])).T.astype(np.float32)
    hidden = (weights @ patterns.T / np.sqrt(weights.shape[1])).astype(np.float32)
    rng = np.random.default_rng(seed)
    answers, squares = [], []
    for _ in range(n_samples // 500):
        z = rng.standard_normal((500, len(weights), len(factor)), dtype=np.float32)
        votes = np.count_nonzero(z @ factor + hidden >= 0, axis=1)
        answers.append(2 * votes > len(weights))
        # the directions that no pattern sees are integrated
        squares.append(delta * (np.sum(z**2, axis=(1, 2), dtype=float) + weights.size - z[0].size))
    return np.concatenate(answers), np.concatenate(squares)


def count(answers, squares, labels, n_errors):
    """Counted ``log P(E ≤ E₀)`` and its standard error, and the mean of |w' - w|² over the counted samples."""
    allowed = np.count_nonzero(answers != (labels > 0), axis=1) <= n_errors
    share = allowed.mean()
    return np.log(share), np.sqrt((1 - share) / share / len(allowed)), squares[allowed].mean()


def check_monte_carlo(curve, counted, error, squares, n_weights):
    """Compare within 3 standard errors, the curve's own and the count's; that of Φ stands for that of log Z."""
    assert curve.converged[0]
    assert abs(curve.log_z[0] * n_weights - counted) < 3 * np.hypot(error, curve.std_error[0] * n_weights)
    assert_allclose(2 * n_weights * curve.distance[0], squares, rtol=2e-3)


@pytest.mark.parametrize("n_errors", ERRORS)
def test_small_machine(n_errors):
    """N = 61, K = 3, P = 8: Monte Carlo within its errors, BP and EP within 5 %, and d to 1e-3 by all."""
    weights, patterns, labels = random_instance(61, 3, 8, seed=1)
    labels[:n_errors] *= -1
    counted, error, squares = count(*draw(weights, patterns, 0.5, 200_000), labels, n_errors)
    curves = {m: local_entropy(weights, patterns, labels, [0.5], method=m, seed=0) for m in ("bp", "ep", "mcmc")}
    check_monte_carlo(curves["mcmc"], counted, error, squares, weights.size)
    for method in ("bp", "ep"):
        assert curves[method].converged[0] and curves[method].train_error == n_errors / 8
        assert_allclose(curves[method].log_z[0] * weights.size, counted, rtol=0.05)
        assert_allclose(2 * weights.size * curves[method].distance[0], squares, rtol=1e-3)


@pytest.fixture(scope="module")
def samples(stored):
    weights, patterns, _ = stored[0][1]
    return draw(weights, patterns, 0.1, 100_000)


@pytest.mark.parametrize("n_errors", ERRORS)
def test_trained_machine(stored, samples, n_errors):
    """A minimum of SGD slow at Δ = 0.1, the labels of its weakest patterns turned: errors that solutions can mend.

    With errors EP and BP are no further from the count than without; the stored table says how far.
    """
    weights, patterns, labels = stored[0][1]
    labels = labels.copy()
    middle = np.sort(patterns @ weights.T, axis=1)[:, len(weights) // 2]
    labels[np.argsort(np.abs(middle))[:n_errors]] *= -1
    counted, error, squares = count(*samples, labels, n_errors)
    curves = {
        m: local_entropy(weights, patterns, labels, [0.1], method=m, seed=0, n_samples=600)
        for m in ("bp", "ep", "mcmc")
    }
    check_monte_carlo(curves["mcmc"], counted, error, squares, weights.size)
    with open(REFERENCE / "counting.csv", encoding="utf-8", newline="") as file:
        (row,) = (row for row in csv.DictReader(file) if int(row["n_errors"]) == n_errors)
    assert_allclose(counted, float(row["count"]), atol=0.1 * error)  # rounding turns a few samples
    for method in ("ep", "bp"):
        assert_allclose(curves[method].log_z[0] * weights.size, float(row[method]), rtol=1e-4)
        assert_allclose(2 * weights.size * curves[method].distance[0], squares, rtol=3e-4)
