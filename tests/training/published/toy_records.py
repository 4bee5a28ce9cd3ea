"""TFRecord files of images, with true checksums, bit by bit."""

import struct

import numpy as np


def crc32c(content):
    """CRC-32C by its definition: the remainder of the bits, the lowest first, divided by the polynomial."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc):
    """The CRC as TFRecord stores it: masked."""
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def part(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(array):
    """A TensorProto with tensor_content."""
    shape = b"".join(part(2, b"\x08" + varint(n)) for n in array.shape)
    return b"\x08" + varint({"f": 1, "i": 3}[array.dtype.kind]) + part(2, shape) + part(4, array.tobytes())


def write_records(path, images, labels, tensor_of_label=lambda label: tensor(np.array(label, dtype=np.int32))):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b""
    for image, label in zip(images, labels, strict=True):
        features = {"inputs": tensor(image), "output": tensor_of_label(label)}
        entries = (part(1, key.encode()) + part(2, part(1, part(1, value))) for key, value in features.items())
        example = part(1, b"".join(part(1, entry) for entry in entries))
        length = struct.pack("<Q", len(example))
        content += length + masked(crc32c(length)) + example + masked(crc32c(example))
    path.write_bytes(content)
