"""The committee machine against loops, and what it refuses."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bpflat import committee
from tests.naive import committee as naive


def random_instance(n_references=3, n_units=5, n_inputs=11, n_patterns=17, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((n_references, n_units, n_inputs)),
        rng.choice([-1.0, 1.0], size=(n_patterns, n_inputs)),
        rng.choice([-1.0, 1.0], size=n_patterns),
    )


@pytest.mark.parametrize("n_units", [1, 3, 9])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_loops(n_units, seed):
    weights, patterns, labels = random_instance(n_units=n_units, seed=seed)
    expected = [[naive.output(w, x) for x in patterns] for w in weights]
    got = committee.predict(weights, patterns)
    assert got.dtype == np.int8
    assert_array_equal(got, expected)
    assert_allclose(
        committee.error(weights, patterns, labels),
        [naive.training_error(w, patterns, labels) for w in weights],
        rtol=1e-15,
    )


def test_one_reference_and_many():
    weights, patterns, labels = random_instance()
    assert committee.predict(weights[1], patterns).shape == (17,)
    assert committee.predict(weights, patterns).shape == (3, 17)
    assert isinstance(committee.error(weights[1], patterns, labels), float)
    assert isinstance(committee.error(weights[1], patterns, labels, balanced=True), float)
    for balanced in (False, True):
        many = committee.error(weights, patterns, labels, balanced=balanced)
        assert many.shape == (3,)
        assert_array_equal(many, [committee.error(w, patterns, labels, balanced=balanced) for w in weights])


def test_scale_of_a_row_does_not_matter():
    weights, patterns, _ = random_instance()
    scale = np.exp(np.random.default_rng(1).uniform(-100, 100, size=(3, 5, 1)))
    assert_array_equal(committee.predict(scale * weights, patterns), committee.predict(weights, patterns))


def test_preactivations():
    weights, patterns, _ = random_instance(n_inputs=4)
    hidden = committee.preactivations(weights, patterns)
    assert hidden.shape == (3, 17, 5)
    assert_allclose(hidden[2, 7, 3], weights[2, 3] @ patterns[7] / 2)


def test_zero_preactivation_counts_as_plus():
    assert_array_equal(committee.predict([[1.0, 1.0]], [[1, -1], [-1, 1], [-1, -1]]), [1, 1, -1])
    assert_array_equal(committee.predict(np.zeros((3, 2)), [[1, -1]]), [1])


def test_constant_answer():
    """It errs on the smaller class, and on half of the balanced classes."""
    labels = np.array([1, 1, 1, -1])
    patterns = np.ones((4, 6))
    assert committee.error(np.ones((1, 6)), patterns, labels) == 0.25
    assert committee.error(np.ones((1, 6)), patterns, labels, balanced=True) == 0.5


def test_other_number_types():
    weights, patterns, labels = random_instance()
    expected = committee.error(weights, patterns, labels)
    as_int = patterns.astype(np.int8), labels.astype(np.int8)
    assert_array_equal(committee.error(weights, *as_int), expected)
    assert_array_equal(committee.error(weights.tolist(), patterns.tolist(), labels.tolist()), expected)


good_weights, good_patterns, good_labels = random_instance()
with_nan = good_weights.copy()
with_nan[1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": good_weights[:, :4]}, "weights have K = 4 .* odd"),
        ({"weights": with_nan}, "weights contain NaN"),
        ({"weights": np.full((3, 11), np.inf)}, "weights contain NaN or infinite"),
        ({"weights": np.ones(11)}, r"weights must have shape \(K, N\)"),
        ({"weights": np.ones((1, 1, 3, 11))}, "weights must have shape"),
        ({"weights": np.ones((0, 3, 11))}, "weights are empty"),
        ({"weights": np.ones((3, 0))}, "weights are empty"),
        ({"weights": [[1.0, 2.0], [1.0]]}, "weights must be an array of real numbers"),
        ({"weights": "sharp"}, "weights must be an array of real numbers"),
        ({"weights": None}, "weights must be an array of real numbers .it is None"),
        ({"patterns": good_patterns[:, :10]}, "patterns have N = 10 inputs but weights have N = 11"),
        ({"patterns": good_patterns[0]}, "patterns must have shape"),
        ({"patterns": np.ones((0, 11))}, "patterns are empty"),
        ({"patterns": good_patterns * np.nan}, "patterns contain NaN"),
        ({"labels": good_labels[:-1]}, r"labels must have shape \(17,\)"),
        ({"labels": good_labels[:, None]}, "labels must have shape"),
        ({"labels": (good_labels > 0).astype(float)}, "labels must be -1 or"),
        ({"labels": good_labels * np.nan}, "labels must be -1 or"),
        ({"labels": np.ones(17), "balanced": True}, "labels hold one class only"),
    ],
)
def test_bad_input(change, message):
    good = {"weights": good_weights, "patterns": good_patterns, "labels": good_labels}
    with pytest.raises(ValueError, match=message):
        committee.error(**(good | change))
    if set(change) <= {"weights", "patterns"}:
        with pytest.raises(ValueError, match=message):
            committee.predict(**({"weights": good_weights, "patterns": good_patterns} | change))


def test_input_is_left_alone():
    weights, patterns, labels = random_instance()
    before = [array.copy() for array in (weights, patterns, labels)]
    committee.error(weights, patterns, labels, balanced=True)
    for array, copy in zip((weights, patterns, labels), before, strict=True):
        assert_array_equal(array, copy)
