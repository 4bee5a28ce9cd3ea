"""Streams of random numbers, each a function of a seed and a key."""

from __future__ import annotations

import numpy as np

from bpflat.arguments import check_seed


def stream(seed: np.random.SeedSequence, *key: int) -> np.random.SeedSequence:
    """Independent seed sequence of (seed, key): a descendant, as if by ``spawn`` in `seed` and its children.

    Made by hand because ``spawn`` counts what it gave: a SeedSequence would not give the same one twice.
    """
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key), pool_size=seed.pool_size)


def spawn_streams(seed: int | np.random.SeedSequence | None, n: int) -> list[np.random.SeedSequence]:
    """Return n seed sequences: the children that ``SeedSequence(seed).spawn`` gives first."""
    seed = check_seed(seed)
    return [stream(seed, r) for r in range(n)]


def integer_seed(seed: np.random.SeedSequence, *key: int, bits: int = 63) -> int:
    """Return a seed from 0 to 2**bits − 1 for the stream of (seed, key), as torch's generators want it."""
    return int(stream(seed, *key).generate_state(1, np.uint64)[0] >> np.uint64(64 - bits))
