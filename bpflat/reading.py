"""Files that others may have damaged or made up: nothing is read that a file's size and checksums do not vouch for.

Zip archives (``.npz`` files, and what torch.save writes) are sealed by `seal`: their comment holds the SHA-256 of all
that is before it, so that whoever reads them elsewhere sees a plain archive.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import stat
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bpflat.arguments import check_path

MODEST = 16 << 20  # bytes, to which anything may be unpacked
_GROWTH = 100  # times the size of a larger packed file; pictures and weights grow to twice theirs, zeros to 1,000 times
_LONGEST_JSON = 4_000_000  # characters; brackets alone become 20 times as many bytes
_SEAL = b"bpflat-sha256:"
# The end of an archive: signature, disks, members (twice), size and place of its directory, length of its comment.
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")  # the same of large ones, and of torch's, before a locator of 20 bytes
_LARGEST_DIRECTORY = 4 << 20  # bytes; tens of thousands of members
_CHUNK = 1 << 20


def reason(error: BaseException) -> str:
    """What an exception says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, as bytes; a pipe or a device could keep its reader for ever.

    Raises
    ------
    OSError
        When there is no such file (FileNotFoundError), it may not be read, or it is no regular file.
    ValueError
        When `path` cannot be the name of one.
    """
    path = Path(check_path("path", path))
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(f"{path} is no regular file; copy what it gives into one")
    return open(path, "rb")  # which says what is wrong with a folder


def read_bytes(path: str | os.PathLike[str], at_most: int) -> bytes:
    """Content of a file of so many bytes at most; raises as `open_regular`, and ValueError for a larger one."""
    with open_regular(path) as file:
        content = file.read(at_most + 1)
    if len(content) > at_most:
        raise ValueError(f"{path} has more than {at_most:,} bytes; it cannot be what it is taken for")
    return content


def check_growth(packed: int, unpacked: int, growth: int = _GROWTH) -> None:
    """Raise a ValueError where data of `unpacked` bytes cannot be what an honest file of `packed` bytes holds."""
    if unpacked > max(MODEST, growth * packed):
        raise ValueError(f"{packed:,} bytes that unpack to {unpacked:,}; if they are meant to, store them uncompressed")


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds; raises ValueError for anything else, however deep or long."""
    if not isinstance(text, str | bytes):
        raise ValueError(f"a text of JSON is wanted, not {type(text).__name__}")
    if len(text) > _LONGEST_JSON:
        raise ValueError(f"more than {_LONGEST_JSON:,} characters of JSON")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a file of JSON holds; raises as `read_bytes`, and a ValueError where it holds something else."""
    try:
        return parse_json(read_bytes(path, 4 * _LONGEST_JSON))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {reason(error)}") from error


def read_image(content: bytes) -> Any:
    """Decode a picture to RGB, as PIL does; raises ValueError where it is damaged or larger than its file can hold."""
    from PIL import Image  # not everywhere

    try:
        with Image.open(io.BytesIO(content)) as image:
            check_growth(len(content), 4 * math.prod(image.size))
            return image.convert("RGB")
    except Exception as error:  # as the formats please
        raise ValueError(f"no whole image ({reason(error)})") from error


def gunzip(packed: bytes, at_most: int) -> bytes:
    """Unpack a gzip file to so many bytes at most; raises ValueError where it is damaged or larger."""
    try:
        content = gzip.GzipFile(fileobj=io.BytesIO(packed)).read(at_most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not a whole gzip file ({reason(error)})") from error
    if len(content) > at_most:
        raise ValueError(f"a gzip file that unpacks to more than {at_most:,} bytes")
    return content


# -- zip archives ------------------------------------------------------------------------------------------------------


def seal(file: IO[bytes]) -> None:
    """Add the digest to a whole zip archive, open for reading and writing, as its comment."""
    end = file.seek(-_END.size, os.SEEK_END)
    *_, comment_length = record = _END.unpack(file.read())
    if record[0] != b"PK\x05\x06" or comment_length:
        raise ValueError("only a zip archive without a comment can be sealed")
    own = digest(file, end + _END.size - 2).encode()
    file.seek(end + _END.size - 2)
    file.write(struct.pack("<H", len(_SEAL + own)) + _SEAL + own)


def digest(file: IO[bytes], n_bytes: int | None = None, algorithm: str = "sha256") -> str:
    """Digest, in hexadecimal digits, of the first bytes of a file that is open for reading; by default of all."""
    summed, left = hashlib.new(algorithm, usedforsecurity=False), math.inf if n_bytes is None else n_bytes
    file.seek(0)
    while left and (chunk := file.read(int(min(left, _CHUNK)))):
        summed.update(chunk)
        left -= len(chunk)
    return summed.hexdigest()


def open_zip(file: IO[bytes], growth: int = _GROWTH) -> zipfile.ZipFile:
    """Open a zip archive after its seal, if it has one, and the bounds of its directory and its members.

    All members together may have `growth` times the size of the file.  The checksum of each one is checked by whoever
    reads it to its end.

    Raises
    ------
    ValueError, zipfile.BadZipFile
        The file is damaged, or its members are larger than it can hold.
    """
    size, (n_members, directory_size) = file.seek(0, os.SEEK_END), _end_of(file)
    if directory_size > _LARGEST_DIRECTORY:
        raise ValueError(f"a directory of {directory_size:,} bytes")
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if not len(members) == len(set(archive.namelist())) == n_members:
        raise ValueError(f"its directory tells of {n_members} members and lists {len(set(archive.namelist()))}")
    check_growth(size, sum(member.file_size for member in members), growth)
    return archive


def _end_of(file: IO[bytes]) -> tuple[int, int]:
    """Number of members and size of the directory of a zip archive, as its end tells, after the seal in its comment."""
    start = file.seek(-min(file.seek(0, os.SEEK_END), _END.size + 0xFFFF), os.SEEK_END)  # of the longest end
    content = file.read()
    place = content.rfind(b"PK\x05\x06")
    if place < 0 or len(content) < place + _END.size:
        raise ValueError("not a whole zip archive")
    *_, n_members, directory_size, _, comment_length = _END.unpack_from(content, place)
    comment = content[place + _END.size :]
    if len(comment) != comment_length:
        raise ValueError("bytes are missing or left over at its end")
    if comment.startswith(_SEAL) and comment != _SEAL + digest(file, start + place + _END.size - 2).encode():
        raise ValueError("its content is not that of its digest")
    if n_members == 0xFFFF or directory_size == 0xFFFFFFFF:  # they are told 76 bytes before, in the form of 64 bits
        *_, n_members, directory_size, _ = _END64.unpack_from(content, max(place - 20 - _END64.size, 0))
    return n_members, directory_size


def read_arrays(file: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz`` file of numbers and text; raises nearly anything where it is damaged."""
    with open_zip(file) as archive:
        if not all(name.endswith(".npy") for name in archive.namelist()):
            raise ValueError("it holds something else than arrays")
        return {member.filename[: -len(".npy")]: _read_array(archive, member) for member in archive.infolist()}


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One member, whose header must ask for just the bytes that are there."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        count, content = math.prod(shape), member.file_size - stream.tell()
        if dtype.hasobject or count * dtype.itemsize != content or count > max(1, content):
            raise ValueError(f"{member.filename} holds {content} bytes, not an array of {shape} {dtype}")
    with archive.open(member) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # the end, where the checksum is checked
    if array.dtype.kind == "U" and array.size and array.reshape(-1).view(np.uint32).max() > sys.maxunicode:
        raise ValueError(f"{member.filename} holds no text")
    return array
