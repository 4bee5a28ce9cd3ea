"""Solvers of weights ±1: what they find makes no error, and focusing finds the flatter ones."""

from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bpflat import binary, committee
from bpflat.binary.solvers import _descent

BY_MESSAGES = {"focusing": binary.focusing_bp, "decimation": binary.decimated_bp}
SOLVERS = BY_MESSAGES | {"rounded SGD": binary.rounded_sgd}
BRIEF = {  # a few steps
    **{name: partial(solve, n_steps=4) for name, solve in BY_MESSAGES.items()},
    "rounded SGD": partial(binary.rounded_sgd, n_epochs=4),
}


def random_problem(n_inputs, n_patterns, seed):
    """Random patterns and labels."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, 1.0], (n_patterns, n_inputs)), rng.choice([-1.0, 1.0], n_patterns)


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
class TestSolutions:
    @pytest.mark.parametrize(("n_hidden", "n_patterns"), [(1, 50), (3, 40)])
    def test_no_errors(self, solve, n_hidden, n_patterns):
        """Half a pattern per weight for a perceptron; hidden units of a committee that differ."""
        patterns, labels = random_problem(101, n_patterns, 0)
        found = solve(patterns, labels, n_hidden, seed=0)
        assert found.n_errors == 0 == committee.error(found.weights, patterns, labels)
        assert_array_equal(np.abs(found.weights), 1)
        assert len(np.unique(found.weights, axis=0)) == n_hidden

    def test_seeds(self, solve):
        patterns, labels = random_problem(51, 15, 1)
        first, same, other = (solve(patterns, labels, 3, seed=seed).weights for seed in (0, 0, 1))
        assert_array_equal(first, same)
        assert (first != other).any()


@pytest.mark.parametrize("solve", BRIEF.values(), ids=BRIEF)
def test_beyond_capacity(solve):
    """No machine is right about a pattern and its copy of the other label: the fewest errors are reported."""
    patterns, labels = random_problem(31, 8, 2)
    patterns, labels = np.vstack([patterns, patterns[:1]]), np.append(labels, -labels[0])
    found = solve(patterns, labels, seed=0)
    assert found.n_errors == round(9 * committee.error(found.weights, patterns, labels)) >= 1
    assert found.steps == 4


@pytest.mark.parametrize("bad", [{"eta": 0.0}, {"beta": -1.0}, {"omega": np.nan}, {"batch": 0}, {"n_epochs": 1.5}])
def test_bad_rates(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"^{name}"):
        binary.rounded_sgd(*random_problem(11, 4, 0), **bad)


def test_descends_the_loss():
    """Differences of eq. 8, ``f = -s/2 + log(2 cosh ωs)/(2ω)``, in the pre-activations of three units."""
    stable, beta, omega = np.random.default_rng(0).normal(size=(3, 5)), 1.5, 0.7

    def loss(h):
        s = np.tanh(beta * h).sum(axis=0) / np.sqrt(3)
        return np.sum(-s / 2 + np.log(2 * np.cosh(omega * s)) / (2 * omega))

    step = 1e-5 * np.eye(15).reshape(15, 3, 5)
    slope = [(loss(stable + e) - loss(stable - e)) / 2e-5 for e in step]
    assert_allclose(_descent(stable, beta, omega), -np.reshape(slope, (3, 5)), rtol=1e-7)


def test_smaller_steps_of_focusing_solve_harder_problems():
    """A committee of five units with 150 random patterns, whose fixed point 20 steps lose on the way."""
    patterns, labels = random_problem(101, 150, 0)
    coarse, fine = (binary.focusing_bp(patterns, labels, 5, n_steps=n, seed=0).n_errors for n in (20, 80))
    assert fine == 0 < coarse


def test_focusing_finds_flatter_ones():
    """Φ(0.05) and δE(0.05) of solutions of 95 random patterns, N = 201, three instances: better on each."""
    for seed in (1, 3, 4):
        patterns, labels = random_problem(201, 95, seed)
        weights = np.stack([solve(patterns, labels, seed=0).weights for solve in BY_MESSAGES.values()])
        assert not committee.error(weights, patterns, labels).any()
        focused, decimated = binary.local_entropy(weights, patterns, labels, distances=[0.05]).phi[:, 0]
        assert focused > decimated
        focused, decimated = binary.local_energy(weights, patterns, labels, [0.05]).delta_error[:, 0]
        assert focused < decimated
