"""Averages over patterns and weights: quadrature against mpmath, derivatives against differences."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import log_ndtr, roots_legendre
from scipy.stats import multivariate_normal, norm

from bpflat.theory.patterns import Overlaps, Reference, perceptron, tree_committee
from bpflat.theory.quadrature import ORDERS, gaussian_line, line
from bpflat.theory.weights import Binary, Fields, Sphere

FINE = ORDERS[1]
TYPICAL = Reference(0.4, 0.9, 0.2)
CASES = {
    "random": (Overlaps(1.0, 0.6), None),
    "teacher": (Overlaps(1.3, 0.5, 0.7), Reference(kappa=0.1)),
    "typical": (Overlaps(1.3, 0.4, 0.8, 0.5), TYPICAL),
}


def log_tail(x):
    return mpmath.log(mpmath.erfc(x / mpmath.sqrt(2)) / 2)


class TestQuadrature:
    @pytest.mark.parametrize("width", [1.0, 1e-3, 1e-8])
    def test_integrand_that_turns(self, width):
        """``∫Dx ln H((x − c)/w)`` in 30 digits."""
        with mpmath.workdps(30):
            points = [-12, 0.3 - 30 * width, 0.3 - width, 0.3 + width, 0.3 + 30 * width, 12]
            expected = mpmath.quad(lambda x: mpmath.npdf(x) * log_tail((x - 0.3) / width), points)
        x, dx = gaussian_line([[0.3]], [[width]], FINE)
        assert_allclose(np.sum(dx * log_ndtr(-(x - 0.3) / width)), float(expected), rtol=1e-12)

    def test_moments(self):
        x, dx = gaussian_line([[5.0, -40.0], [np.nan, 1e-3]], [[1e-5, 1e-9], [np.inf, np.nan]], ORDERS[0])
        for power, expected in ((0, 1), (1, 0), (2, 1), (4, 3), (6, 15)):
            assert_allclose(np.sum(dx[0] * x[0] ** power), expected, rtol=1e-13, atol=1e-13)

    def test_interval_reaches_beyond(self):
        x, dx = line([[50.0]], [[1e-3]], FINE, beyond=[50.0])
        assert_allclose([dx.sum(), x.max(), np.sum(dx * np.tanh((x - 50) / 1e-3))], [68, 59, -50], rtol=1e-2)
        assert_allclose(np.sum(dx * norm.pdf((x - 50) / 1e-3)), 1e-3, rtol=1e-12)


class TestPatterns:
    @pytest.mark.parametrize("width", [1.0, 1e-2])
    def test_teacher(self, width):
        """The average over t alone, which is left where q₀ = 0, in 30 digits."""
        overlaps = Overlaps(1.2, 0.5 * width**2, 0.7)
        q = 1.2 - overlaps.variance
        with mpmath.workdps(30):
            rest = mpmath.sqrt(mpmath.mpf(q) - mpmath.mpf(0.7) ** 2)

            def integrand(t):
                right = mpmath.erfc(-0.7 * t / rest / mpmath.sqrt(2)) / 2
                return (
                    2 * mpmath.npdf(t) * right * log_tail((0.3 - mpmath.sqrt(q) * t) / mpmath.sqrt(overlaps.variance))
                )

            expected = mpmath.quad(integrand, [-12, -1, 0, 0.2, 0.25, 0.3, 0.4, 1, 3, 12])
        got = perceptron(overlaps, Reference(), 0.3, FINE)
        assert_allclose(got.log_z, float(expected), rtol=1e-12)

    def test_typical(self):
        """The average over t, s and what is left, y, one after the other, by plain rules of many points."""
        overlaps, reference, kappa = *CASES["typical"], 0.1
        q0, p, r, v = reference.overlap, overlaps.reference, overlaps.others, overlaps.variance
        shared, own = r / np.sqrt(q0), (p - r) / np.sqrt(1 - q0)
        rest = np.sqrt(overlaps.norm - v - shared**2 - own**2)
        t = np.arange(-9, 9, 0.1)[:, None, None]
        x, dx = roots_legendre(80)
        theta = (reference.kappa - np.sqrt(q0) * t) / np.sqrt(1 - q0)
        s, ds = theta + 4 * (1 + x[:, None]), 4 * dx[:, None]  # as far as θ + 8
        y = np.arange(-9, 9, 0.1)
        log_z = log_ndtr(-(kappa - shared * t - own * s - rest * y) / np.sqrt(v))
        weight = 0.01 * norm.pdf(t) * ds * np.exp(norm.logpdf(s) - log_ndtr(-theta)) * norm.pdf(y)
        assert_allclose(perceptron(overlaps, reference, kappa, FINE).log_z, np.sum(weight * log_z), rtol=1e-10)

    @pytest.mark.parametrize("patterns", [perceptron, tree_committee])
    @pytest.mark.parametrize(("overlaps", "reference"), CASES.values(), ids=CASES)
    def test_derivatives(self, patterns, overlaps, reference):
        at = patterns(overlaps, reference, 0.1, FINE)
        h = 1e-4
        # q = |w'|² − V: a change of V alone is one of q, a change of both one of |w'|².
        changes = {"overlap": {"variance": -1}, "norm": {"norm": 1, "variance": 1}}
        if reference is not None:
            changes["reference"] = {"reference": 1}
        if reference is TYPICAL:
            changes["others"] = {"others": 1}
        for name, change in changes.items():
            values = [
                patterns(
                    replace(overlaps, **{n: getattr(overlaps, n) + s * h * c for n, c in change.items()}),
                    reference, 0.1, FINE,
                ).log_z
                for s in (-2, -1, 1, 2)
            ]  # fmt: skip
            slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
            assert_allclose(getattr(at, name), slope, rtol=1e-8, err_msg=name)

    def test_labels_that_say_nothing(self):
        """A reference that w' does not overlap with is no reference, but for the force that it exerts."""
        free = perceptron(Overlaps(1.0, 0.6), None, 0.2, FINE)
        for reference in (Reference(), TYPICAL):
            got = perceptron(Overlaps(1.0, 0.6), reference, 0.2, FINE)
            assert_allclose(
                [got.log_z, got.overlap, got.curvature], [free.log_z, free.overlap, free.curvature], rtol=1e-12
            )

    def test_second_derivatives(self):
        """``ln P(h₁ > κ, h₂ > κ)`` of two normal fields of overlap δ: ``δ g² + ½ δ² ((g² − Γ)² − g⁴)`` more than 0."""
        at = perceptron(Overlaps(1.0, 1 - 1e-13), None, 0.3, FINE)
        square, bend = -2 * at.overlap, np.sqrt(at.curvature)
        delta = 1e-2
        down, here, up = (bivariate_tail(0.3, x) for x in (-delta, 0, delta))
        assert_allclose((up - down) / (2 * delta), square, rtol=1e-3)
        assert_allclose((up - 2 * here + down) / delta**2, (square - bend) ** 2 - square**2, rtol=1e-3)


def bivariate_tail(kappa, overlap):
    """``ln P(h₁ > κ, h₂ > κ)`` of standard normal fields of this overlap."""
    mean = np.array([0.0, 0.0])
    return np.log(multivariate_normal(mean, [[1, overlap], [overlap, 1]]).cdf([-kappa, -kappa]))


class TestWeights:
    def test_binary_typical(self):
        """The double average with both signs of w̃, by the trapezium rule."""
        fields, reference = Fields(0.7, 1.1 - 0.4, 0.4 / np.sqrt(0.9)), Reference(0.4, 0.9)
        overlaps = Binary().overlaps(fields, reference, FINE)
        z, y, w = np.ix_(np.arange(-10, 10, 0.05), np.arange(-10, 10, 0.05), [-1, 1])
        field = 0.4 / np.sqrt(0.9) * z + np.sqrt(0.7) * y + (1.1 - 0.4) * w
        weight = 0.05**2 * norm.pdf(z) * norm.pdf(y) / (1 + np.exp(-2 * np.sqrt(0.9) * z * w))
        p, r, v, log_cosh = (
            np.sum(weight * f)
            for f in (
                w * np.tanh(field),
                np.tanh(np.sqrt(0.9) * z) * np.tanh(field),
                1 - np.tanh(field) ** 2,
                np.log(np.cosh(field)),
            )
        )
        assert_allclose([overlaps.reference, overlaps.others, overlaps.variance], [p, r, v], rtol=1e-11)
        entropy = log_cosh - p * 1.1 + r * 0.4 - 0.5 * (0.7 + 0.4**2 / 0.9) * v
        assert_allclose(Binary().entropy(fields, overlaps, reference, FINE), entropy, rtol=1e-10)

    @pytest.mark.parametrize(
        ("weights", "reference"),
        [
            (Sphere(), Reference()),
            (Sphere(0.3, 1), Reference()),
            (Sphere(0.3, 1), Reference(0.4, 0.4 / 0.6**2)),
            (Binary(), Reference()),
            (Binary(), Reference(0.4, 0.9)),
        ],
    )
    def test_fields_are_conjugate_to_overlaps(self, weights, reference):
        """``dS = −p̂ dp + r̂ dr + ½ q̂ dq`` of the entropy, at p, r and q that depend on one another."""
        x, h = np.array([0.7, 0.5, 0.2 if reference.overlap else 0.0]), 1e-5
        q_hat, r_hat = x[0] + x[2] ** 2, x[2] * np.sqrt(reference.field)
        for k in range(3 if reference.overlap else 2):
            entropies, points = [], []
            for step in (-h, h):
                fields = Fields(*(x + step * (np.arange(3) == k)))
                points.append(weights.overlaps(fields, reference, FINE))
                entropies.append(weights.entropy(fields, points[-1], reference, FINE))
            down, up = points
            q = [o.norm - o.variance - 2 * weights.shift * o.reference for o in points]  # of u, where w' = w̃ + u
            change = (
                -(x[1] + r_hat) * (up.reference - down.reference)
                + r_hat * (up.others - down.others)
                + q_hat / 2 * (q[1] - q[0])
            )
            assert_allclose(entropies[1] - entropies[0], change, rtol=1e-6)
