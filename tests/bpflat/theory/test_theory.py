"""Volumes, capacities and local entropies: published numbers, identities, limits, what they refuse."""

import matplotlib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_ndtr, roots_legendre
from scipy.stats import norm

from bpflat import LocalEntropyCurve, theory

matplotlib.use("Agg")


def half_line(function):
    """∫₀^∞ f(x) dx of a function that decays as a Gaussian."""
    x, dx = roots_legendre(100)
    return np.sum(6 * dx * function(6 * (1 + x)))


class TestVolume:
    def test_published_numbers(self):
        random = theory.volume([0.5, 1, 1.5])
        assert_array_equal(random.phi.round(6), [-0.377670, -0.855821, -1.589208])
        teacher = theory.volume([1, 2], labels="teacher")
        assert_array_equal(teacher.phi.round(6), [-0.596441, -1.031038])
        assert (random.error < 1e-8).all() and (teacher.error < 1e-8).all()

    @pytest.mark.parametrize("machine", ["perceptron", "tree-committee"])
    @pytest.mark.parametrize("weights", ["spherical", "binary"])
    def test_teacher_is_a_typical_solution(self, weights, machine):
        """R = q, and replica symmetry is stable, where w is drawn as its teacher is (Nishimori)."""
        volume = theory.volume([0.1, 0.5, 1], weights=weights, labels="teacher", machine=machine)
        assert_allclose(volume.teacher_overlap, volume.overlap, rtol=1e-7)
        assert (volume.replicon > 0).all()

    @pytest.mark.parametrize("weights", ["spherical", "binary"])
    @pytest.mark.parametrize("kappa", [0.0, 0.5])
    def test_few_patterns(self, weights, kappa):
        """``φ/α → ln H(κ)``, patterns being independent."""
        for labels in ("random", "teacher"):
            volume = theory.volume([1e-6], weights=weights, labels=labels, kappa=kappa)
            assert_allclose(volume.phi / 1e-6, norm.logsf(kappa), rtol=1e-5)

    def test_slope(self):
        """``dφ/dα = ⟨p ln p + (1 − p) ln(1 − p)⟩``, p the chance of a label given what is known."""
        h = 1e-3
        phi = theory.volume([1 - h, 1, 1 + h], labels="teacher").phi
        q = theory.volume([1], labels="teacher").overlap[0]
        t = np.arange(-10, 10, 0.01)
        p = norm.cdf(np.sqrt(q / (1 - q)) * t)
        assert_allclose((phi[2] - phi[0]) / (2 * h), np.sum(0.01 * norm.pdf(t) * 2 * p * np.log(p)), rtol=1e-6)

    def test_only_the_teacher_is_left(self):
        """Perfect generalisation from α = 1.245 on (Györgyi 1990), by a jump of the overlap."""
        volume = theory.volume([1.244, 1.246, 1.6, 100], weights="binary", labels="teacher")
        assert volume.converged.all() and volume.overlap[0] < 0.7
        assert_array_equal(volume.overlap[1:], 1)
        assert_allclose(volume.entropy[0], 0, atol=1e-3)
        assert_array_equal(volume.entropy[1:], 0)

    def test_beyond_capacity(self):
        for weights, alphas in (("spherical", [1.99, 2, 5]), ("binary", [0.833, 0.834, 50])):
            volume = theory.volume(alphas, weights=weights)
            assert_array_equal(volume.converged, [True, False, False])
            assert_array_equal(np.isnan(volume.phi), ~volume.converged)
            assert_array_equal(np.isnan(volume.error), ~volume.converged)

    def test_instability_of_binary_perceptron(self):
        """Replica symmetry is stable as far as the entropy is positive (de Almeida-Thouless line at 1.015 > 0.833)."""
        assert theory.volume([0.833], weights="binary").replicon[0] > 0.4

    def test_file(self, tmp_path):
        volume = theory.volume([1, 3])
        volume.save(tmp_path / "volume.npz")
        assert theory.Volume.load(tmp_path / "volume.npz") == volume


class TestCapacity:
    def test_published_numbers(self):
        assert_allclose(theory.capacity(), 2, rtol=1e-12)
        assert round(theory.capacity(weights="binary"), 3) == 0.833
        assert round(theory.capacity(weights="binary", machine="tree-committee"), 2) == 0.95  # Barkai et al. 1990
        assert theory.capacity(labels="teacher") == theory.capacity(machine="tree-committee") == np.inf

    @pytest.mark.parametrize("kappa", [-0.5, 0.5, 2.0])
    def test_margin(self, kappa):
        """Gardner's integral ``1/α_c = ∫₀^∞ x² φ(κ − x) dx``, x = κ − t."""
        expected = 1 / half_line(lambda x: x**2 * norm.pdf(kappa - x))
        assert_allclose(theory.capacity(kappa=kappa), expected, rtol=1e-10)

    def test_margin_with_a_teacher(self):
        """Solutions on one side only, at more patterns than without a teacher."""
        capacity = theory.capacity(labels="teacher", kappa=0.5)
        volume = theory.volume([0.98 * capacity, 1.001 * capacity], labels="teacher", kappa=0.5)
        assert_array_equal(volume.converged, [True, False])
        assert capacity > theory.capacity(kappa=0.5)


class TestLocalEntropy:
    @pytest.mark.parametrize(
        ("alpha", "expected"),
        [
            (0.5, {0.1: -0.05879, 0.5: -0.11844}),
            (1.0, {0.1: -0.11807, 0.5: -0.23528}),
            (2.0, {0.1: -0.23796, 1.0: -0.56606}),
        ],
    )
    def test_published_numbers(self, alpha, expected):
        curve = theory.local_entropy(alpha, [d / 2 for d in expected])
        assert_array_equal(curve.phi.round(5), list(expected.values()))
        assert curve.converged.all() and (curve.error < 1e-8).all()

    @pytest.mark.parametrize("reference", ["teacher", "typical"])
    def test_slope(self, reference):
        """``dΦ/dd = 1/Δ − 1/2d`` of real weights, ``2γ − ln((1 − d)/d)`` of binary ones, and that of log Z."""
        d, h = 0.1, 1e-4
        for weights in ("spherical", "binary"):
            curve = theory.local_entropy(0.5, [d - h, d, d + h], weights=weights, reference=reference)
            strength = curve.coupling[1]
            slope = strength - 1 / (2 * d) if weights == "spherical" else 2 * strength - np.log(1 / d - 1)
            assert_allclose((curve.phi[2] - curve.phi[0]) / (2 * h), slope, rtol=1e-5)
            change = np.diff(curve.coupling[::2])[0]
            expected = 0.5 / strength - d if weights == "spherical" else 1 - 2 * d - np.tanh(strength)
            assert_allclose((curve.log_z[2] - curve.log_z[0]) / change, expected, rtol=1e-5)

    @pytest.mark.parametrize("weights", ["spherical", "binary"])
    def test_few_patterns(self, weights):
        """``Φ/α`` of one pattern, around any reference."""
        d = 0.1
        h = np.sqrt(2 * d) if weights == "spherical" else np.sqrt(1 - (1 - 2 * d) ** 2) / (1 - 2 * d)
        expected = half_line(lambda x: 2 * norm.pdf(x) * log_ndtr(x / h))
        for reference in ("teacher", "typical"):
            curve = theory.local_entropy(1e-6, [d], weights=weights, reference=reference)
            assert_allclose(curve.phi / 1e-6, expected, rtol=1e-5)

    def test_nearby(self):
        """``Φ ≈ α ⟨g₀⟩ √(2d) ∫₀^∞ ln H(−x) dx``; ⟨g₀⟩ = √(2/π) of a teacher."""
        alpha, d = 0.5, 1e-7
        unit = half_line(log_ndtr) * np.sqrt(2 * d)
        phi = theory.local_entropy(alpha, [d]).phi
        assert_allclose(phi, alpha * np.sqrt(2 / np.pi) * unit, rtol=1e-2)
        q = theory.volume([alpha]).overlap[0]
        t = np.arange(-10, 10, 0.01)
        theta = -np.sqrt(q / (1 - q)) * t
        g0 = np.sum(0.01 * norm.pdf(t) * np.exp(norm.logpdf(theta) - norm.logsf(theta))) / np.sqrt(1 - q)
        phi = theory.local_entropy(alpha, [d], reference="typical").phi
        assert_allclose(phi, alpha * g0 * unit, rtol=1e-2)

    @pytest.mark.parametrize(("reference", "labels"), [("teacher", "teacher"), ("typical", "random")])
    def test_far_away(self, reference, labels):
        """The volume of all at the distance of independent solutions, or of any weights."""
        assert_allclose(
            theory.local_entropy(0.5, [1e8], reference=reference).phi,
            theory.volume([0.5], labels=labels).phi,
            rtol=1e-3,
        )
        volume = theory.volume([0.5], weights="binary", labels=labels)
        distance = (1 - volume.overlap) / 2
        curve = theory.local_entropy(0.5, distance, weights="binary", reference=reference)
        assert_allclose(curve.entropy, volume.entropy, rtol=1e-10)
        assert_allclose(curve.coupling, 0, atol=1e-7)

    def test_typical_binary_solutions_are_isolated(self):
        """No others at small distances, at any α, many further away (Huang and Kabashima 2014)."""
        for alpha, near in ((0.5, 2e-3), (0.8, 0.02)):
            curve = theory.local_entropy(alpha, [near, 0.2], weights="binary", reference="typical")
            assert curve.converged.all()
            assert curve.entropy[0] < 0 < curve.entropy[1]

    def test_robust_references_have_neighbours(self):
        """A margin of the reference leaves room for binary solutions nearby (Baldassi, Pittorino and Zecchina 2020)."""
        entropies = [
            theory.local_entropy(0.5, [1e-3], weights="binary", reference_kappa=kappa).entropy for kappa in (0, 0.5)
        ]
        assert entropies[0] < 0 < entropies[1]

    def test_beyond_capacity(self):
        for weights, alpha in (("spherical", 2.0), ("binary", 0.84)):
            curve = theory.local_entropy(alpha, [0.1, 0.3], weights=weights, reference="typical")
            assert not curve.converged.any() and np.isnan(curve.phi).all()
        far_too_many = theory.local_entropy(1e12, [1e-12, 0.5, 1e12])
        assert_array_equal(np.isnan(far_too_many.phi), ~far_too_many.converged)


class TestArguments:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: theory.volume([1, 0.5]), "alphas must rise strictly"),
            (lambda: theory.volume([-1]), "alphas must be positive"),
            (lambda: theory.volume([1], weights="real"), "weights 'real' is unknown"),
            (lambda: theory.volume([1], labels="none"), "labels 'none' is unknown"),
            (lambda: theory.volume([1], machine="parity"), "machine 'parity' is unknown"),
            (lambda: theory.volume([1], kappa=np.nan), "kappa must be finite"),
            (lambda: theory.volume([1], kappa=-0.1, labels="teacher"), "kappa must be finite and at least 0"),
            (lambda: theory.capacity(kappa=11), "kappa must be finite and at most 10"),
            (lambda: theory.local_entropy(0, [1]), "alpha must be finite and at least 1e-12"),
            (lambda: theory.local_entropy(1, [0, 1]), "distances must be positive"),
            (lambda: theory.local_entropy(1, [0.5, 1], weights="binary"), "distances must lie between"),
            (lambda: theory.local_entropy(1, [1], reference="random"), "reference 'random' is unknown"),
        ],
    )
    def test_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestCurve:
    def test_plot_under_a_measured_curve(self):
        curve = theory.local_entropy(1.0, [0.05, 0.25])
        columns = [np.array([0.1, 0.2])] * 5
        measured = LocalEntropyCurve(*columns, np.ones(2, bool), np.ones(2, int), 0.0, "bp", np.full(2, np.inf))
        axes = curve.plot(measured.plot(label="measured"), label="theory", c="red")
        over, under = axes.get_lines()
        assert under.get_zorder() < over.get_zorder() and under.get_color() == "red" and under.get_label() == "theory"
        assert_array_equal(under.get_ydata(), curve.phi)
        assert axes.get_xlabel() == measured.plot().get_xlabel()
        binary = theory.local_entropy(0.5, [0.1], weights="binary").plot()
        assert binary.get_xlabel().startswith("Hamming distance")
        matplotlib.pyplot.close("all")

    def test_file(self, tmp_path):
        curve = theory.local_entropy(1.0, [0.05, 0.25])
        curve.save(tmp_path / "curve.npz")
        assert theory.TheoryCurve.load(tmp_path / "curve.npz") == curve
