"""Plain numpy transcriptions of Algorithms 1 and 2 and of Lookahead: one flat vector, formulas as written."""

from __future__ import annotations

import numpy as np


class Descent:
    """Gradient descent with Nesterov momentum and weight decay; momentum 0 and decay 0 make it plain."""

    def __init__(self, lr, momentum=0.0, weight_decay=0.0):
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.velocity = 0.0

    def __call__(self, w, gradient):
        gradient = gradient + self.weight_decay * w
        self.velocity = self.momentum * self.velocity + gradient
        return w - self.lr * (gradient + self.momentum * self.velocity)


def entropy_sgd_loop(w, gradients, noise, inner, outer, *, gamma, epsilon, alpha):
    """One turn of the outer loop of Algorithm 1: L gradient functions, noise (L, n); returns the new w, and w', μ."""
    w_prime, mu = w.copy(), w.copy()
    for gradient, kick in zip(gradients, noise, strict=True):
        step = gradient(w_prime) + gamma * (w_prime - w)
        w_prime = inner(w_prime, step) + np.sqrt(inner.lr) * epsilon * kick
        mu = alpha * mu + (1 - alpha) * w_prime
    return outer(w, w - mu), w_prime, mu


def replicated_sgd_step(replicas, gradients, t, bases, *, gamma, K, coupling="gradient"):
    """Step t = 1, 2, ... of Algorithm 2: replicas (y, n), one gradient function and one optimizer each."""
    centre = sum(replicas) / len(replicas)
    after = []
    for w, gradient, base in zip(replicas, gradients, bases, strict=True):
        pull = K * gamma * (w - centre) if t % K == 0 else 0.0
        if coupling == "gradient":
            after.append(base(w, gradient(w) + pull))
        else:
            after.append(base(w, gradient(w)) - base.lr * pull)
    return np.array(after)


def lookahead(w, gradients, fast, k, slow_rate):
    """Lookahead (Zhang et al., 2019, Algorithm 1): every k fast steps the slow weights go part of the way."""
    slow, w = w.copy(), w.copy()
    for t, gradient in enumerate(gradients, start=1):
        w = fast(w, gradient(w))
        if t % k == 0:
            slow = slow + slow_rate * (w - slow)
            w = slow.copy()
    return w
