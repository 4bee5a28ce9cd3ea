"""The local energy: against loops, closed forms and its own standard errors."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import ndtr

from bpflat import committee, energy
from bpflat.energy import LocalEnergyProfile, local_energy
from bpflat.randomness import spawn_streams
from tests.naive import committee as naive

NUMBERS = ["sigma", "delta_error", "std_error", "train_error", "n_samples"]


def random_instance(n_references=3, n_units=3, n_inputs=9, n_patterns=12, *, inputs="binary", seed=0):
    """Weights (R, K, N), patterns (P, N), and labels that every reference gets partly wrong."""
    rng = np.random.default_rng(seed)
    shape = (n_patterns, n_inputs)
    patterns = rng.choice([-1.0, 1.0], size=shape) if inputs == "binary" else rng.standard_normal(shape)
    weights = rng.standard_normal((n_references, n_units, n_inputs))
    return weights, patterns, rng.choice([-1.0, 1.0], size=n_patterns)


def draws(seed, reference, n_samples, n_units, n_inputs):
    """The noise that `local_energy` uses for one reference."""
    stream = np.random.SeedSequence(seed).spawn(reference + 1)[reference]
    return np.random.default_rng(stream).standard_normal((n_samples, n_units, n_inputs))


def assert_same(one, other, **tolerance):
    for name in NUMBERS:
        assert_allclose(getattr(one, name), getattr(other, name), err_msg=name, **(tolerance or {"rtol": 0}))


class TestAgainstLoops:
    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    @pytest.mark.parametrize("n_units", [1, 3, 5])
    def test_sampling(self, n_units, inputs):
        """The same draws: the same counts of errors, to the last one."""
        weights, patterns, labels = random_instance(2, n_units, inputs=inputs, seed=n_units)
        sigmas = [0.0, 0.1, 0.5, 1.0, 3.0]
        profile = local_energy(weights, patterns, labels, sigmas, n_samples=25, seed=5)
        for r, reference in enumerate(weights):
            expected, deviation = naive.local_energy(reference, patterns, labels, sigmas, draws(5, r, 25, n_units, 9))
            assert_allclose(profile.delta_error[r], expected, rtol=1e-12, atol=1e-15)
            assert_allclose(profile.std_error[r], deviation, rtol=1e-12, atol=1e-15)
            assert_allclose(profile.train_error[r], naive.training_error(reference, patterns, labels), rtol=1e-15)

    @pytest.mark.parametrize("inputs", ["binary", "gaussian"])
    @pytest.mark.parametrize("n_units", [1, 3, 5])
    def test_exact(self, n_units, inputs):
        weights, patterns, labels = random_instance(2, n_units, inputs=inputs, seed=n_units)
        sigmas = [0.03, 0.1, 0.5, 1.0, 3.0]
        profile = local_energy(weights, patterns, labels, sigmas, method="exact")
        expected = [[naive.exact_local_energy(w, patterns, labels, s) for s in sigmas] for w in weights]
        assert_allclose(profile.delta_error, expected, rtol=1e-12, atol=1e-14)
        assert_array_equal(profile.std_error, np.zeros((2, 5)))
        assert_array_equal(profile.train_error, committee.error(weights, patterns, labels))
        assert profile.n_samples == 0


class TestClosedForms:
    @pytest.mark.parametrize("method", ["sampling", "exact"])
    def test_one_unit(self, method):
        """K = 1: a pattern flips with probability H(|h| / (σ √(Σ w²x²/N)))."""
        weights, patterns, _ = random_instance(1, 1, 31, 40, inputs="gaussian", seed=1)
        labels = committee.predict(weights[0], patterns)
        labels[::3] *= -1  # flips of these lower the error
        sigmas = np.array([0.2, 0.6, 1.0, 2.0])
        margin = np.abs(patterns @ weights[0, 0]) / np.sqrt(patterns**2 @ weights[0, 0] ** 2)
        flips = ndtr(-margin / sigmas[:, None])
        flips[:, ::3] *= -1
        profile = local_energy(weights[0], patterns, labels, sigmas, n_samples=4000, seed=3, method=method)
        assert profile.train_error == 14 / 40
        assert np.all(np.abs(profile.delta_error - flips.mean(axis=1)) <= 4 * profile.std_error + 1e-15)

    @pytest.mark.parametrize("method", ["sampling", "exact"])
    def test_three_units_one_pattern(self, method):
        """The units are independent: the sum over the outcomes with at most one vote for the label."""
        weights, patterns, _ = random_instance(1, 3, 21, 1, seed=2)
        labels = committee.predict(weights[0], patterns)
        sigmas = np.array([0.6, 1.0, 3.0])
        row_norm = np.linalg.norm(weights[0], axis=1)
        agree = ndtr(labels[0] * (weights[0] @ patterns[0]) / row_norm / sigmas[:, None])
        a, b, c = agree.T
        flips = (1 - a) * (1 - b) * (1 - c) + a * (1 - b) * (1 - c) + (1 - a) * b * (1 - c)
        flips += (1 - a) * (1 - b) * c
        profile = local_energy(weights[0], patterns, labels, sigmas, n_samples=4000, seed=3, method=method)
        assert np.all(np.abs(profile.delta_error - flips) <= 4 * profile.std_error + 1e-15)
        if method == "sampling":  # Bernoulli
            assert_allclose(profile.std_error, np.sqrt(flips * (1 - flips) / 4000), rtol=0.1)

    def test_infinite_noise(self):
        """σ → ∞: fair coins."""
        weights, patterns, labels = random_instance(n_units=5)
        profile = local_energy(weights, patterns, labels, [1e9], method="exact")
        assert_allclose(profile.delta_error[:, 0], 0.5 - profile.train_error, atol=1e-8)

    def test_small_values_are_precise(self):
        """One unit far from its threshold: the tail of the normal, to all digits."""
        weights, patterns = np.ones((1, 400)), np.ones((1, 400))
        profile = local_energy(weights, patterns, [1], [0.5, 0.8, 1.0], method="exact")
        assert_allclose(profile.delta_error, ndtr(-20 / np.array([0.5, 0.8, 1.0])), rtol=1e-12)
        assert profile.delta_error[2] < 1e-80


class TestStatistics:
    def test_standard_errors_are_honest(self):
        """Deviations from the exact value are standard normal over many seeds, at each σ."""
        weights, patterns, _ = random_instance(1, 3, 21, 15, seed=4)
        labels = committee.predict(weights[0], patterns)
        labels[:3] *= -1
        sigmas = [0.3, 0.7, 1.5]
        exact = local_energy(weights[0], patterns, labels, sigmas, method="exact").delta_error
        copies = np.repeat(weights, 600, axis=0)  # one stream each
        profile = local_energy(copies, patterns, labels, sigmas, n_samples=100, seed=11)
        z = (profile.delta_error - exact) / profile.std_error
        assert np.all(np.abs(z.mean(axis=0)) < 4 / np.sqrt(600))
        # The variance of 600 normals has deviation √(2/600) = 0.058; of Student's t, 98/96 is expected.
        assert np.all(np.abs(z.var(axis=0) - 1) < 0.23)
        assert np.abs(z).max() < 5.5

    def test_fewest_samples(self):
        weights, patterns, labels = random_instance()
        profile = local_energy(weights, patterns, labels, [1.0], n_samples=2, seed=0)
        assert np.isfinite(profile.std_error).all()

    def test_sigma_to_zero(self):
        """σ = 0, and σ too small to reach the next threshold: no change in any draw, exactly."""
        weights, patterns, labels = random_instance()
        profile = local_energy(weights, patterns, labels, [0.0, 1e-300, 1e-9], n_samples=50, seed=0)
        assert_array_equal(profile.delta_error, np.zeros((3, 3)))
        assert_array_equal(profile.std_error, np.zeros((3, 3)))
        profile = local_energy(weights, patterns, labels, [0.0, 5e-324, 1e-9], method="exact")
        assert_array_equal(profile.delta_error, np.zeros((3, 3)))

    def test_training_errors_can_fall(self):
        """All labels wrong: noise can only help."""
        weights, patterns, _ = random_instance()
        labels = -committee.predict(weights[0], patterns)
        profile = local_energy(weights[0], patterns, labels, [0.5, 1.0], seed=0)
        assert profile.train_error == 1 and np.all(profile.delta_error < 0)


class TestInvariance:
    @pytest.mark.parametrize("method", ["sampling", "exact"])
    def test_scale_of_rows(self, method):
        weights, patterns, labels = random_instance()
        options = {"n_samples": 200, "seed": 1, "method": method}
        scale = np.exp(np.random.default_rng(1).uniform(-300, 300, size=(3, 3, 1)))
        one, other = (local_energy(w, patterns, labels, [0.2, 1.0], **options) for w in (weights, scale * weights))
        assert_same(one, other, rtol=1e-12)

    @pytest.mark.parametrize("method", ["sampling", "exact"])
    def test_zero_rows(self, method):
        """A unit without weights always says +1, and noise that multiplies nothing changes nothing."""
        _, patterns, labels = random_instance()
        profile = local_energy(np.zeros((3, 9)), patterns, labels, [0.5, 1.0], seed=0, method=method)
        assert profile.train_error == np.mean(labels < 0)
        assert_array_equal(profile.delta_error, [0, 0])

    def test_batch_equals_singles(self):
        """Reference r has its own stream, whatever stands beside it."""
        weights, patterns, labels = random_instance(4)
        options = {"n_samples": 100, "seed": 7}
        batch = local_energy(weights, patterns, labels, [0.0, 0.3, 1.0], **options)
        assert batch.delta_error.shape == batch.std_error.shape == (4, 3)
        assert batch.train_error.shape == (4,) and batch.sigma.shape == (3,) and batch.n_samples == 100
        fewer = local_energy(weights[:2], patterns, labels, [0.0, 0.3, 1.0], **options)
        for name in ("delta_error", "std_error", "train_error"):
            assert_array_equal(getattr(fewer, name), getattr(batch, name)[:2])
        single = local_energy(weights[0], patterns, labels, [0.0, 0.3, 1.0], **options)
        assert_array_equal(single.delta_error, batch.delta_error[0])
        assert_array_equal(single.std_error, batch.std_error[0])
        assert isinstance(single.train_error, float) and single.train_error == batch.train_error[0]
        for r in range(4):
            child = np.random.SeedSequence(7, spawn_key=(r,))
            mean, deviation, error = energy._sampled(
                weights[r], patterns, labels, np.array([0.0, 0.3, 1.0]), 100, np.random.default_rng(child)
            )
            assert_array_equal(mean, batch.delta_error[r])
            assert_array_equal(deviation, batch.std_error[r])
            assert error == batch.train_error[r]

    def test_references_have_different_noise(self):
        weights, patterns, labels = random_instance(1)
        profile = local_energy(np.repeat(weights, 2, axis=0), patterns, labels, [1.0], n_samples=200, seed=0)
        assert profile.delta_error[0] != profile.delta_error[1]

    def test_other_sigmas_do_not_matter(self):
        weights, patterns, labels = random_instance(1)
        few, many = (
            local_energy(weights[0], patterns, labels, s, n_samples=100, seed=0) for s in ([0.5], np.linspace(0, 1, 9))
        )
        assert few.delta_error[0] == many.delta_error[4]

    @pytest.mark.parametrize("n_samples", [2, 100, 101])
    def test_chunks_do_not_matter(self, n_samples):
        weights, patterns, labels = random_instance(1, 3, 33, 20)
        results = [
            energy._sampled(
                weights[0],
                patterns,
                labels,
                np.array([0.3, 1.0]),
                n_samples,
                np.random.default_rng(0),
                scratch,
            )
            for scratch in (0, 10_000, 50_000, 1 << 30)
        ]
        for result in results[1:]:
            for one, other in zip(result, results[0], strict=True):
                assert_array_equal(one, other)

    @pytest.mark.parametrize("method", ["sampling", "exact"])
    def test_processes_do_not_matter(self, method):
        weights, patterns, labels = random_instance(3)
        one, two = (
            local_energy(weights, patterns, labels, [0.3, 1.0], n_samples=100, seed=0, method=method, n_jobs=n_jobs)
            for n_jobs in (1, 2)
        )
        assert_same(one, two)

    def test_seeds(self):
        weights, patterns, labels = random_instance(1)

        def run(seed):
            return local_energy(weights[0], patterns, labels, [1.0], n_samples=300, seed=seed).delta_error[0]

        assert run(3) == run(3) == run(np.random.SeedSequence(3))
        assert run(3) != run(4)
        assert spawn_streams(None, 1)[0].entropy != spawn_streams(None, 1)[0].entropy
        sequence = np.random.SeedSequence(3)
        assert run(sequence) == run(sequence)  # a call leaves the sequence as it was

    def test_input_is_left_alone(self):
        arrays = (*random_instance(), np.array([0.1, 1.0]))
        before = [array.copy() for array in arrays]
        for array in arrays:
            array.flags.writeable = False
        profile = local_energy(*arrays, n_samples=10, seed=0)
        for array, copy in zip(arrays, before, strict=True):
            assert_array_equal(array, copy)
        assert not np.shares_memory(profile.sigma, arrays[-1])


good_weights, good_patterns, good_labels = random_instance()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": []}, "sigmas must be a non-empty"),
        ({"sigmas": [[0.1, 0.2]]}, "sigmas must be a non-empty one-dimensional"),
        ({"sigmas": [-0.1, 0.2]}, "sigmas must be at least 0"),
        ({"sigmas": [0.1, np.nan]}, "sigmas must be at least 0 and finite; found nan"),
        ({"sigmas": [0.1, np.inf]}, "sigmas must be at least 0 and finite; found inf"),
        ({"sigmas": [0.2, 0.1]}, "sigmas must rise strictly: sort"),
        ({"sigmas": [0.1, 0.2, 0.2]}, "sigmas must rise strictly.*repeated"),
        ({"sigmas": "wide"}, "sigmas must be an array of real numbers"),
        ({"n_samples": 1}, "n_samples must be a whole number, at least 2"),
        ({"n_samples": -5}, "n_samples must be a whole number, at least 2"),
        ({"n_samples": 10.5}, "n_samples must be a whole number"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 0.5}, "seed must be"),
        ({"method": "magic"}, "method 'magic' is unknown; choose one of 'sampling', 'exact'"),
        ({"weights": good_weights[:, :2]}, "K must be odd"),
        ({"weights": good_weights * np.nan}, "weights contain NaN"),
        ({"weights": good_weights[:, :, :8]}, "patterns have N = 9 inputs but weights have N = 8"),
        ({"patterns": good_patterns[:5]}, r"labels must have shape \(5,\)"),
        ({"labels": good_labels[:5]}, r"labels must have shape \(12,\)"),
        ({"labels": good_labels * 0}, "labels must be -1 or"),
    ],
)
def test_bad_input(change, message):
    good = {"weights": good_weights, "patterns": good_patterns, "labels": good_labels, "sigmas": [0.1, 0.2]}
    with pytest.raises(ValueError, match=message):
        local_energy(**(good | change))


def test_one_sigma_without_brackets():
    profile = local_energy(good_weights[0], good_patterns, good_labels, 0.5, n_samples=10, seed=0)
    assert profile.sigma.shape == profile.delta_error.shape == (1,)


class TestProfile:
    @pytest.fixture(params=["one", "many", "exact"])
    def profile(self, request):
        weights = good_weights[0] if request.param == "one" else good_weights
        method = "exact" if request.param == "exact" else "sampling"
        return local_energy(weights, good_patterns, good_labels, [0.0, 0.3, 1.0], n_samples=20, seed=0, method=method)

    def test_round_trip(self, profile, tmp_path):
        path = tmp_path / "results" / "energy.npz"
        profile.save(path)
        back = LocalEnergyProfile.load(path)
        assert_same(back, profile)
        assert np.array_equal(back.reference, profile.reference)
        for name in NUMBERS:
            assert type(getattr(back, name)) is type(getattr(profile, name))
            assert np.shape(getattr(back, name)) == np.shape(getattr(profile, name))

    def test_damaged_file(self, profile, tmp_path):
        path = tmp_path / "energy.npz"
        profile.save(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"energy\.npz is not a whole bpflat file"):
            LocalEnergyProfile.load(path)
        middle = len(content) // 2
        path.write_bytes(
            content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 40]) + content[middle + 40 :]
        )
        with pytest.raises(ValueError, match=r"energy\.npz is not a whole bpflat file"):
            LocalEnergyProfile.load(path)
        with pytest.raises(FileNotFoundError):
            LocalEnergyProfile.load(tmp_path / "none.npz")

    def test_frozen(self, profile):
        with pytest.raises(dataclasses.FrozenInstanceError):
            profile.n_samples = 3
