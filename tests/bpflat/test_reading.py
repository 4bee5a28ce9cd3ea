"""Archives with a digest, and what is never unpacked: the bounds and checksums behind every file that is read."""

import gzip
import io
import json
import struct
import zipfile

import numpy as np
import pytest
import torch

from bpflat.layout import check_layout
from bpflat.reading import check_growth, gunzip, open_zip, parse_json, read_arrays, read_image, seal
from bpflat.storage import read_npz
from bpflat.tensor_files import load_tensors, save_tensors


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file


def test_sealed_archives_are_plain_ones(tmp_path):
    """numpy, torch and zipfile read them as they read any other."""
    file = archive(x=np.arange(3), y="σ")
    seal(file)
    file.seek(0)
    with np.load(file) as stored:
        assert stored["x"].tolist() == [0, 1, 2] and str(stored["y"]) == "σ"
    assert open_zip(file).testzip() is None
    save_tensors(tmp_path / "a.pt", {"w": torch.arange(3)})
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True)["w"], torch.arange(3))
    with pytest.raises(ValueError, match="without a comment"):
        seal(file)


def test_members_do_not_vanish():
    """A directory whose last but one entry has swallowed the last as its comment: zipfile sees one member less."""
    content = bytearray(archive(x=1, y=2).getvalue())
    first, last = (place for place in range(len(content)) if content[place : place + 4] == b"PK\x01\x02")
    end = content.rfind(b"PK\x05\x06")
    struct.pack_into("<H", content, first + 32, end - last)
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == ["x.npy"]
    with pytest.raises(ValueError, match="tells of 2 members and lists 1"):
        open_zip(io.BytesIO(content))


def test_the_same_member_twice():
    file = archive(x=1)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as more:
        more.writestr("x.npy", b"other")
    with pytest.raises(ValueError, match="lists 1"):
        read_arrays(file)


def test_a_whole_file_in_which_all_checksums_hold_but_the_digest(tmp_path):
    """An array that somebody has exchanged, with its CRC, for another one."""
    a, b = archive(x=np.zeros(4)), archive(x=np.ones(4))
    seal(a)
    comment = zipfile.ZipFile(a).comment
    with zipfile.ZipFile(b, "a") as forged:
        forged.comment = comment
    (tmp_path / "a.npz").write_bytes(b.getvalue())
    with pytest.raises(ValueError, match=r"a\.npz is not a whole bpflat file .its content is not that of its digest"):
        read_npz(tmp_path / "a.npz")


def test_growth():
    check_growth(1_000_000, 64_000_000)  # ±1 in float64, packed
    check_growth(10, 16 << 20)
    for packed, unpacked in ((10, (16 << 20) + 1), (1_000_000, 1_000_000_000)):
        with pytest.raises(ValueError, match="store them uncompressed"):
            check_growth(packed, unpacked)
    packed = gzip.compress(bytes(1000))
    assert gunzip(packed, 1000) == bytes(1000)
    with pytest.raises(ValueError, match="more than 999 bytes"):
        gunzip(packed, 999)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5_000_000, "{", "nul", "\ud800", 3])
def test_bad_json(text):
    assert parse_json(json.dumps({"a": [1.5]})) == {"a": [1.5]}
    with pytest.raises(ValueError):
        parse_json(text)


def test_bad_pictures():
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("1", (8, 8)).save(file, "PNG")
    assert read_image(file.getvalue()).size == (8, 8)
    with pytest.raises(ValueError, match="no whole image"):
        read_image(file.getvalue()[:45])


def test_the_old_format_of_torch(tmp_path):
    """It has no checksums: a warning, unless the name tells the digest, which then must hold."""
    torch.save({"w": torch.arange(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match="no checksums"):
        load_tensors(tmp_path / "a.pt")
    (tmp_path / "a.pt").rename(tmp_path / "a-0123abcd.pt")
    with pytest.raises(ValueError, match=r"a-0123abcd\.pt .*does not begin as its name ends"):
        load_tensors(tmp_path / "a-0123abcd.pt")


LAYOUT = {"weights": "f R? K N", "restart": "i R?", "status": "U R?", "ended": "b", "seed": "n"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"seed": 0.5}, None),
        ({"status": None}, None),
        ({"weights": np.ones((3, 4)), "restart": 1, "status": "a"}, None),
        ({"weights": np.ones((2, 3))}, r"restart must be integers of shape \(R\?\), not int64 of shape \(2,\)"),
        ({"weights": np.ones((2, 3, 4), int)}, "weights must be floats .* not int64"),
        ({"weights": np.ones(4)}, r"weights must be floats of shape \(R\?, K, N\), not float64 of shape \(4,\)"),
        ({"restart": np.arange(3)}, "restart must be integers"),
        ({"status": np.arange(2)}, "status must be text"),
        ({"ended": 1}, "ended must be flags, a single one"),
        ({"seed": "1"}, "seed must be numbers"),
        ({"seed": [1]}, "seed must be numbers"),
    ],
)
def test_layout(changes, message):
    values = {"weights": np.ones((2, 3, 4)), "restart": np.arange(2), "status": np.array(["a", "b"])}
    values |= {"ended": True, "seed": 1, "unknown": object()} | changes
    if message is None:
        check_layout(values, LAYOUT)
    else:
        with pytest.raises(ValueError, match=message):
            check_layout(values, LAYOUT)
