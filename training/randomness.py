"""Random numbers without a state to save: each is a function of (seed, restart, epoch) alone.

So a restart is the same whatever runs beside it, and a resumed run goes on exactly as an undisturbed one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sequence(seed: int, *key: int) -> np.random.SeedSequence:
    """Independent seed sequence of (seed, key)."""
    return np.random.SeedSequence(seed, spawn_key=key)


def initial_weights(seed: int, restart: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Weights uniform in [−1, 1), rows normalised to 1; `shape` is (y, K, N)."""
    weights = np.random.default_rng(sequence(seed, restart)).uniform(-1.0, 1.0, shape)
    return (weights / np.linalg.norm(weights, axis=-1, keepdims=True)).astype(np.float32)


def minibatch_orders(
    seed: int, restart: int, epoch: int, *, y: int, passes: int, n_patterns: int, batch: int
) -> NDArray[np.int64]:
    """Patterns of every minibatch of one epoch of one restart.

    Each replica runs `passes` times through the patterns, each time in a new order; within a pass no pattern is drawn
    twice, and the ``n_patterns % batch`` patterns left over at its end wait for another pass.

    Returns
    -------
    ndarray, shape (passes * (n_patterns // batch), y, batch)
        Indices; entry [j] is the minibatch of each replica at step j.
    """
    n_batches = n_patterns // batch
    ordered = np.tile(np.arange(n_patterns), (y * passes, 1))
    rng = np.random.default_rng(sequence(seed, restart, epoch))
    orders = rng.permuted(ordered, axis=1, out=ordered)[:, : n_batches * batch]
    return orders.reshape(y, passes * n_batches, batch).swapaxes(0, 1)


def augmentation_stream(seed: int, restart: int, epoch: int, replica: int) -> np.random.Generator:
    """Generator of what one replica's augmentations draw in one epoch, far from the other replicas'."""
    return np.random.Generator(np.random.PCG64(sequence(seed, restart, epoch, 0)).jumped(replica))


def device_seeds(seed: int, restart: int, epoch: int, replica: int, n: int) -> NDArray[np.int64]:
    """Seeds, shape (n,), of the torch generators that make noise and dropout of one replica in steps of one epoch."""
    states = sequence(seed, restart, epoch, 1 + replica).generate_state(n, np.uint64)
    return (states >> np.uint64(1)).astype(np.int64)


def device_seed(seed: int, restart: int, epoch: int, replica: int) -> int:
    """Seed of the torch generator that makes noise and dropout of one replica in one epoch."""
    return int(device_seeds(seed, restart, epoch, replica, 1)[0])
