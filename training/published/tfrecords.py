"""Images in TFRecord files, as the PGDL competition publishes its training data, read without TensorFlow.

A file is a row of records (length, checksum, a serialized ``tf.train.Example``, checksum). Its features ``inputs`` and
``output`` are serialized tensors themselves. Formats: https://www.tensorflow.org/tutorials/load_data/tfrecord and
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpflat.reading import open_regular, reason

_POLYNOMIAL = np.uint32(0x82F63B78)  # of CRC-32C (Castagnoli), its bits in reverse
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 9: "<i8"}  # numbers of tensorflow.DataType


def read_images(folder: Path) -> tuple[Tensor, Tensor]:
    """Read all images of a folder.

    Parameters
    ----------
    folder : Path
        Folder of ``*.tfrecord``; images are (height, width, channels) and already normalised.

    Returns
    -------
    images : Tensor of float32, shape (P, channels, height, width)
    labels : Tensor of int64, shape (P,)

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        A file is truncated or holds something else.
    """
    paths = sorted(Path(folder).glob("*.tfrecord"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no *.tfrecord")
    shards = [_read_shard(path) for path in paths]
    if len({images.shape[1:] for images, _ in shards}) > 1:
        raise ValueError(f"the files of {folder} hold images of several shapes")
    images, labels = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*shards, strict=True))
    return images.movedim(-1, 1).contiguous(), labels


def _read_shard(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (P, height, width, channels) and labels (P,) of one file."""
    with open_regular(path) as file:
        content = file.read()
    try:
        pairs = [_pair(dict(_features(record))) for record in _records(content)]
        images, labels = (np.stack(column) for column in zip(*pairs, strict=True))
        if images.ndim != 4 or not np.isfinite(images).all():
            raise ValueError("images must be finite numbers (height, width, channels)")
    except Exception as error:  # what was made up shows as nearly anything
        raise ValueError(f"{path} is not a whole file of images (inputs, output): {reason(error)}") from error
    return images, labels


def _pair(features: dict[str, bytes]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Image and label of one record."""
    return _tensor(features["inputs"]).astype(np.float32), _tensor(features["output"]).astype(np.int64).reshape(())


def _records(content: bytes) -> Iterator[bytes]:
    """Contents of all records, after the checksums of their lengths and of themselves."""
    table, buffer, start = _crc_table(), np.frombuffer(content, np.uint8), 0
    while start < len(content):
        length = int.from_bytes(content[start : start + 8], "little")
        end = start + 12 + length
        if end + 4 > len(content):
            raise ValueError("it ends in the middle of a record")
        for first, last in ((start, start + 8), (start + 12, end)):
            if _masked(_crc32c(buffer[first:last], table)) != int.from_bytes(content[last : last + 4], "little"):
                raise ValueError(f"the checksum of the record at byte {start} does not hold")
        yield content[start + 12 : end]
        start = end + 4


def _masked(crc: int) -> int:
    """The form in which TFRecord stores a checksum: rotated right by 15 bits, and a constant added."""
    return ((int(crc) >> 15 | int(crc) << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> NDArray[np.uint32]:
    """CRC-32C of each byte by itself."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ _POLYNOMIAL, table >> 1).astype(np.uint32)
    return table


@numba.njit(cache=True)
def _crc32c(content, table):
    """CRC-32C of bytes."""
    crc = np.uint32(0xFFFFFFFF)
    for byte in content:
        crc = table[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return crc ^ np.uint32(0xFFFFFFFF)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = message[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"a field of the kind {kind}")
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for i, byte in enumerate(message[at : at + 10]):  # 64 bits at most
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("a number that does not end")


def _features(example: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and first byte strings of the features of an Example."""
    for entry in _inside(dict(_fields(example))[1], 1):
        key, feature = (value for _, value in sorted(_fields(entry)))
        byte_list = dict(_fields(feature))[1]
        yield key.decode(), next(_inside(byte_list, 1))


def _tensor(message: bytes) -> NDArray:
    """A TensorProto with its content in one piece, or, if it is a whole number, as such."""
    fields = dict(_fields(message))
    dtype = _DTYPES[fields[1]]
    shape = [dict(_fields(dimension)).get(1, 0) for dimension in _inside(fields.get(2, b""), 2)]
    if 4 in fields:
        return np.frombuffer(fields[4], dtype=dtype).reshape(shape)
    number = fields[7] if 7 in fields else fields[10]  # int_val or int64_val, packed or not
    return np.array(_varint(number, 0)[0] if isinstance(number, bytes) else number, dtype=dtype).reshape(shape)


def _inside(message: bytes, number: int) -> Iterator[bytes]:
    return (value for key, value in _fields(message) if key == number)
