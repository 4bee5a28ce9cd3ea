import gzip
import hashlib
import http.server
import importlib.util
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import bpflat
from bpflat import datasets
from bpflat.datasets import binarize_at_median, load_reduced_fashion_mnist
from tests.stored import ROOT

DATA_FILE = ROOT / "data" / datasets.FILE_NAME
ORIGINALS = [
    Path(folder)
    for folder in (os.environ.get("FASHION_MNIST_DIR"), "/usr/share/datasets/fashion-mnist")
    if folder and (Path(folder) / "train-images-idx3-ubyte.gz").is_file()
]
needs_originals = pytest.mark.skipif(
    not ORIGINALS, reason="no original Fashion-MNIST here; set FASHION_MNIST_DIR to its folder"
)


@pytest.fixture(scope="module")
def builder():
    path = ROOT / "data" / "builder" / "reduced_fashion_mnist.py"
    spec = importlib.util.spec_from_file_location("reduced_fashion_mnist_builder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def whole():
    return load_reduced_fashion_mnist(None)


def test_checksum_of_the_file():
    assert hashlib.sha256(DATA_FILE.read_bytes()).hexdigest() == datasets.SHA256
    assert datasets.SHA256 in (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert DATA_FILE.stat().st_size < 500_000


def test_counts_and_values(whole):
    assert bpflat.load_reduced_fashion_mnist is load_reduced_fashion_mnist
    for patterns, labels, indices, n, n_dress, n_original in (
        (whole.train_patterns, whole.train_labels, whole.train_indices, 3927, 344, 60_000),
        (whole.test_patterns, whole.test_labels, whole.test_indices, 677, 74, 10_000),
    ):
        assert patterns.shape == (n, 784)
        assert labels.shape == indices.shape == (n,)
        assert patterns.dtype == labels.dtype == np.float64
        assert indices.dtype == np.int64
        assert set(np.unique(patterns)) == set(np.unique(labels)) == {-1.0, 1.0}
        assert np.count_nonzero(labels > 0) == n_dress
        assert (np.diff(indices) > 0).all()  # the original order
        assert indices[0] >= 0
        assert indices[-1] < n_original


def test_every_pattern_has_half_its_pixels_at_most_above_the_median(whole):
    # The median of 784 numbers is their 392nd or above: at most 392 are larger.  The filter (median > 0) excludes
    # pictures that are mostly background, so ties at the median are few.
    n_plus = (whole.train_patterns > 0).sum(axis=1)
    assert n_plus.max() == 392
    assert np.median(n_plus) > 380


def test_constant_answer_errs_on_a_tenth(whole):
    assert round(100 * np.mean(whole.test_labels > 0), 1) == 10.9


def test_default_draw_is_pinned(whole):
    data = load_reduced_fashion_mnist()
    assert data.train_patterns.shape == (500, 784)
    assert data.train_indices[:5].tolist() == [9323, 17685, 59975, 30081, 9365]
    position = np.searchsorted(whole.train_indices, data.train_indices)
    assert np.array_equal(whole.train_patterns[position], data.train_patterns)
    assert np.array_equal(whole.train_labels[position], data.train_labels)
    assert np.array_equal(whole.test_patterns, data.test_patterns)


def test_draws_are_seeded_distinct_and_prefixes_of_longer_ones():
    long, short, other = (load_reduced_fashion_mnist(n, seed=s) for n, s in ((800, 3), (50, 3), (800, 4)))
    assert np.unique(long.train_indices).size == 800
    assert np.array_equal(long.train_indices[:50], short.train_indices)
    assert not np.array_equal(long.train_indices, other.train_indices)
    again = load_reduced_fashion_mnist(np.int64(800), seed=np.uint8(3))
    assert np.array_equal(again.train_patterns, long.train_patterns)


def test_largest_draw_is_the_whole_split(whole):
    data = load_reduced_fashion_mnist(3927, seed=1)
    assert np.array_equal(np.sort(data.train_indices), whole.train_indices)


@pytest.mark.parametrize("n_train", [2, 500, 688])
def test_balanced_draw(n_train, whole):
    data = load_reduced_fashion_mnist(n_train, seed=5, balanced=True)
    assert np.unique(data.train_indices).size == n_train
    assert data.train_labels.sum() == 0
    position = np.searchsorted(whole.train_indices, data.train_indices)
    assert np.array_equal(whole.train_patterns[position], data.train_patterns)
    again = load_reduced_fashion_mnist(n_train, seed=5, balanced=True)
    assert np.array_equal(again.train_indices, data.train_indices)
    if n_train > 2:  # the classes are mixed: their runs are short, and neither fills the first half
        assert abs(data.train_labels[: n_train // 2].sum()) < n_train / 5


def test_balanced_draw_is_pinned():
    data = load_reduced_fashion_mnist(6, balanced=True)
    assert data.train_indices.tolist() == [21784, 13638, 42409, 3023, 24055, 1077]
    assert data.train_labels.tolist() == [-1, 1, -1, -1, 1, 1]


@pytest.mark.parametrize("n_train", [0, -1, 3928, 2.5, 500.0, "500", True, np.array([5, 6])])
def test_bad_n_train(n_train):
    with pytest.raises(ValueError, match="n_train must be"):
        load_reduced_fashion_mnist(n_train)


@pytest.mark.parametrize("n_train", [0, -2, 7, 690, None])
def test_bad_n_train_of_a_balanced_draw(n_train):
    with pytest.raises(ValueError, match=r"n_train.* (even|balanced)"):
        load_reduced_fashion_mnist(n_train, balanced=True)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, None, "0"])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="seed must be"):
        load_reduced_fashion_mnist(10, seed=seed)


def test_results_are_frozen(whole):
    with pytest.raises(AttributeError):
        whole.train_labels = None


# -- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "text"])
def test_damaged_file(damage, tmp_path, monkeypatch):
    content = bytearray(DATA_FILE.read_bytes())
    if damage == "one bit":
        content[200_000] ^= 1
    else:
        content = {"truncated": content[:100_000], "empty": b"", "text": b"version https://example.org"}[damage]
    path = tmp_path / datasets.FILE_NAME
    path.write_bytes(content)
    monkeypatch.setattr(datasets, "_candidates", lambda: (tmp_path / "absent", path))
    with pytest.raises(ValueError, match=r"is damaged.*make data") as caught:
        load_reduced_fashion_mnist()
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_candidates", lambda: (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(FileNotFoundError, match=r"no data file at .*make data") as caught:
        load_reduced_fashion_mnist()
    assert str(tmp_path / "a") in str(caught.value)
    assert str(tmp_path / "b") in str(caught.value)


# -- the builder ---------------------------------------------------------------------------------------------------


def test_binarize_at_median():
    images = np.array([[[0, 10], [20, 30]], [[7, 7], [7, 9]]], dtype=np.uint8)
    patterns, medians = binarize_at_median(images)
    assert patterns.tolist() == [[-1, -1, 1, 1], [-1, -1, -1, 1]]
    assert patterns.dtype == np.int8
    assert medians.tolist() == [15, 7]


def test_binarization_does_not_see_the_units():
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28))
    patterns, medians = binarize_at_median(images)
    scaled, scaled_medians = binarize_at_median(images / 256)
    assert np.array_equal(patterns, scaled)
    assert np.array_equal(medians / 256, scaled_medians)


def test_reduce_split_keeps_the_right_pictures(builder):
    classes = np.array([3, 4, 5, 3, 4, 4, 3], dtype=np.uint8)
    levels = np.array([100, 63, 100, 64, 191, 192, 200], dtype=np.uint8)  # 63.75 and 191.25 are the bounds
    images = np.broadcast_to(levels[:, None, None], (7, 28, 28)).copy()
    images[:, 0, 0] = 255
    patterns, labels, indices = builder.reduce_split(images, classes)
    assert indices.tolist() == [0, 3, 4]
    assert labels.tolist() == [1, 1, -1]
    assert patterns.sum(axis=1).tolist() == [2 - 784] * 3


def test_npz_bytes_are_npz_and_the_same_each_time(builder):
    arrays = {"a": np.arange(6, dtype="<i4").reshape(2, 3), "b": np.zeros(0, np.uint8)}
    content = builder.npz_bytes(arrays)
    assert content == builder.npz_bytes(arrays)
    with np.load(DATA_FILE) as archive:
        assert builder.npz_bytes({name: archive[name] for name in archive.files}) == DATA_FILE.read_bytes()


@needs_originals
@pytest.mark.parametrize("how", ["folder", "download"])
def test_rebuild_from_originals_byte_for_byte(how, builder, tmp_path, capsys):
    out = tmp_path / "made.npz"
    where = ["--source", str(ORIGINALS[0])]
    if how == "download":
        where = ["--download", "--url", ORIGINALS[0].resolve().as_uri()]
    assert builder.main([*where, "--out", str(out)]) == 0
    assert datasets.SHA256 in capsys.readouterr().out
    assert out.read_bytes() == DATA_FILE.read_bytes()
    assert os.listdir(tmp_path) == ["made.npz"]


@pytest.fixture
def impostors(tmp_path, builder):
    """A folder with four files of the right names that are whole, but not Fashion-MNIST."""
    folder = tmp_path / "originals"
    folder.mkdir()
    for name in builder.ORIGINALS:
        (folder / name).write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x05"))
    return folder


@pytest.mark.parametrize("how", ["folder", "download"])
@pytest.mark.parametrize("damage", ["other content", "truncated", "not gzip", "missing"])
def test_bad_originals(how, damage, impostors, builder, tmp_path, capsys):
    first = impostors / next(iter(builder.ORIGINALS))
    if damage == "truncated":
        first.write_bytes(first.read_bytes()[:-9])
    elif damage == "not gzip":
        first.write_bytes(b"<html>404</html>")
    elif damage == "missing":
        first.unlink()
    out = tmp_path / "made.npz"
    where = ["--source", str(impostors)] if how == "folder" else ["--download", "--url", impostors.as_uri()]
    assert builder.main([*where, "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert "error: " in message
    assert first.name in message
    assert not out.exists()


def test_builder_refuses_to_write_another_file(builder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(builder, "build", lambda originals: b"something else")
    monkeypatch.setattr(builder, "read_folder", lambda folder: {})
    out = tmp_path / "made.npz"
    out.write_bytes(b"before")
    assert builder.main(["--source", "anywhere", "--out", str(out)]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert out.read_bytes() == b"before"


@pytest.mark.parametrize("status", [200, 404])
def test_broken_download(status, builder, tmp_path, capsys):
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "5000000")  # and then much less: the line breaks
            self.end_headers()
            self.wfile.write(gzip.compress(b"abc"))

        def log_message(self, *args):
            pass

    out = tmp_path / "made.npz"
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert builder.main(["--download", "--url", f"http://127.0.0.1:{server.server_port}", "--out", str(out)]) == 1
        thread.join()
    assert "error: " in capsys.readouterr().err
    assert not out.exists()
