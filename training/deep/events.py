"""The curves of a run as TensorBoard's event files: ``tensorboard --logdir FOLDER`` draws them while it trains."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from training.deep.results import EpochMetrics

TAGS = {
    "error/train": "train_error",
    "error/test": "test_error",
    "loss/train": "train_loss",
    "loss/test": "test_loss",
    "schedule/learning rate": "eta",
    "schedule/gamma": "gamma",
    "replicas/distance": "distance",
    "speed/images per second": "images_per_second",
}


@contextlib.contextmanager
def event_writer(folder: Path, epochs_done: int) -> Iterator[Callable[[EpochMetrics], None]]:
    """Give the block a function that adds the metrics of an epoch, step = epoch, to event files in `folder`.

    What an earlier run left there of epochs after `epochs_done` is void: no step is there twice.  Metrics that are
    NaN (not evaluated, or without meaning for the algorithm) are left out.

    Raises
    ------
    ImportError
        The package tensorboard is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"event files need tensorboard, which cannot be imported ({error}); pip install bpflat[deep]"
        ) from error

    def add(metrics: EpochMetrics) -> None:
        for tag, name in TAGS.items():
            if not math.isnan(value := getattr(metrics, name)):
                writer.add_scalar(tag, value, metrics.epoch)
        writer.flush()

    with SummaryWriter(str(folder), purge_step=epochs_done + 1) as writer:
        yield add
