"""Random problems of the committee machine that many tests share."""

import numpy as np


def random_instance(n_inputs, n_hidden, n_patterns, *, inputs="binary", seed=0):
    """Weights, patterns and the labels that the weights give."""
    rng = np.random.default_rng([seed, n_inputs, n_hidden, n_patterns])
    shape = (n_patterns, n_inputs)
    patterns = rng.choice([-1.0, 1.0], shape) if inputs == "binary" else rng.normal(size=shape)
    weights = rng.normal(size=(n_hidden, n_inputs))
    weights *= np.sqrt(n_inputs) / np.linalg.norm(weights, axis=1, keepdims=True)
    labels = np.where(np.sign(patterns @ weights.T).sum(axis=1) > 0, 1.0, -1.0)
    return weights, patterns, labels
