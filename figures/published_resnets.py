"""Local energy of published CIFAR-10 ResNets of four depths, against their test errors.

``python -m figures.published_resnets --weights FOLDER --data FILE`` measures the weights that akamaster's
pytorch_resnet_cifar10 publishes (FOLDER/resnet20-*.th and so on) on training images without augmentation, checks their
errors on test images, and keeps the profiles; called without options it only draws from those that are stored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from bpflat import LocalEnergyProfile
from bpflat.flatness import local_energy
from figures.draw.style import DEPTH_MAP, Look, add_letters
from figures.program import Output, run_program
from training.deep.augment import normalise
from training.deep.images import load_images
from training.models.cifar_resnet import CifarResNet
from training.published.resnets import load_published

RESULTS = Path(__file__).with_name("results") / "published-resnets"
LOOKS = {
    depth: Look(to_hex(DEPTH_MAP(share)), marker, "-")
    for depth, share, marker in zip((20, 32, 44, 56), (0.2, 0.45, 0.7, 0.95), "os^D", strict=True)
}
PUBLISHED = {20: 8.27, 32: 7.37, 44: 6.90, 56: 6.61}  # test errors (%), from the README beside the weights
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the inputs they were trained on
SIGMAS = (0.02, 0.05, 0.075, 0.1, 0.15, 0.2)


class Measured(NamedTuple):
    """One network: its profile on training images, and its errors on test images (a profile at σ = 0)."""

    train: LocalEnergyProfile
    test: LocalEnergyProfile


def _inputs(images: Tensor) -> Tensor:
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return normalise(images, mean, std)


def measure(arguments: argparse.Namespace) -> Iterator[tuple[int, Measured]]:
    """Compute and store what is not there yet, network by network."""
    data = None
    for depth in LOOKS:
        paths = [arguments.results / f"resnet{depth}-{split}.npz" for split in ("train", "test")]
        if not all(path.exists() for path in paths):
            if arguments.weights is None or arguments.data is None:
                raise ValueError(f"{arguments.results} lacks ResNet-{depth}; give --weights and --data to measure it")
            files = sorted(arguments.weights.glob(f"resnet{depth}-*.th"))
            if not files:
                raise ValueError(f"{arguments.weights} has no resnet{depth}-*.th")
            data = data or load_images("cifar10", arguments.data, n_train=arguments.n_train)
            model = load_published(CifarResNet(depth), files[0])
            options = {"seed": 0, "device": arguments.device, "batch_size": arguments.batch_size, "progress": True}
            test = (_inputs(data.test_images[: arguments.n_test]), data.test_labels[: arguments.n_test])
            local_energy(model, test, [0.0], **options).save(paths[1])
            train = (_inputs(data.train_images), data.train_labels)
            draws = {"n_samples": arguments.n_samples, "subset": min(arguments.subset, arguments.n_train)}
            local_energy(model, train, SIGMAS, **draws, **options).save(paths[0])
        yield depth, Measured(*(LocalEnergyProfile.load(path) for path in paths))


def draw(networks: dict[int, Measured]) -> Figure:
    """The profiles, and δE at σ = 0.1 and 0.15 against the published test error."""
    figure, (profiles, ranking) = plt.subplots(1, 2, figsize=(7.0, 3.0))
    for depth, (train, test) in networks.items():
        color, marker, linestyle = LOOKS[depth]
        label = f"ResNet-{depth} ({train.train_error:.1%} / {test.train_error:.1%})".replace("%", " %")
        sigma = np.concatenate([[0], train.sigma])
        delta, error = (np.concatenate([[0], column]) for column in (train.delta_error, train.std_error))
        profiles.errorbar(
            sigma, delta, 2 * error, color=color, marker=marker, linestyle=linestyle, capsize=2, label=label
        )
        for at, fill in ((0.1, "full"), (0.15, "none")):
            s = np.flatnonzero(np.isclose(train.sigma, at))[0]
            ranking.errorbar(
                PUBLISHED[depth],
                train.delta_error[s],
                2 * train.std_error[s],
                color=color,
                marker=marker,
                fillstyle=fill,
                capsize=2,
                linestyle="none",
            )
    profiles.set(
        xlabel=r"noise amplitude $\sigma$",
        ylabel=r"local energy $\delta E_{\mathrm{train}}$",
        xlim=(0, None),
        ylim=(0, None),
    )
    profiles.legend(loc="upper left", title="train / test error", handlelength=3)
    ranking.plot([], [], "ko", label=r"$\sigma = 0.1$")
    ranking.plot([], [], "ko", fillstyle="none", label=r"$\sigma = 0.15$")
    ranking.legend(loc="best")
    ranking.set(xlabel="published test error (%)", ylabel=r"$\delta E_{\mathrm{train}}$ ($\pm$ 2 s.e.)", ylim=(0, None))
    add_letters((profiles, ranking))
    return figure


def table(networks: dict[int, Measured]) -> Iterator[tuple]:
    """Rows of every plotted number."""
    yield "network", "quantity", "sigma", "value", "std_error", "draws"
    for depth, (train, test) in networks.items():
        yield f"resnet{depth}", "published_test_error", "", f"{PUBLISHED[depth] / 100:.4f}", "", ""
        yield f"resnet{depth}", "test_error", "", f"{test.train_error:.6g}", "", ""
        yield f"resnet{depth}", "train_error", "", f"{train.train_error:.6g}", "", ""
        for quantity, values, errors in (
            ("delta_error", train.delta_error, train.std_error),
            ("delta_loss", train.delta_loss, train.loss_std_error),
        ):
            for row in zip(train.sigma, values, errors, strict=True):
                yield f"resnet{depth}", quantity, *(f"{value:.6g}" for value in row), train.n_samples


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the program."""
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="folder of the published .th files")
    parser.add_argument(
        "--data", type=Path, metavar="FILE_OR_FOLDER", help="CIFAR-10, as training.deep.images reads it"
    )
    parser.add_argument("--n-train", type=int, default=5000, help="training images (default: 5000)")
    parser.add_argument("--n-test", type=int, default=2000, help="test images (default: 2000)")
    parser.add_argument("--n-samples", type=int, default=64, help="draws at each σ (default: 64)")
    parser.add_argument("--subset", type=int, default=100, help="training images that each draw sees (default: 100)")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of profiles and pictures")


def make(arguments: argparse.Namespace) -> Output:
    """Measure what is missing, and draw."""
    networks = dict(measure(arguments))
    return Output(arguments.results, table(networks), draw(networks))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_program("published_resnets", __doc__, add_options, make, argv)


if __name__ == "__main__":
    sys.exit(main())
