"""Small files that ask for 400 MB or more.  ``python -m tests.fuzz.bombs FOLDER`` reads them, and tells the memory."""

import gzip
import json
import struct
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import torch
import torchvision  # noqa: F401  # whose own memory does not count

from tests.fuzz.crafted import command, header, record
from tests.fuzz.kinds import KINDS, read_original
from tests.memory import peak_memory
from tests.training.published import toy_pgdl
from training.deep.images import load_images
from training.deep.sub_policies import read_policy
from training.published.pgdl import load_model
from training.published.tfrecords import read_images

SIZE = 400_000_000
FLATNESS = ["flatness", "torch.nn:Linear", "--model-options", '{"in_features": 9, "out_features": 9}']


def zeros(n_bytes, chunk=1 << 20):
    for start in range(0, n_bytes, chunk):
        yield bytes(min(chunk, n_bytes - start))


def write_npz(path):
    """An array of zeros, packed a thousandfold."""
    descr = {"descr": "|u1", "fortran_order": False, "shape": (1, SIZE)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("weights.npy", "w") as member,
    ):
        member.write(header(str(descr)))
        for chunk in zeros(SIZE):
            member.write(chunk)


def write_header(path):
    """An array that is not there."""
    descr = {"descr": "<f8", "fortran_order": False, "shape": (3, SIZE)}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.npy", header(str(descr)) + bytes(80))


def write_tensors(path):
    """Weights whose one storage is packed a thousandfold."""
    torch.save({"weight": torch.zeros(9)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    old, new = b"K\x09", b"J" + struct.pack("<i", SIZE // 4)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            with archive.open(name, "w") as member:
                for chunk in zeros(SIZE) if name.endswith("data/0") else [content.replace(old, new)]:
                    member.write(chunk)


def write_repeated(path):
    """A tensor of one number, repeated."""
    torch.save({"inputs": torch.zeros(1, 1).expand(SIZE, 9), "targets": torch.zeros(1).expand(SIZE)}, path)


def write_gzip(path):
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.writelines(zeros(SIZE))


def write_png(path):
    """A picture of one bit a pixel."""
    side = 12_000  # more than PIL warns of, less than it refuses

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(bytes((side // 8 + 1) * side))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def write_images(path):
    """A folder of images, as torchvision reads it, with a bomb in it."""
    (path / "class").mkdir(parents=True)
    write_png(path / "class" / "a.png")


def write_tiny_imagenet(path):
    root = path / "tiny-imagenet-200"
    (root / "train" / "n01" / "images").mkdir(parents=True)
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("n01")
    (root / "val" / "val_annotations.txt").write_text("")
    write_png(root / "train" / "n01" / "images" / "a.JPEG")


def write_hdf5(path, **options):
    """A layer whose numbers were never written, or are packed a thousandfold."""
    toy_pgdl.write(path, [{"layer_name": "Dense", "units": 2}], [[np.zeros((3, 2)), np.zeros(2)]], shape=(3,))
    with h5py.File(path / "weights.hdf5", "a") as file:
        group = file[file.attrs["layer_names"][0]]
        name = group.attrs["weight_names"][0]
        del group[name]
        group.create_dataset(name, dtype="f4", **options)


def write_configuration(path):
    """Layers and inputs of sizes that no file vouches for."""
    layers = [{"layer_name": "MaxPooling2D", "pool_size": 10**6, "strides": 1, "padding": "same"}]
    toy_pgdl.write(path, layers, [], shape=(SIZE, SIZE, 3))


def write_record(path):
    path.mkdir()
    shape = b"".join(b"\x12\x06\x08" + b"\x80\x80\x80\x80\x08" for _ in range(3))
    (path / "a.tfrecord").write_bytes(record(b"\x08\x01" + shape) + struct.pack("<Q", SIZE))


IMAGES = [*FLATNESS, "--data", "PATH"]
CURVE = next(kind for kind in KINDS if kind.name == "curve.npz")
PIECE = {"shape": (1,), "maxshape": (None,), "chunks": (SIZE // 4,), "compression": "gzip", "data": [0.0]}
BOMBS = {
    "an .npz file": (write_npz, command("energy", "PATH")),
    "a result": (write_npz, CURVE.read),
    "an .npz file of images": (write_npz, lambda path: load_images("cifar10", path)),
    "a header": (write_header, command("entropy", "PATH")),
    "a file of tensors": (write_tensors, command(*IMAGES)),
    "a repeated tensor": (write_repeated, command(*IMAGES)),
    "a gzip file": (write_gzip, read_original),
    "a picture": (write_images, command(*IMAGES)),
    "a picture of Tiny ImageNet": (write_tiny_imagenet, lambda path: load_images("tiny-imagenet", path)),
    "an HDF5 file": (lambda path: write_hdf5(path, shape=(SIZE // 4,)), load_model),
    "a piece of an HDF5 file": (lambda path: write_hdf5(path, **PIECE), load_model),
    "a configuration": (write_configuration, load_model),
    "a TFRecord file": (write_record, read_images),
    "brackets": (lambda path: path.write_text("[" * 3_900_000), read_policy),
    "lists": (lambda path: path.write_text(f"[{'[],' * 1_300_000}[]]"), read_policy),
}


def write_all(folder):
    for name, (write, _) in BOMBS.items():
        write(folder / name.replace(" ", "-"))


def main(folder):
    """Read every bomb of the folder; print for each the memory above that of the beginning (MB), and the answer."""
    warnings.simplefilter("ignore")
    base = peak_memory()
    for name, (_, read) in BOMBS.items():
        try:
            read(folder / name.replace(" ", "-"))
            answer = "read"
        except (ValueError, OSError) as error:
            answer = str(error)
        print(json.dumps([name, round((peak_memory() - base) / 2**20), answer]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
