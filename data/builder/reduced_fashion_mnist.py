"""Make the reduced Fashion-MNIST of B.1 again, byte for byte, from the four original files.

    python data/builder/reduced_fashion_mnist.py --source /usr/share/datasets/fashion-mnist
    python data/builder/reduced_fashion_mnist.py --download

Needs bpflat installed (`pip install -e .`).  `make data` calls it.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import os
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bpflat.datasets import FILE_NAME, SHA256, binarize_at_median
from bpflat.reading import gunzip, read_bytes
from bpflat.storage import atomic_write

HOME = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"  # the authors' own repository
LARGEST_PACKED, LARGEST = 32_000_000, 47_040_016  # bytes, of the images to train on
DRESS, COAT = 3, 4
MEDIAN_RANGE = 0.25, 0.75

# SHA-256 of what each .gz file unpacks to.  The packed files differ from one distributor to another (Debian packs
# them without name and date), the content does not: packed with the name and the date of 31 August 2017 it has the
# MD5 sums that the authors publish.
ORIGINALS = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def unpack_original(name: str, packed: bytes, origin: str) -> np.ndarray:
    """Unpack one of the four originals (an IDX file of bytes), after its checksum.

    Raises
    ------
    ValueError
        When `packed` is not the published file; the message names `origin`.
    """
    try:
        content = gunzip(packed, LARGEST)
    except ValueError as error:
        raise ValueError(f"{origin} is {error}; fetch it again") from error
    if hashlib.sha256(content).hexdigest() != ORIGINALS[name]:
        raise ValueError(f"{origin} is not the published {name} of Fashion-MNIST; fetch it again")
    n_dimensions = content[3]
    shape = np.frombuffer(content, ">i4", n_dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)


def read_folder(folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the four originals of `folder`."""
    paths = {name: Path(folder) / name for name in ORIGINALS}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"--source {folder} lacks {', '.join(missing)}; try --download")
    return {name: unpack_original(name, read_bytes(path, LARGEST_PACKED), str(path)) for name, path in paths.items()}


def download(base: str = HOME) -> dict[str, np.ndarray]:
    """Fetch the four originals (31 MB) from the address `base`; say on stderr how far it is."""
    arrays = {}
    for name in ORIGINALS:
        address, packed = base.rstrip("/") + "/" + name, io.BytesIO()
        fetch(address, packed, LARGEST_PACKED)
        arrays[name] = unpack_original(name, packed.getvalue(), address)
    return arrays


def fetch(address: str, file: BinaryIO, at_most: int) -> None:
    """Write what is at `address`, of so many bytes at most, to an open file; say on stderr how far it is.

    Raises
    ------
    OSError
        When it cannot be had whole, or is larger.
    """
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            n_bytes, announced = 0, response.headers.get("Content-Length")
            while chunk := response.read(1 << 20):
                n_bytes += len(chunk)
                if n_bytes > at_most:
                    raise OSError(f"it is larger than the {at_most:,} bytes of what is looked for")
                file.write(chunk)
                print(f"\r{address}: {n_bytes:,} bytes", end="", file=sys.stderr)
            if announced is not None and n_bytes != int(announced):
                raise OSError(f"the connection broke after {n_bytes:,} of {int(announced):,} bytes")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OSError(f"cannot download {address} ({error}); get the file elsewhere and name it") from error
    finally:
        print(file=sys.stderr)


def reduce_split(images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keep the dresses and the coats whose median pixel is in range, in their order.

    Parameters
    ----------
    images : ndarray of uint8, shape (P, 28, 28)
    classes : ndarray of uint8, shape (P,)

    Returns
    -------
    patterns : ndarray of int8 ±1, shape (P', 784)
    labels : ndarray of int8, shape (P',)
        +1 for Dress, -1 for Coat.
    indices : ndarray of int64, shape (P',)
        Positions in `images`.
    """
    indices = np.flatnonzero((classes == DRESS) | (classes == COAT))
    patterns, medians = binarize_at_median(images[indices])
    kept = (MEDIAN_RANGE[0] <= medians / 255) & (medians / 255 <= MEDIAN_RANGE[1])
    indices = indices[kept]
    return patterns[kept], np.where(classes[indices] == DRESS, 1, -1).astype(np.int8), indices


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Return an ``.npz`` file of `arrays`: the same bytes whatever the platform, the day, and the zlib.

    `numpy.savez` leaves its zip headers to the Python version and the platform; here every field is given.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, member.getvalue())
    return buffer.getvalue()


def build(originals: dict[str, np.ndarray]) -> bytes:
    """Return the data file, as bytes, made of the four unpacked originals."""
    arrays = {}
    for split, prefix in ("train", "train"), ("test", "t10k"):
        patterns, labels, indices = reduce_split(
            originals[f"{prefix}-images-idx3-ubyte.gz"], originals[f"{prefix}-labels-idx1-ubyte.gz"]
        )
        arrays[f"{split}_patterns"] = np.packbits(patterns > 0, axis=1)
        arrays[f"{split}_labels"] = labels
        arrays[f"{split}_indices"] = indices.astype("<i4")
    return npz_bytes(arrays)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--source", metavar="FOLDER", help="holds the four original .gz files")
    source.add_argument("--download", action="store_true", help="fetch them (31 MB)")
    parser.add_argument("--url", default=HOME, help="where --download looks (default: %(default)s)")
    default = Path(__file__).resolve().parents[1] / FILE_NAME
    parser.add_argument("--out", metavar="FILE", type=Path, default=default, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        content = build(download(options.url) if options.download else read_folder(options.source))
        checksum = hashlib.sha256(content).hexdigest()
        if checksum != SHA256:
            raise ValueError(
                f"the file made here has SHA-256 {checksum}, not the published {SHA256}; nothing was written. "
                "Whoever changes the builder on purpose changes SHA256 in bpflat/datasets.py too"
            )
        with atomic_write(options.out) as file:
            file.write(content)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {len(content):,} bytes, SHA-256 {checksum}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
