"""The reduced Fashion-MNIST of B.1: two classes of clothes, every picture 784 numbers ±1."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bpflat.arguments import check_array, check_count, check_flag
from bpflat.display import Brief
from bpflat.reading import MODEST, read_arrays, read_bytes

FILE_NAME = "reduced_fashion_mnist.npz"
SHA256 = "85840e74ade318e16f5213a9568ad2e6c9b1c1b48bf80a7c04f1b8da2da8fb24"
N_INPUTS = 28 * 28


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReducedFashionMNIST(Brief):
    """Patterns and labels, and where they stand in Fashion-MNIST.

    Attributes
    ----------
    train_patterns : ndarray of float64, shape (P, 784)
        ±1, one picture per row, pixels row by row.
    train_labels : ndarray of float64, shape (P,)
        +1 for Dress, -1 for Coat.
    test_patterns, test_labels : ndarray of float64, shapes (677, 784) and (677,)
        The same of the whole filtered test split.  It holds 74 dresses and 603 coats: the constant answer -1
        is wrong on 10.9 % of it, so look at the balanced error too (`bpflat.committee.error(..., balanced=True)`).
    train_indices, test_indices : ndarray of int64, shapes (P,) and (677,)
        Positions, from 0, in the 60,000 training and the 10,000 test pictures of Fashion-MNIST.

    Examples
    --------
    >>> from bpflat import load_reduced_fashion_mnist
    >>> data = load_reduced_fashion_mnist(20)
    >>> data.train_patterns.shape, data.test_labels.shape
    ((20, 784), (677,))
    """

    train_patterns: NDArray[np.float64]
    train_labels: NDArray[np.float64]
    test_patterns: NDArray[np.float64]
    test_labels: NDArray[np.float64]
    train_indices: NDArray[np.int64]
    test_indices: NDArray[np.int64]


def binarize_at_median(images: ArrayLike) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Threshold every image at its own median pixel.

    Parameters
    ----------
    images : array_like, shape (P, ...)
        Pictures with at least one pixel each, in any units.

    Returns
    -------
    patterns : ndarray of int8, shape (P, N)
        +1 where a pixel is above the median of its image, else -1.
    medians : ndarray of float64, shape (P,)
        Medians, in the units of `images`.
    """
    images = np.atleast_2d(check_array("images", images))
    images = images.reshape(len(images), -1)
    medians = np.median(images, axis=1)
    return np.where(images > medians[:, None], 1, -1).astype(np.int8), medians


def load_reduced_fashion_mnist(
    n_train: int | None = 500, *, seed: int = 0, balanced: bool = False
) -> ReducedFashionMNIST:
    """Dress against Coat, thresholded at the median: the data of Fig. 1 (B.1).

    Parameters
    ----------
    n_train : int or None
        How many of the 3,927 training patterns (344 dresses, 3,583 coats) to draw, without repetition.  None
        gives all of them, in the order of Fashion-MNIST.
    seed : int
        Seed of the draw, from 0 to 2**32 - 1.  One seed gives the same patterns on every machine and with every
        version of NumPy; without `balanced`, a smaller draw is the beginning of a larger one.
    balanced : bool
        Draw as many dresses as coats; `n_train` must then be even, and 688 at most.

    Returns
    -------
    ReducedFashionMNIST
        The test patterns are always the whole filtered test split.

    Raises
    ------
    ValueError
        When an argument is of another type or out of range, or the data file is not the one that was published.
    FileNotFoundError
        When there is no data file.

    Examples
    --------
    >>> from bpflat import load_reduced_fashion_mnist
    >>> data = load_reduced_fashion_mnist(500)
    >>> data.train_patterns.shape, data.test_patterns.shape
    ((500, 784), (677, 784))
    """
    split = _read_data_file()
    labels = split["train_labels"]
    drawn = _draw(labels, n_train, seed, balanced)
    return ReducedFashionMNIST(
        train_patterns=_unpack(split["train_patterns"][drawn]),
        train_labels=labels[drawn].astype(np.float64),
        test_patterns=_unpack(split["test_patterns"]),
        test_labels=split["test_labels"].astype(np.float64),
        train_indices=split["train_indices"][drawn].astype(np.int64),
        test_indices=split["test_indices"].astype(np.int64),
    )


def _draw(labels: NDArray[np.int8], n_train: int | None, seed: int, balanced: bool) -> NDArray[np.intp]:
    """Positions of the drawn patterns among the `labels` of the training split."""
    seed = check_count("seed", seed, at_least=0, at_most=2**32 - 1)
    balanced = check_flag("balanced", balanced)
    if n_train is None:
        if balanced:
            raise ValueError("n_train=None is the whole split, which is not balanced; give an even n_train")
        return np.arange(len(labels))
    # RandomState, not a Generator: NumPy has frozen its stream, so that a seed means the same draw for ever.
    random = np.random.RandomState(seed)
    if not balanced:
        n_train = check_count("n_train", n_train, at_most=len(labels), why="or None for all")
        return random.permutation(len(labels))[:n_train]
    classes = [np.flatnonzero(labels == label) for label in (1, -1)]
    most = 2 * min(map(len, classes))
    n_train = check_count("n_train", n_train, at_least=2, at_most=most, why="for a balanced draw")
    if n_train % 2:
        raise ValueError(f"n_train must be even for a balanced draw, not {n_train}")
    halves = [random.permutation(members)[: n_train // 2] for members in classes]
    return random.permutation(np.concatenate(halves))


def _unpack(packed: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Bits (P, 98) to float64 ±1 (P, 784)."""
    return 2.0 * np.unpackbits(packed, axis=1, count=N_INPUTS).astype(np.float64) - 1.0


def _candidates() -> tuple[Path, Path]:
    """Paths where the data file may lie: in the package once installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "data" / FILE_NAME, package.parent / "data" / FILE_NAME


def _read_data_file() -> dict[str, NDArray[Any]]:
    """Read every array of the data file, after its checksum."""
    candidates = _candidates()
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"no data file at {candidates[0]} nor {candidates[1]}; install bpflat again, or make the file "
            "again with `make data` in a checkout"
        )
    content = read_bytes(path, MODEST)
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(
            f"{path} is damaged ({len(content)} bytes, whose SHA-256 is not the published one); install "
            "bpflat again, or make the file again with `make data` in a checkout"
        )
    return read_arrays(io.BytesIO(content))
