"""Solvers of weights ±1: what they find makes no error, and focusing finds the flatter ones."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bpflat import binary, committee

SOLVERS = {"focusing": binary.focusing_bp, "decimation": binary.decimated_bp}


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

    def test_beyond_capacity(self, solve):
        """No machine is right about a pattern and its copy of the other label: the fewest errors are reported."""
        patterns, labels = random_problem(31, 8, 2)
        patterns, labels = np.vstack([patterns, patterns[:1]]), np.append(labels, -labels[0])
        found = solve(patterns, labels, n_steps=4, seed=0)
        assert found.n_errors == round(9 * committee.error(found.weights, patterns, labels)) >= 1


def test_focusing_finds_flatter_ones():
    """Φ(0.05) and δE(0.05) of solutions of 95 random patterns, N = 201, three instances: better on each."""
    for seed in (1, 3, 4):
        patterns, labels = random_problem(201, 95, seed)
        weights = np.stack([solve(patterns, labels, seed=0).weights for solve in SOLVERS.values()])
        assert not committee.error(weights, patterns, labels).any()
        focused, decimated = binary.local_entropy(weights, patterns, labels, distances=[0.05]).phi[:, 0]
        assert focused > decimated
        focused, decimated = binary.local_energy(weights, patterns, labels, [0.05]).delta_error[:, 0]
        assert focused < decimated
