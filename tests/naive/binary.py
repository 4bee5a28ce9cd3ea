"""Plain twins for weights ±1: all 2^(KN) of them, and belief propagation with one Gaussian message per edge."""

import itertools

import numpy as np

from bpflat.bp import output_node
from bpflat.committee import predict


def all_weights(n_hidden, n_inputs):
    """Every machine with weights ±1, shape (2^(KN), K, N)."""
    return np.array(list(itertools.product((1.0, -1.0), repeat=n_hidden * n_inputs))).reshape(-1, n_hidden, n_inputs)


class Enumeration:
    """Errors and Hamming distances of all machines, seen from one of them."""

    def __init__(self, weights, patterns, labels):
        machines = all_weights(*weights.shape)
        self.n = weights.size
        self.errors = np.count_nonzero(predict(machines, patterns) != labels, axis=1)
        self.flips = np.count_nonzero(machines != weights, axis=(1, 2))
        self.allowed = np.count_nonzero(predict(weights, patterns) != labels)

    def _chances(self, gamma):
        return np.exp(gamma * (self.n - 2.0 * self.flips)) / (2 * np.cosh(gamma)) ** self.n

    def measure(self, gamma, beta=None):
        """``log Z/n``, Hamming distance, and Φ at a coupling γ."""
        factors = self.errors <= self.allowed if beta is None else np.exp(-beta * self.errors)
        chances = self._chances(gamma) * factors
        z = chances.sum()
        d, errors = (chances @ np.stack([self.flips / self.n, self.errors], axis=1)) / z
        entropy = -sum(x * np.log(x) for x in (d, 1 - d))
        phi = np.log(z) / self.n + np.log(2 * np.cosh(gamma)) - gamma * (1 - 2 * d) - entropy
        return np.log(z) / self.n, d, phi + (0 if beta is None else beta * errors / self.n)

    def rise(self, p):
        """Sign-flip local energy in numbers of errors: each weight flips with probability p."""
        chances = p**self.flips * (1 - p) ** (self.n - self.flips)
        return chances @ self.errors - self.allowed


def relaxed_edges(reference, patterns, labels, gamma, sweeps=500):
    """Fields U (K, N) and log Z of belief propagation with Gaussian pre-activations and all edges, for odd inputs ±1.

    Each weight's marginal is ``tanh(γ w̃ + Σ_ν B_ν)`` with ``B = x̂ g + x̂² Γ m``; the free energy is Bethe's.
    """
    x = patterns[:, None, :] / np.sqrt(patterns.shape[1])  # (P, 1, N)
    b = np.zeros((len(patterns), *reference.shape))
    for _ in range(sweeps):
        total = gamma * reference + b.sum(axis=0)
        mean = np.tanh(total - b)
        omega, variance = (x * mean).sum(axis=2), (x**2 * (1 - mean**2)).sum(axis=2)
        g, curvature, log_z = output_node(omega, variance, labels)
        b += 0.5 * (x * g[..., None] + x**2 * curvature[..., None] * mean - b)
    total = gamma * reference + b.sum(axis=0)
    bethe = np.log(np.cosh(total) / np.cosh(gamma)).sum() + log_z.sum()
    return total, bethe - np.log(np.cosh(total) / np.cosh(total - b)).sum()
