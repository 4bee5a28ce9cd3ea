"""Output nodes of all kinds, for tests."""

import numpy as np

from bpflat import nodes

rng = np.random.default_rng(0)
NODES = {
    "majority": nodes.majority(9),
    "one that leads": nodes.majority(7, lead=5),
    "ties wrong": nodes.majority(4, ties="wrong"),
    "ties right": nodes.majority(4, ties="right"),
    "ties by coin": nodes.majority(6, ties="coin"),
    "margin": nodes.majority(3, margin=0.7),
    "parity of three": nodes.parity(3),
    "parity of six": nodes.parity(6),
    "cross-entropy": nodes.cross_entropy(5, omega=0.5, beta=2.0),
    "cold cross-entropy": nodes.cross_entropy(4, omega=2.0, beta=700.0),
    "any count": nodes.CountNode([[3.0, np.inf, 0.1, 0.0, 900.0], [0.0, 1.0, np.inf, np.inf, 0.2]]),
    "signs": nodes.weighted([1.0, -1.0, 1.0, 1.0, -1.0]),
    "weights": nodes.weighted(rng.normal(size=9)),
    "tied weights": nodes.weighted([2.0, 1.0, -1.0], ties="coin", lead=0.0),
    "weights with a lead": nodes.weighted([2.0, 1.5, 1.0], lead=1.5, margin=0.3),
    "any set": nodes.SignNode(np.where(rng.random((2, 16)) < 0.3, np.inf, rng.exponential(5.0, (2, 16)))),
}


def energies_of_sets(node, row):
    """Energies (2^K,) of all sets of agreeing units."""
    sets = np.arange(2**node.n_hidden)
    places = sum((sets >> k & 1) * step for k, step in enumerate(node.steps))
    return node.energies[row][places]
