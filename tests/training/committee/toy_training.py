"""Small problems and protocols that the tests of training share."""

from __future__ import annotations

import dataclasses

import numpy as np

from bpflat import committee
from training.committee.protocols import PROTOCOLS


def toy(n_patterns=60, n_inputs=21, seed=0):
    """Patterns labelled by a random teacher: learnable."""
    rng = np.random.default_rng(seed)
    patterns = rng.choice([-1.0, 1.0], (n_patterns, n_inputs))
    return patterns, committee.predict(rng.standard_normal((3, n_inputs)), patterns).astype(float)


def small(name, **changes):
    """The protocol `name` for K = 3 and minibatches of 20, few epochs; replicas start apart, or they end at once."""
    protocol = PROTOCOLS[name]
    apart = {"start": "independent"} if protocol.algorithm == "rsgd" else {}
    return dataclasses.replace(protocol, **({"K": 3, "B": 20, "max_epochs": 6} | apart | changes))
