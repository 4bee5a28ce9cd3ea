"""Image data sets, whole in memory: CIFAR-10, CIFAR-100, Tiny ImageNet and the full Fashion-MNIST.

They come from a file or a folder that is given, without a network, or are downloaded once into a cache folder. What
publishes a checksum is checked against it; nothing in a given folder is ever written.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpflat.arguments import check_file_name
from bpflat.reading import digest, open_regular, read_image, reason
from bpflat.storage import atomic_write, load_npz, read_npz, save_npz

KIND = "images"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
TINY_IMAGENET = "tiny-imagenet-200"
TINY_IMAGENET_URL = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"
LARGEST_ARCHIVE = 300_000_000  # bytes; Tiny ImageNet has 248 million, CIFAR 170
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"  # as public loaders of this data set pin it


@dataclasses.dataclass(frozen=True)
class Source:
    """What a data set looks like: classes, images of `size` × `size` pixels with `channels` colours.

    `n_train` are the training images as published, class after class if `is_sorted`; files that are given may have
    fewer.
    """

    classes: int
    size: int
    n_train: int
    channels: int = 3
    is_sorted: bool = False


SOURCES = {
    "cifar10": Source(10, 32, 50_000),
    "cifar100": Source(100, 32, 50_000),
    "tiny-imagenet": Source(200, 64, 100_000, is_sorted=True),
    "fashion-mnist": Source(10, 28, 60_000, channels=1),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """A data set on a device.

    Attributes
    ----------
    name : str
    classes : int
    train_images, test_images : Tensor of uint8, shape (P, C, H, W)
        0 to 255.  The test images of Tiny ImageNet are its validation set: the labels of its test set are not public.
    train_labels, test_labels : Tensor of int64, shape (P,)
    mean, std : Tensor of float32, shape (C, 1, 1)
        Statistics over the training images, channel by channel, in units of 0 to 255.
    """

    name: str
    classes: int
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor


def cache_folder() -> Path:
    """Where downloads are kept: $BPFLAT_CACHE, else ~/.cache/bpflat (under $XDG_CACHE_HOME, if set)."""
    chosen = os.environ.get("BPFLAT_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bpflat"


def load_images(
    name: str,
    path: str | os.PathLike | None = None,
    *,
    n_train: int | None = None,
    draw_seed: int = 0,
    device: torch.device | str = "cpu",
) -> Images:
    """Load a data set.

    Parameters
    ----------
    name : {"cifar10", "cifar100", "tiny-imagenet", "fashion-mnist"}
    path : path-like, optional
        An ``.npz`` file with train_images and test_images, uint8 of shape (P, H, W, C), or (P, H, W) if grey, and
        train_labels and test_labels, integers from 0.  Or a folder that holds the published files: for CIFAR the
        unpacked cifar-10-batches-py or cifar-100-python, for Tiny ImageNet tiny-imagenet-200.zip or what it unpacks
        to, for Fashion-MNIST the four .gz files.  By default the data are downloaded into `cache_folder`, once.
    n_train : int, optional
        Draw so many training images; all by default, in the order in which they are published.  Tiny ImageNet's, which
        are published class after class, come in the order of the draw even so: the first of them are of all classes.
    draw_seed : int
        Seed of that draw; a smaller draw is the beginning of a larger one.
    device : torch.device or str

    Raises
    ------
    ValueError
        When a file is truncated or not the published one, or the images or labels are not of this data set.
    OSError
        When there is no such file or folder, or no network to download from.
    ImportError
        When this needs torchvision and that is not installed.
    """
    if name not in SOURCES:
        raise ValueError(f"data must be one of {', '.join(SOURCES)}; got {name!r}")
    if path is None:
        arrays, origin = _cached(name), f"{name} of {cache_folder()}"
    elif not Path(path).exists():
        raise FileNotFoundError(f"no file or folder {path}; leave the path out to download {name}")
    elif Path(path).is_dir():
        arrays, origin = _read_folder(name, Path(path)), str(path)
    else:
        arrays, origin = read_npz(path), str(path)
    check_arrays(arrays, SOURCES[name], origin)
    images, labels = arrays["train_images"], arrays["train_labels"]
    if n_train is not None and not 1 <= n_train <= len(images):
        raise ValueError(f"n_train must be from 1 to {len(images)}, the training images of {origin}; got {n_train}")
    if n_train is not None or SOURCES[name].is_sorted:
        drawn = np.random.default_rng(draw_seed).permutation(len(images))[:n_train]
        images, labels = images[drawn], labels[drawn]
    train_images = _channels_first(images, device)
    mean, std = channel_statistics(train_images)
    return Images(
        name=name,
        classes=SOURCES[name].classes,
        train_images=train_images,
        train_labels=torch.as_tensor(labels.astype(np.int64), device=device),
        test_images=_channels_first(arrays["test_images"], device),
        test_labels=torch.as_tensor(arrays["test_labels"].astype(np.int64), device=device),
        mean=mean,
        std=std,
    )


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over all pixels of uint8 images (P, C, H, W), each float32 (C, 1, 1), exactly summed.

    Raises
    ------
    ValueError
        When a channel is constant, so that it cannot be normalised.
    """
    values = torch.arange(256, dtype=torch.float64, device=images.device)
    counts = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])])
    weights = counts.double() / counts[0].sum()
    mean = weights @ values
    std = ((values - mean[:, None]).square() * weights).sum(1).sqrt()
    if (std == 0).any():
        raise ValueError("a channel is the same in all training images; it cannot be normalised. Are these the images?")
    return mean.float()[:, None, None], std.float()[:, None, None]


def check_arrays(arrays: dict[str, NDArray], source: Source, origin: str) -> None:
    """Raise a ValueError that names `origin` unless the four arrays are a data set as `source` says."""
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"{origin} lacks the arrays {', '.join(missing)}")
    colours = ((source.channels,),) if source.channels > 1 else ((), (1,))
    shapes = [(source.size, source.size, *colour) for colour in colours]
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.shape[1:] not in shapes or not len(images):
            raise ValueError(
                f"{split}_images of {origin} must be uint8 of shape (P, {', '.join(map(str, shapes[0]))}), "
                f"not {images.dtype} of shape {images.shape}; is it another data set?"
            )
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{split}_labels of {origin} must be {len(images)} integers, one for each image")
        if labels.min() < 0 or labels.max() >= source.classes:
            raise ValueError(
                f"{split}_labels of {origin} must be from 0 to {source.classes - 1}; "
                f"found {labels.min()} to {labels.max()}. Is it another data set?"
            )


def _channels_first(images: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """(P, H, W, C) or (P, H, W) to a contiguous tensor (P, C, H, W)."""
    images = images if images.ndim == 4 else images[..., None]
    return torch.as_tensor(images, device=device).permute(0, 3, 1, 2).contiguous()


def _cached(name: str) -> dict[str, NDArray]:
    """Arrays of the cache folder, downloaded if they are not there yet."""
    folder = cache_folder()
    if name.startswith("cifar"):
        return _cifar(name, folder, download=True)
    unpacked = folder / f"{name}.npz"
    if unpacked.exists():
        return load_npz(unpacked, KIND, ARRAYS)
    if name == "fashion-mnist":
        from data.builder.reduced_fashion_mnist import download

        arrays = _fashion_mnist(download())
    else:
        _torchvision_datasets()
        _download(TINY_IMAGENET_URL, folder / f"{TINY_IMAGENET}.zip", TINY_IMAGENET_MD5)
        arrays = _tiny_imagenet(folder)
    save_npz(unpacked, KIND, **arrays)
    return arrays


def _read_folder(name: str, folder: Path) -> dict[str, NDArray]:
    """Arrays of the published files in a folder that is given."""
    if name.startswith("cifar"):
        return _cifar(name, folder, download=False)
    if name == "tiny-imagenet":
        return _tiny_imagenet(folder)
    from data.builder.reduced_fashion_mnist import read_folder

    return _fashion_mnist(read_folder(folder))


def _torchvision_datasets():
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError(
            f"reading the published files needs torchvision, which cannot be imported ({error}); "
            "pip install bpflat[deep], or give an .npz file"
        ) from error
    return datasets


def _cifar(name: str, folder: Path, *, download: bool) -> dict[str, NDArray]:
    datasets = _torchvision_datasets()
    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    if download and not (folder / cls.base_folder).exists():
        _download(cls.url, folder / cls.filename, cls.tgz_md5)
    arrays = {}
    for split in ("train", "test"):
        try:  # torchvision checks MD5 sums, and tells all that can be wrong with a RuntimeError
            dataset = cls(str(folder), train=split == "train", download=download and (folder / cls.filename).exists())
        except (RuntimeError, tarfile.TarError) as error:
            raise ValueError(
                f"{folder} does not hold the published {cls.base_folder}, whole ({reason(error)}); unpack "
                f"{cls.filename} there again, or leave the path out to download it"
            ) from error
        except OSError as error:
            raise OSError(f"cannot get {cls.url} ({error}); get the file elsewhere and give its folder") from error
        arrays |= {f"{split}_images": dataset.data, f"{split}_labels": np.array(dataset.targets)}
    return arrays


def _download(address: str, path: Path, md5: str) -> None:
    """Fetch a published archive to `path` if it is not there, whole; nothing is kept that is not the published one.

    Raises
    ------
    OSError
        When it cannot be had.
    """
    if path.is_file() and _md5(path) == md5:
        return
    from data.builder.reduced_fashion_mnist import fetch

    with atomic_write(path) as file:
        fetch(address, file, LARGEST_ARCHIVE)
        if digest(file, algorithm="md5") != md5:
            raise OSError(f"what {address} gives is not the published file (its MD5 differs); get that elsewhere")


def _md5(path: Path) -> str:
    with open_regular(path) as file:
        return digest(file, algorithm="md5")


def _fashion_mnist(originals: dict[str, NDArray]) -> dict[str, NDArray]:
    """The four original files by the names that we use."""
    files = {"train": "train", "test": "t10k"}
    return {
        f"{split}_{what}": originals[f"{prefix}-{what}-idx{3 if what == 'images' else 1}-ubyte.gz"]
        for split, prefix in files.items()
        for what in ("images", "labels")
    }


def _tiny_imagenet(folder: Path) -> dict[str, NDArray]:
    """Decode all images of the archive or the unpacked folder `tiny-imagenet-200` in `folder`."""
    if folder.name == TINY_IMAGENET and (folder / "wnids.txt").exists():
        return _decode_tiny_imagenet(folder)
    if (folder / TINY_IMAGENET / "wnids.txt").exists():
        return _decode_tiny_imagenet(folder / TINY_IMAGENET)
    archive = folder / f"{TINY_IMAGENET}.zip"
    if not archive.exists():
        raise FileNotFoundError(f"{folder} holds neither {TINY_IMAGENET}.zip nor the folder {TINY_IMAGENET}")
    _torchvision_datasets()  # or an ImportError: its PIL decodes
    if _md5(archive) != TINY_IMAGENET_MD5:
        raise ValueError(f"{archive} is truncated or not the published one (its MD5 differs); fetch it again")
    with zipfile.ZipFile(archive) as file:
        return _decode_tiny_imagenet(zipfile.Path(file, f"{TINY_IMAGENET}/"))


def _decode_tiny_imagenet(root: Path | zipfile.Path) -> dict[str, NDArray]:
    """Train and validation images, classes numbered in the order of wnids.txt."""
    try:
        names = root.joinpath("wnids.txt").read_text().split()
        classes = {check_file_name("a class", name): k for k, name in enumerate(names)}
        rows = [line.split("\t") for line in root.joinpath("val", "val_annotations.txt").read_text().splitlines()]
        labels_of = {check_file_name("an image", row[0]): classes[row[1]] for row in rows}
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError(f"{root} does not tell the classes of Tiny ImageNet ({reason(error)})") from error
    validation = root.joinpath("val", "images")
    splits = {
        "train": ((f, k) for name, k in classes.items() for f in _sorted(root.joinpath("train", name, "images"))),
        "test": ((validation.joinpath(name), label) for name, label in labels_of.items()),
    }
    arrays = {}
    for split, members in splits.items():
        images, labels = [], []
        for file, label in members:
            images.append(_decode(file))
            labels.append(label)
            if len(images) % 5000 == 0:
                print(f"\r{split}: {len(images):,} images decoded", end="", file=sys.stderr, flush=True)
        arrays |= {f"{split}_images": np.array(images), f"{split}_labels": np.array(labels)}
        print(f"\r{split}: {len(images):,} images decoded", file=sys.stderr)
    return arrays


def _sorted(folder: Path | zipfile.Path) -> Iterator[Path | zipfile.Path]:
    return iter(sorted(folder.iterdir(), key=lambda file: file.name))


def _decode(file: Path | zipfile.Path) -> NDArray[np.uint8]:
    try:
        return np.asarray(read_image(file.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{file} is {error}; unpack the archive again") from error
