"""The checkers of arguments: what passes, what does not, and the scale of rows."""

import fractions

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from bpflat import arguments, committee, local_energy

SQUARE = np.array([[1.0, -2.0], [3.0, 0.5]])


class TestArrays:
    @pytest.mark.parametrize(
        "values",
        [
            SQUARE,
            SQUARE.tolist(),
            tuple(map(tuple, SQUARE)),
            list(SQUARE),
            list(map(torch.tensor, SQUARE)),
            torch.tensor(SQUARE),
            torch.tensor(SQUARE, dtype=torch.bfloat16),
            SQUARE.astype(np.float16),
            SQUARE.astype(np.longdouble),
            SQUARE.astype(">f4"),
            np.ma.array(SQUARE),
        ],
    )
    def test_numbers_in_any_dress(self, values):
        got = arguments.check_array("values", values, ("A", 2))
        assert got.dtype == np.float64 and type(got) is np.ndarray
        assert_array_equal(got, SQUARE)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (SQUARE * 1j, "complex: take x.real"),
            (np.ma.array(SQUARE, mask=SQUARE > 2), "masked entries: fill them"),
            ([np.ma.array([1.0, 2.0], mask=[0, 1])], "masked entries"),
            ([1.0, np.ma.masked], "masked entries"),
            (SQUARE.astype("M8[s]"), "dates"),
            (SQUARE.astype("m8[s]"), "time spans"),
            (SQUARE.astype([("x", float)]), "records"),
            (SQUARE.astype(str), "text"),
            ([1.0, "2"], "text"),
            (b"12", "it is b'12'"),
            (SQUARE.astype(object), "Python objects: x.astype"),
            (SQUARE > 0, "True and False"),
            ([1.0, True], "True and False"),
            ([[1.0], [1.0, 2.0]], "inhomogeneous"),
            (torch.tensor(SQUARE, requires_grad=True), "detach it"),
            ([torch.tensor(1.0, requires_grad=True)], "detach it"),
            (torch.tensor(SQUARE, device="meta"), "a tensor on meta: move it first"),
            (torch.tensor(SQUARE).to_sparse(), "sparse tensor"),
            (sparse.csr_matrix(SQUARE), "sparse matrix"),
            (None, "it is None"),
            ({1.0: 2.0}, "it is {1.0: 2.0}"),
        ],
    )
    def test_what_is_no_array_of_numbers(self, values, message):
        with pytest.raises(ValueError, match=rf"^values must be an array of real numbers \(.*{message}"):
            arguments.check_array("values", values)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (SQUARE * np.nan, "NaN or infinite entries, perhaps"),
            (np.full(2, np.longdouble("1e400")), "NaN or infinite"),
            (SQUARE * 1e101, r"between -1e\+100 and 1e\+100; found 1e\+101"),
            (np.ones((2, 3)), r"must have shape \(A, 2\), not \(2, 3\)"),
            (np.ones((0, 2)), "are empty"),
        ],
    )
    def test_numbers_that_will_not_do(self, values, message):
        with pytest.raises(ValueError, match=f"^values .*{message}"):
            arguments.check_array("values", values, ("A", 2) if np.ndim(values) == 2 else None, hint=", perhaps")

    @pytest.mark.parametrize("factor", [1e300, 1e71, 1e-71, 1e-300])
    def test_patterns_have_a_size(self, factor):
        with pytest.raises(ValueError, match="patterns must be of sizes between"):
            arguments.check_patterns(SQUARE * factor, 2)

    def test_a_small_entry_is_no_small_pattern(self):
        patterns = [[1.0, 1e-300], [0.0, 0.0]]
        assert_array_equal(arguments.check_patterns(patterns, 2), patterns)
        with pytest.raises(ValueError, match="zeros only"):
            arguments.check_patterns(patterns, 2, zero_rows=False)

    def test_grids_have_bounds(self):
        for bad in (1e-320, 1e13):
            with pytest.raises(ValueError, match=r"deltas must lie between 1e-12 and 1e\+12"):
                arguments.check_grid("deltas", bad)
        assert arguments.check_grid("sigmas", [0.0, 1e-320], zero=True)[1] > 0


class TestNumbers:
    def test_numbers_in_any_dress(self):
        for value in (2, 2.0, np.float32(2), np.int8(2), np.array(2), torch.tensor(2.0), fractions.Fraction(2)):
            assert arguments.check_scalar("x", value) == 2.0
        for value in (2, np.int8(2), np.array(2), torch.tensor(2)):
            assert arguments.check_count("n", value) == 2

    @pytest.mark.parametrize(
        "value",
        ["2", None, 2j, True, [2.0], np.ones(1), np.ma.masked, np.timedelta64(2), np.datetime64(2, "s"), {}, print],
    )
    def test_what_is_no_number(self, value):
        for check in (arguments.check_scalar, arguments.check_count, arguments.check_flag):
            if not (check is arguments.check_flag and value is True):
                with pytest.raises(ValueError, match=r"^x must be"):
                    check("x", value)
        if value is not None:
            with pytest.raises(ValueError, match=r"^seed must be None, an integer"):
                arguments.check_seed(value)

    @pytest.mark.parametrize(
        ("value", "bounds", "message"),
        [
            (-1.0, {}, "at least 0; got -1.0"),
            (0, {"above": 0}, "greater than 0; got 0"),
            (1.0, {"below": 1}, "below 1; got 1.0"),
            (2.0, {"at_most": 1, "why": "or nothing moves"}, r"at most 1 \(or nothing moves\); got 2.0"),
            (1e308, {}, r"at most 1e\+100"),
            (10**400, {}, "at least 0; got 10000"),
            (np.nan, {}, "at least 0; got nan"),
        ],
    )
    def test_bounds(self, value, bounds, message):
        with pytest.raises(ValueError, match=f"^x must be finite and .*{message}"):
            arguments.check_scalar("x", value, **bounds)

    def test_counts_end(self):
        with pytest.raises(ValueError, match="n must be a whole number, at most 1000000000; got a int"):
            arguments.check_count("n", 10**5000)
        with pytest.raises(
            ValueError, match="n must be a whole number, at most 1000000000; got 1180591620717411303424"
        ):
            arguments.check_count("n", 2**70)

    @pytest.mark.parametrize("n_jobs", [0, "x", 2.0, True, None, 2**70, -(2**70)])
    def test_jobs(self, n_jobs):
        with pytest.raises(ValueError, match="n_jobs must be a whole number other than 0"):
            arguments.check_jobs(n_jobs)
        assert arguments.check_jobs(-1) == -1


def test_choices_paths_and_devices():
    for value in ("c", None, ["a"], np.ones(2), 1):
        with pytest.raises(ValueError, match=r"^method .* is unknown; choose one of 'a', 'b'"):
            arguments.check_choice("method", value, ("a", "b"))
    for value in (3, None, b"x", "", "a\0b", 1.5):
        with pytest.raises(ValueError, match=r"^path must be the name of a file"):
            arguments.check_path("path", value)
    for value in (None, True, 0, "gpu", "cuda:99", "meta", 1.5):
        with pytest.raises(ValueError, match=r"^device .* cannot be used"):
            arguments.check_device(value)


def instance(seed=0, n_hidden=3, n_inputs=50, n_patterns=40):
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1, 2, (n_hidden, n_inputs)).astype(float)
    return weights, rng.choice([-1.0, 1.0], (n_patterns, n_inputs))


SCALES = np.array([1e-200, 1e-310, 3e200, 1.5e308])


class TestScalesOfRows:
    @pytest.mark.parametrize("scale", SCALES)
    def test_normalised_rows_have_no_scale(self, scale):
        weights = np.random.default_rng(0).uniform(-1, 1, (4, 3, 50))
        rows, scales = committee.normalised(weights)
        assert_allclose(np.sum(rows**2, axis=-1), 50, rtol=1e-14)
        assert_allclose(rows * scales[..., None], weights, rtol=1e-14)
        if scale != 1e-310:  # the denormal numbers have few digits left
            assert_allclose(committee.normalised(weights * scale)[0], rows, rtol=1e-14)
        assert_allclose(committee.normalised(weights * scale)[1], scales * scale, rtol=1e-12)

    def test_rows_of_zeros(self):
        rows, scales = committee.normalised(np.array([[0.0, 0.0], [3.0, 4.0]]))
        assert_array_equal(rows[0], 0)
        assert_allclose(rows[1], np.array([0.6, 0.8]) * np.sqrt(2))
        assert_allclose(scales, [1, 5 / np.sqrt(2)])
        with pytest.raises(ValueError, match="all zero"):
            arguments.check_weights([[0.0, 0.0]], zero_rows=False)

    def test_ties_stay_ties(self):
        """Exact ties of ternary weights, at any scale that is a power of two: others round the sums themselves."""
        n_ties = 0
        for seed in range(20):
            weights, patterns = instance(seed)
            hidden = weights @ patterns.T
            n_ties += np.count_nonzero(hidden == 0)
            expected = np.where(np.sum(hidden >= 0, axis=0) > 1, 1, -1)
            for scale in (1.0, 2.0**-1070, 2.0**-700, 2.0**1023):
                assert_array_equal(committee.predict(weights * scale, patterns), expected)
        assert n_ties > 100

    @pytest.mark.parametrize("method", ["sampling", "exact"])
    def test_one_local_energy_at_any_scale(self, method):
        weights, patterns = np.random.default_rng(0).uniform(-1, 1, (3, 50)), instance()[1]
        labels = committee.predict(weights, patterns)

        def energy(scale):
            options = {"method": method, "n_samples": 50, "seed": 0}
            return local_energy(weights * scale, patterns, labels, [0.1, 0.5], **options)

        expected = energy(1.0)
        assert expected.train_error == 0 and (expected.delta_error > 0).all()
        for scale in SCALES[SCALES != 1e-310]:
            assert_allclose(energy(scale).delta_error, expected.delta_error, rtol=1e-12)
            assert energy(scale).train_error == 0
