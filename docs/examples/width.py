"""The width K of a committee machine, and the local entropy of what SGD finds."""

from dataclasses import replace

import matplotlib.pyplot as plt

import bpflat
from training.committee.protocols import PROTOCOLS
from training.committee.trainer import train

data = bpflat.load_reduced_fashion_mnist(100)
problem = data.train_patterns, data.train_labels
ax = plt.figure().add_subplot()
for K in (3, 9, 15):
    minima = train(replace(PROTOCOLS["sgd-fast"], K=K), *problem, restarts=3)
    curve = bpflat.local_entropy(minima.weights, *problem, distances=[0.05, 0.1, 0.25])
    mean, deviation = curve.phi.mean(axis=0), curve.phi.std(axis=0)
    print(f"K = {K}: Φ(0.25) = {mean[-1]:.5f} ± {deviation[-1]:.5f} nats per weight")
    ax.errorbar(curve.distance[0], mean, deviation, label=f"K = {K}")
ax.set(xlabel="squared distance d", ylabel="local entropy Φ (nats per weight)")
ax.legend()
plt.savefig("width.png")
