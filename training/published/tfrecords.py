"""Images in TFRecord files, as the PGDL competition publishes its training data, read without TensorFlow.

A file is a row of records (length, checksum, a serialized ``tf.train.Example``, checksum). Its features ``inputs`` and
``output`` are serialized tensors themselves. Formats: https://www.tensorflow.org/tutorials/load_data/tfrecord and
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    images, labels = [], []
    for path in paths:
        try:
            for record in _records(path.read_bytes()):
                features = dict(_features(record))
                images.append(_tensor(features["inputs"]).astype(np.float32))
                labels.append(_tensor(features["output"]).reshape(()))
        except (IndexError, KeyError, StopIteration, ValueError) as error:
            raise ValueError(f"{path} is not a whole file of images (inputs, output): {error!r}") from error
    return (
        torch.from_numpy(np.stack(images)).movedim(-1, 1).contiguous(),
        torch.from_numpy(np.array(labels, dtype=np.int64)),
    )


def _records(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        length = int.from_bytes(content[start : start + 8], "little")
        record = content[start + 12 : start + 12 + length]
        start += length + 16
        if start > len(content):
            raise ValueError("it ends in the middle of a record")
        yield record


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
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


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
