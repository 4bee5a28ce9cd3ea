"""δE around the models of a task of the PGDL competition: the networks of the paper's own Fig. 7."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bpflat.provenance import Provenance
from figures.measure.networks import N_SAMPLES, SIGMAS, Network, profile_of
from training.published.pgdl import ModelRecord, load_model, read_records
from training.published.tfrecords import read_images
from training.result_file import require_same


@dataclass(frozen=True)
class Architecture:
    """What the models of one task differ in, read off the layers.

    Attributes
    ----------
    blocks : int
        Poolings.
    width : int
        Channels of the last convolution.
    dense : tuple of int
        Units of the dense layers, without the output.
    """

    blocks: int
    width: int
    dense: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Architecture:
        """Read it off a model of `training.published.pgdl.load_model`."""
        kinds = (nn.MaxPool2d, nn.Conv2d, nn.Linear)
        pools, convolutions, dense = ([m for m in model.modules() if isinstance(m, kind)] for kind in kinds)
        width = convolutions[-1].out_channels if convolutions else 0
        return cls(len(pools), width, tuple(layer.out_features for layer in dense[:-1]))

    def __str__(self) -> str:
        return f"{self.blocks} blocks of width {self.width}, dense layers {self.dense}"


FIG7 = Architecture(blocks=3, width=512, dense=(128,))
STOP_LOSS = 0.05


def measure_missing(
    task: Path,
    folder: Path,
    *,
    architecture: Architecture = FIG7,
    subset: int | None = None,
    device: str = "cpu",
    stop_loss: float = STOP_LOSS,
) -> None:
    """Measure the models of `task` of one architecture that `folder` does not hold.

    Parameters
    ----------
    task : Path
        Folder with ``model_configs.json``, the models' folders, and ``dataset_*/train/*.tfrecord``.
    folder : Path
        Place of the results.
    architecture : Architecture
    subset : int, optional
        Training images that each perturbation sees; all by default.
    device : str
    stop_loss : float
        Networks with a larger training loss count as not fitted.

    Raises
    ------
    ValueError
        No such models, hyper-parameters that have other names, results of another setting, damaged files.
    FileNotFoundError, ImportError
        See `training.published.pgdl.load_model` and `training.published.tfrecords.read_images`.
    """
    n_such, images = 0, None
    for record in read_records(task):
        source = task / f"model_{record.name}"
        model = load_model(source)
        if Architecture.of(model) != architecture:
            continue
        n_such += 1
        path = folder / f"pgdl-{record.name}.npz"
        setting = {"task": task.name, "model": record.name, "sigmas": SIGMAS, "n_samples": N_SAMPLES}
        setting |= {"subset": subset, "stop_loss": stop_loss}
        if path.exists():
            require_same(path, {"stop_loss": STOP_LOSS} | json.loads(Network.load(path).setting), setting)
            continue
        images = images or read_images(_only(sorted(task.glob("dataset_*/train")), f"{task}/dataset_*/train"))
        profile = profile_of(model, *images, subset=subset, device=device)
        Network(
            name=path.stem,
            architecture=str(architecture),
            dropout=_hyperparameter(record, "dropout"),
            batch=int(_hyperparameter(record, "batch")),
            weight_decay=_hyperparameter(record, "decay"),
            n_train=len(images[1]),
            train_error=record.train_error,
            test_error=record.test_error,
            fitted=profile["train_loss"] < stop_loss,
            **profile,
            setting=json.dumps(setting),
            provenance=Provenance.here(),
        ).save(path)
    if not n_such:
        raise ValueError(f"{task} has no models of {architecture}")


def _hyperparameter(record: ModelRecord, word: str) -> float:
    """Value of the hyper-parameter whose name holds `word`."""
    values = [value for name, value in record.hyperparameters.items() if word in name]
    return float(_only(values, f"hyper-parameters of model {record.name} with {word!r} in the name"))


def _only(candidates: Sequence, what: str):
    if len(candidates) != 1:
        raise ValueError(f"there must be one of {what}; found {len(candidates)}")
    return candidates[0]
