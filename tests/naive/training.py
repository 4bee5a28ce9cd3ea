"""Plain float64 twins of the batched training steps: one machine, one pattern at a time, formulas as written."""

from __future__ import annotations

import numpy as np


def loss(s, omega):
    """f(s, ω) for moderate ω s, to the letter."""
    return -s / 2 + np.log(2 * np.cosh(omega * s)) / (2 * omega)


def stability(u, x, sigma, beta):
    """σ Σ_k tanh(β u_k·x) / √K."""
    return sigma * sum(np.tanh(beta * (row @ x)) for row in u) / np.sqrt(len(u))


def gradient(u, patterns, labels, beta, omega):
    """Sum over the patterns of ∂f/∂u, shape (K, N)."""
    total = np.zeros_like(u)
    for x, sigma in zip(patterns, labels, strict=True):
        slope = -0.5 + 0.5 * np.tanh(omega * stability(u, x, sigma, beta))
        for k, row in enumerate(u):
            total[k] += slope * sigma * beta / np.cosh(beta * (row @ x)) ** 2 / np.sqrt(len(u)) * x
    return total


def norm(u):
    return u / np.sqrt((u**2).sum(axis=-1, keepdims=True))


def sgd_step(u, patterns, labels, eta, beta, omega):
    return norm(u - eta * gradient(u, patterns, labels, beta, omega))


def product(symbols, eta, batch, gamma):
    """The reading of a pull, or of eSGD's outer step, that `symbols` name."""
    return {
        "eta": eta,
        "gamma": gamma,
        "eta gamma": eta * gamma,
        "eta B gamma": eta * batch * gamma,
    }[symbols]


def rsgd_step(replicas, minibatches, labels, eta, pull, beta, omega):
    """Algorithm 2: replicas (y, K, N), their own minibatches (y, B, N) and labels (y, B)."""
    centre = replicas.mean(axis=0)
    return np.array(
        [
            norm(u - eta * gradient(u, x, sigma, beta, omega) - pull * (u - centre))
            for u, x, sigma in zip(replicas, minibatches, labels, strict=True)
        ]
    )


def esgd_step(u, minibatches, labels, noise, *, eta_prime, pull, outer_step, epsilon, alpha, beta, omega):
    """Algorithm 1, one outer step: L minibatches (L, B, N), labels (L, B), noise (L, K, N); returns u and μ."""
    inner, mean = u.copy(), u.copy()
    for x, sigma, kick in zip(minibatches, labels, noise, strict=True):
        descent = eta_prime * gradient(inner, x, sigma, beta, omega)
        inner = norm(inner - descent - pull * (inner - u) + np.sqrt(eta_prime) * epsilon * kick)
        mean = alpha * mean + (1 - alpha) * inner
    return norm(u - outer_step * (u - mean)), mean
