"""Image data: what is read is what was stored, and what is not whole or another data set is refused."""

import hashlib
import io
import pickle
import urllib.request
import zipfile

import numpy as np
import pytest
import torch

from training.deep import images as module
from training.deep.images import Source, cache_folder, channel_statistics, load_images


def arrays(n=20, size=32, channels=3, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    shape = (size, size, channels) if channels > 1 else (size, size)
    return {
        f"{split}_{what}": rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        if what == "images"
        else rng.permutation(np.arange(n) % classes)
        for split in ("train", "test")
        for what in ("images", "labels")
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **arrays())
    return path


def test_npz(file):
    data, stored = load_images("cifar10", file), arrays()
    assert (data.classes, data.train_images.shape, data.train_labels.dtype) == (10, (20, 3, 32, 32), torch.int64)
    np.testing.assert_array_equal(data.test_images.permute(0, 2, 3, 1), stored["test_images"])
    np.testing.assert_array_equal(data.train_labels, stored["train_labels"])
    np.testing.assert_allclose(data.mean.flatten(), stored["train_images"].mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std.flatten(), stored["train_images"].std((0, 1, 2)), rtol=1e-6)


def test_grey_images(tmp_path):
    np.savez(tmp_path / "f.npz", **arrays(size=28, channels=1))
    assert load_images("fashion-mnist", tmp_path / "f.npz").train_images.shape == (20, 1, 28, 28)


def test_subsets_are_nested_and_normalised_by_themselves(file):
    small, large = (load_images("cifar10", file, n_train=n) for n in (5, 9))
    assert torch.equal(small.train_images, large.train_images[:5])
    assert torch.equal(small.train_labels, large.train_labels[:5])
    assert len(small.test_labels) == 20
    np.testing.assert_allclose(small.mean.flatten(), small.train_images.double().mean((0, 2, 3)), rtol=1e-6)
    other = load_images("cifar10", file, n_train=5, draw_seed=1)
    assert not torch.equal(other.train_images, small.train_images)
    for n in (0, 21):
        with pytest.raises(ValueError, match="from 1 to 20"):
            load_images("cifar10", file, n_train=n)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train_images": None}, "lacks the arrays train_images"),
        ({"train_images": np.zeros((20, 28, 28, 3), np.uint8)}, r"uint8 of shape \(P, 32, 32, 3\), not uint8"),
        ({"test_images": np.zeros((20, 32, 32, 3))}, "not float64"),
        ({"test_images": np.zeros((0, 32, 32, 3), np.uint8)}, "test_images"),
        ({"train_labels": np.arange(19)}, "20 integers"),
        ({"train_labels": np.arange(20) % 10 + 0.0}, "20 integers"),
        ({"test_labels": np.arange(20)}, "from 0 to 9; found 0 to 19"),
        ({"test_labels": np.arange(20) % 10 - 1}, "found -1 to 8"),
        ({"train_images": np.zeros((20, 32, 32, 3), np.uint8)}, "cannot be normalised"),
    ],
)
def test_other_data_are_refused(tmp_path, change, message):
    path = tmp_path / "other.npz"
    np.savez(path, **{name: array for name, array in (arrays() | change).items() if array is not None})
    with pytest.raises(ValueError, match=message):
        load_images("cifar10", path)


def test_broken_and_missing_files(file, tmp_path):
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match="not a whole"):
        load_images("cifar10", file)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_images("cifar10", tmp_path / "nothing")
    with pytest.raises(ValueError, match="one of cifar10, cifar100"):
        load_images("imagenet", file)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BPFLAT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("BPFLAT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "bpflat"


def test_statistics_are_exact():
    images = torch.tensor([[[[0, 255]]], [[[255, 255]]]], dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert mean.item() == 0.75 * 255 and std.item() == pytest.approx(255 * (0.75 * 0.25) ** 0.5)


# -- the published files -----------------------------------------------------------------------------------------------


@pytest.fixture
def toy_cifar10(tmp_path, monkeypatch):
    """A folder as torchvision wants it, with its own checksums."""
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lists = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        content = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 1, 2, 3]}
        if name == "batches.meta":
            content = {"label_names": [str(i) for i in range(10)]}
        (folder / name).write_bytes(pickle.dumps(content))
        lists[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cls = datasets.CIFAR10
    monkeypatch.setattr(cls, "train_list", [[n, s] for n, s in lists.items() if n.startswith("data")])
    monkeypatch.setattr(cls, "test_list", [["test_batch", lists["test_batch"]]])
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": lists["batches.meta"]})
    return tmp_path


def test_cifar_from_its_folder(toy_cifar10):
    data = load_images("cifar10", toy_cifar10)
    assert data.train_images.shape == (20, 3, 32, 32) and data.test_labels.tolist() == [0, 1, 2, 3]


def test_cifar_with_a_wrong_checksum(toy_cifar10, tmp_path):
    batch = toy_cifar10 / "cifar-10-batches-py" / "data_batch_3"
    content = batch.read_bytes()
    batch.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="does not hold the published cifar-10-batches-py, whole"):
        load_images("cifar10", toy_cifar10)
    assert batch.read_bytes() == content[:-1]  # nothing was overwritten
    with pytest.raises(ValueError, match="cifar-100-python"):
        load_images("cifar100", toy_cifar10)


def jpeg(colour, mode="RGB"):
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new(mode, (8, 8), colour).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def toy_tiny_imagenet(tmp_path, monkeypatch):
    """A zip archive with the layout of Tiny ImageNet: two classes, 8×8 pixels, one image grey."""
    pytest.importorskip("torchvision")
    path = tmp_path / "tiny-imagenet-200.zip"
    root = "tiny-imagenet-200/"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(root + "wnids.txt", "n02\nn01\n")
        for k, name in enumerate(("n01", "n02")):
            for i in (1, 0):
                content = jpeg(40 * i, "L") if k else jpeg((100, 100 * i, 0))
                archive.writestr(f"{root}train/{name}/images/{name}_{i}.JPEG", content)
        archive.writestr(root + "val/val_annotations.txt", "val_1.JPEG\tn01\t0\t0\t1\t1\nval_0.JPEG\tn02\t0\t0\t1\t1\n")
        archive.writestr(root + "val/images/val_0.JPEG", jpeg((0, 0, 200)))
        archive.writestr(root + "val/images/val_1.JPEG", jpeg((0, 200, 0)))
    monkeypatch.setitem(module.SOURCES, "tiny-imagenet", Source(2, 8, 6, is_sorted=True))
    monkeypatch.setattr(module, "TINY_IMAGENET_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_tiny_imagenet_from_archive_and_folder(toy_tiny_imagenet, tmp_path):
    data = load_images("tiny-imagenet", tmp_path)
    order = np.argsort(np.random.default_rng(0).permutation(4))  # where the draw has put them
    assert data.train_labels[order].tolist() == [0, 0, 1, 1] and data.test_labels.tolist() == [1, 0]
    colours = data.train_images[order].float().mean((2, 3)).round()
    np.testing.assert_allclose(colours, [[0, 0, 0], [40, 40, 40], [100, 0, 0], [100, 100, 0]], atol=3)
    assert data.test_images.float().mean((2, 3)).argmax(1).tolist() == [1, 2]
    unpacked = tmp_path / "elsewhere"
    with zipfile.ZipFile(toy_tiny_imagenet) as archive:
        archive.extractall(unpacked)
    for folder in (unpacked, unpacked / "tiny-imagenet-200"):
        assert torch.equal(load_images("tiny-imagenet", folder).train_images, data.train_images)
    broken = unpacked / "tiny-imagenet-200" / "train" / "n01" / "images" / "n01_0.JPEG"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"n01_0.JPEG is no whole image"):
        load_images("tiny-imagenet", unpacked)


def test_the_first_images_of_tiny_imagenet_are_of_all_classes(tmp_path):
    """Published class after class: the first 10,000 would be of 20 of 200 classes."""
    stored = arrays(n=2000, size=64, classes=200)
    stored["train_labels"].sort()
    np.savez(tmp_path / "tiny.npz", **stored)
    whole = load_images("tiny-imagenet", tmp_path / "tiny.npz")
    part = load_images("tiny-imagenet", tmp_path / "tiny.npz", n_train=200)
    assert len(set(whole.train_labels[:200].tolist())) > 100  # 20 in the order of the file
    assert torch.equal(whole.train_images[:200], part.train_images)
    assert torch.equal(whole.train_labels[:200], part.train_labels)


def test_tiny_imagenet_truncated_or_absent(toy_tiny_imagenet, tmp_path):
    content = toy_tiny_imagenet.read_bytes()
    toy_tiny_imagenet.write_bytes(content[:-100])
    with pytest.raises(ValueError, match="truncated or not the published one"):
        load_images("tiny-imagenet", tmp_path)
    assert toy_tiny_imagenet.read_bytes() == content[:-100]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither"):
        load_images("tiny-imagenet", tmp_path / "empty")


def test_tiny_imagenet_is_decoded_once(toy_tiny_imagenet, tmp_path, monkeypatch):
    monkeypatch.setenv("BPFLAT_CACHE", str(tmp_path))  # the archive lies where it would be downloaded to
    first = load_images("tiny-imagenet")
    toy_tiny_imagenet.unlink()
    assert torch.equal(load_images("tiny-imagenet").train_images, first.train_images)


def test_fashion_mnist_from_its_folder(tmp_path):
    from pathlib import Path

    folder = Path("/usr/share/datasets/fashion-mnist")
    with pytest.raises(FileNotFoundError, match="lacks train-images"):
        load_images("fashion-mnist", tmp_path)
    if not folder.is_dir():
        pytest.skip("no original Fashion-MNIST here")
    data = load_images("fashion-mnist", folder, n_train=100)
    assert data.train_images.shape == (100, 1, 28, 28) and data.test_images.shape == (10_000, 1, 28, 28)


def test_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("BPFLAT_CACHE", str(tmp_path))

    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    for name in ("tiny-imagenet", "cifar10", "fashion-mnist"):
        with pytest.raises(OSError, match=r"no network.*; get the file elsewhere"):
            load_images(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tiny-imagenet", "cifar10"])
@pytest.mark.parametrize(("n_bytes", "message"), [(2_000_000, "larger than"), (2_000, "its MD5 differs")])
def test_downloads_are_bounded_and_checked(name, n_bytes, message, tmp_path, monkeypatch):
    """What comes instead of the published file is not kept."""
    pytest.importorskip("torchvision")
    (tmp_path / "source").write_bytes(bytes(n_bytes))
    open_address = urllib.request.urlopen
    monkeypatch.setenv("BPFLAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "LARGEST_ARCHIVE", 1_000_000)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: open_address((tmp_path / "source").as_uri()))
    with pytest.raises(OSError, match=message) as caught:
        load_images(name)
    assert "https://" in str(caught.value) and list((tmp_path / "cache").iterdir()) == []
