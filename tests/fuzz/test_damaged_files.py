"""Files of every kind with one bit wrong: refused in one line that names them, or read as if nothing were wrong."""

import warnings

import numpy as np
import pytest

from tests.fuzz import ALL
from tests.fuzz.kinds import KINDS, plain, written

FLIPS = 1000 if ALL else 40  # of each kind


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_one_bit(kind, tmp_path):
    path = written(kind, tmp_path)
    whole, expected = path.read_bytes(), plain(kind.read(path))
    refused = 0
    for bit in np.random.default_rng(len(whole)).choice(8 * len(whole), FLIPS, replace=False):
        path.write_bytes(flipped(whole, int(bit)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # nothing is taken as it is without checksums
                found = plain(kind.read(path))
        except (ValueError, OSError) as error:
            refused += 1
            assert path.name in str(error) and "\n" not in str(error), (bit, error)
        else:
            assert found == expected, bit
    assert refused > FLIPS / 2
