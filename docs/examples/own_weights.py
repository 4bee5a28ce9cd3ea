"""Φ and δE of one's own committee machine, from a file of weights, patterns and labels."""

import numpy as np

import bpflat


def make_file(path):
    """Stand-in for your own file: a random machine, and the labels that it gives to random patterns."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 201))  # (K, N), K odd; rows of any norm
    patterns = rng.choice([-1.0, 1.0], size=(150, 201))  # (P, N), any real numbers
    labels = bpflat.committee.predict(weights, patterns)
    np.savez(path, weights=weights, patterns=patterns, labels=labels)


make_file("mine.npz")
with np.load("mine.npz") as mine:
    problem = mine["weights"], mine["patterns"], mine["labels"]

curve = bpflat.local_entropy(*problem, distances=[0.05, 0.1, 0.25], method="ep")
profile = bpflat.local_energy(*problem, sigmas=[0.1, 0.3, 0.5], method="exact")
print("training error", curve.train_error)
for d, phi in zip(curve.distance, curve.phi, strict=True):
    print(f"d = {d:.2f}: Φ = {phi:.5f} nats per weight")
for sigma, rise in zip(profile.sigma, profile.delta_error, strict=True):
    print(f"σ = {sigma:.1f}: δE = {100 * rise:.2f} %")
curve.save("curve.npz")
assert bpflat.LocalEntropyCurve.load("curve.npz") == curve
