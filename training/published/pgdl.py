"""Networks of the competition "Predicting Generalization in Deep Learning" (NeurIPS 2020), read into torch.

A task's folder holds ``model_configs.json`` (hyper-parameters and final accuracies of all its models) and a folder a
model with ``config.json`` (a list of Keras layers and the shape of an input) and ``weights.hdf5`` (as Keras saves it).
The data: https://github.com/google-research/google-research/tree/master/pgdl.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from bpflat.arguments import check_file_name, check_scalar
from bpflat.reading import check_growth, open_regular, read_json, reason

_LARGEST_WINDOW = 64  # pixels of a kernel, a pooling or a stride
_IGNORED = {"name", "dtype", "trainable", "input_shape", "batch_input_shape"}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
}


@dataclass(frozen=True)
class ModelRecord:
    """One model of a task.

    Attributes
    ----------
    name : str
        NAME of its folder, ``model_NAME``.
    hyperparameters : dict
        Value of each.
    train_error, test_error : float
        Fractions, as the organisers measured them.
    """

    name: str
    hyperparameters: dict
    train_error: float
    test_error: float


def read_records(task: Path) -> list[ModelRecord]:
    """Read ``model_configs.json`` of a task's folder.

    Raises
    ------
    FileNotFoundError
        It is not there.
    ValueError
        It lacks what a record needs.
    """
    path = Path(task) / "model_configs.json"
    configs = read_json(path)
    try:
        return [
            ModelRecord(
                name=check_file_name("its name", name),
                hyperparameters={key: value["current_value"] for key, value in config["hparams"].items()},
                train_error=1 - check_scalar("train_acc", config["metrics"]["train_acc"], at_most=1),
                test_error=1 - check_scalar("test_acc", config["metrics"]["test_acc"], at_most=1),
            )
            for name, config in configs.items()
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: a model lacks {error}; it must hold hparams and metrics of every model") from error
    except ValueError as error:
        raise ValueError(f"{path}: of a model, {error}") from error


def load_model(folder: Path) -> nn.Sequential:
    """Build the network of a model's folder in torch, with its trained weights, in evaluation mode.

    Parameters
    ----------
    folder : Path
        Folder that holds ``config.json`` and ``weights.hdf5``.

    Returns
    -------
    Sequential
        One entry a Keras layer (and one an activation inside of a layer).  Inputs are (batch, channels, height,
        width), as torch has them, or (batch, features); outputs are those of Keras.

    Raises
    ------
    FileNotFoundError
    ImportError
        h5py is not installed.
    ValueError
        A layer, an option or an activation that is not supported, or weights that do not fit: each named.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    try:
        layers, shape = list(config["model_config"]), tuple(int(n) for n in config["input_shape"])
    except Exception as error:  # what was made up shows as nearly anything
        raise ValueError(
            f"{folder / 'config.json'} must hold model_config and input_shape; it lacks {reason(error)}"
        ) from error
    weights = _read_weights(folder / "weights.hdf5")
    modules: list[nn.Module] = []
    for position, options in enumerate(layers):
        try:
            modules += _layer(options, weights)
        except Exception as error:
            raise ValueError(f"{folder}: layer {position} cannot be built: {reason(error)}") from error
    if weights:
        raise ValueError(f"{folder / 'weights.hdf5'} holds {len(weights)} arrays more than the layers need")
    network = nn.Sequential(*modules).eval()
    try:
        with torch.no_grad():
            _without_memory(network, shape)
    except Exception as error:
        raise ValueError(
            f"{folder}: the layers do not fit one another or inputs of shape {shape}: {reason(error)}"
        ) from error
    return network


def _layer(options: dict, weights: list[NDArray[np.float32]]) -> list[nn.Module]:
    """Modules of one Keras layer, which takes its own arrays from the first of `weights`; raises nearly anything."""
    kind, options = options["layer_name"], {k: v for k, v in options.items() if k not in {"layer_name", *_IGNORED}}
    if kind not in _LAYERS:
        raise ValueError(f"a {kind}, which is not supported; those are: {', '.join(_LAYERS)}")
    if options.pop("data_format", None) not in (None, "channels_last"):
        raise ValueError(f"{kind} must have the data_format channels_last; another is not supported")
    activation = options.pop("activation", "linear") if kind != "Activation" else None
    if activation not in (None, *_ACTIVATIONS):
        raise ValueError(f"{kind} has the activation {activation!r}; known: {', '.join(_ACTIVATIONS)}")
    build, n_weights = _LAYERS[kind]
    own = weights[:n_weights] if options.get("use_bias", True) or not n_weights else weights[: n_weights - 1]
    del weights[: len(own)]
    module = build(own, **_without_regularizers(options))
    return [module] if activation in (None, "linear") else [module, _ACTIVATIONS[activation]()]


def _without_memory(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Send an input of this shape, (height, width, channels) or (features,), through; no array of it is made."""
    example = torch.zeros(1, *(shape if len(shape) == 1 else (shape[2], *shape[:2])), device="meta")
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    torch.func.functional_call(network, {name: tensor.to("meta") for name, tensor in tensors.items()}, (example,))


class SamePadding(nn.Module):
    """Pad images so that ⌈n/stride⌉ outputs result, an odd surplus at the end, as Keras does and torch does not.

    Parameters
    ----------
    kernel, stride : (int, int)
    value : float
        Value of the border.
    """

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int], value: float = 0.0):
        super().__init__()
        self.kernel, self.stride, self.value = kernel, stride, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad (batch, channels, height, width)."""
        borders = []
        for n, k, s in zip(x.shape[:1:-1], self.kernel[::-1], self.stride[::-1], strict=True):
            surplus = max((-(-n // s) - 1) * s + k - n, 0)
            borders += [surplus // 2, surplus - surplus // 2]
        return F.pad(x, borders, value=self.value)


class ChannelsLastFlatten(nn.Module):
    """Flatten images pixel by pixel, the channels of a pixel together: the order of Keras's dense weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) → (batch, features)."""
        return x.movedim(1, -1).flatten(1)


def _padded(padding: str, kernel, stride, value: float, layer: nn.Module) -> nn.Module:
    if padding == "same":
        return nn.Sequential(SamePadding(kernel, stride, value), layer)
    if padding != "valid":
        raise ValueError(f"padding {padding!r} is unknown")
    return layer


def _convolution(weights, *, filters, kernel_size, strides=1, padding="valid", use_bias=True):
    kernel = torch.from_numpy(weights[0]).permute(3, 2, 0, 1)  # (height, width, in, out) in Keras
    size, stride = _pair(kernel_size), _pair(strides)
    _require(int(filters) == kernel.shape[0], f"the weights have the shape {weights[0].shape}, not {filters} filters")
    layer = nn.Conv2d(kernel.shape[1], int(filters), size, stride, bias=use_bias)
    _assign(layer, [kernel, *map(torch.from_numpy, weights[1:])])
    return _padded(padding, size, stride, 0.0, layer)


def _dense(weights, *, units, use_bias=True):
    _require(weights[0].shape[1:] == (int(units),), f"the weights have the shape {weights[0].shape}, not {units} units")
    layer = nn.Linear(len(weights[0]), int(units), bias=use_bias)
    _assign(layer, [torch.from_numpy(weights[0]).T, *map(torch.from_numpy, weights[1:])])
    return layer


def _batch_norm(weights, *, epsilon=1e-3, momentum=0.99, axis=-1):
    if axis not in (-1, [-1], [3]):
        raise ValueError(f"axis must be that of the channels, the last; got {axis}")
    layer = nn.BatchNorm2d(len(weights[0]), eps=epsilon, momentum=1 - momentum)
    gamma, beta, mean, variance = map(torch.from_numpy, weights)
    _assign(layer, [gamma, beta])
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    return layer


def _max_pooling(weights, *, pool_size=2, strides=None, padding="valid"):
    size = _pair(pool_size)
    stride = size if strides is None else _pair(strides)
    return _padded(padding, size, stride, -torch.inf, nn.MaxPool2d(size, stride))


def _average_pooling(weights, *, pool_size=2, strides=None, padding="valid"):
    if padding != "valid":
        raise ValueError("average pooling over borders is not supported")
    return nn.AvgPool2d(_pair(pool_size), None if strides is None else _pair(strides))


def _dropout(weights, *, rate, noise_shape=None, seed=None):
    return nn.Dropout(rate)


def _global_average(weights):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _global_max(weights):
    return nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())


# What builds each layer, and how many arrays it takes, a bias among them.
_LAYERS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "Conv2D": (_convolution, 2),
    "Dense": (_dense, 2),
    "BatchNormalization": (_batch_norm, 4),
    "MaxPooling2D": (_max_pooling, 0),
    "MaxPool2D": (_max_pooling, 0),
    "AveragePooling2D": (_average_pooling, 0),
    "GlobalAveragePooling2D": (_global_average, 0),
    "GlobalMaxPooling2D": (_global_max, 0),
    "Dropout": (_dropout, 0),
    "Flatten": (lambda weights: ChannelsLastFlatten(), 0),
    "Activation": (lambda weights, *, activation: _ACTIVATIONS[activation](), 0),
    "ReLU": (lambda weights: nn.ReLU(), 0),
}


@torch.no_grad()
def _assign(layer: nn.Module, values: list[torch.Tensor]) -> None:
    for parameter, value in zip(layer.parameters(), values, strict=True):
        if parameter.shape != value.shape:
            raise ValueError(f"the weights have the shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
        parameter.copy_(value)


def _pair(value) -> tuple[int, int]:
    """Keras's numbers, which JSON may have made floats."""
    pair = (value, value) if isinstance(value, (int, float)) else tuple(value)
    _require(len(pair) == 2 and all(1 <= n <= _LARGEST_WINDOW for n in pair), f"windows and strides of {value} pixels")
    return int(pair[0]), int(pair[1])


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _without_regularizers(options: dict) -> dict:
    """Leave out what only training uses."""
    return {k: v for k, v in options.items() if not k.endswith(("_regularizer", "_initializer", "_constraint"))}


def _read_weights(path: Path) -> list[NDArray[np.float32]]:
    """All arrays of a Keras weights file, in the order of the layers."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("reading Keras weights needs h5py: pip install 'bpflat[deep]'") from error
    with open_regular(path) as content:
        try:
            size = content.seek(0, os.SEEK_END)
            with h5py.File(content, "r") as file:
                root = _inside(file, "model_weights") if "model_weights" in file else file
                groups = [_inside(root, name) for name in root.attrs["layer_names"]]
                members = [_inside(group, name) for group in groups for name in group.attrs["weight_names"]]
                check_growth(size, sum(map(_memory, members)), growth=4)
                arrays = [_own_numbers(member) for member in members]
        except Exception as error:  # damage shows as KeyError, OSError, RuntimeError, nearly anything
            raise ValueError(f"{path} is not a weights file of Keras: {reason(error)}") from error
    return arrays


def _inside(group, name: str | bytes):
    """A member of an HDF5 group that lies in the same file, reached without links to elsewhere."""
    import h5py

    for part in (name.decode() if isinstance(name, bytes) else str(name)).strip("/").split("/"):
        _require(isinstance(group.get(part, getlink=True), h5py.HardLink), f"{part} is not there, or links elsewhere")
        group = group[part]
    return group


def _memory(dataset) -> int:
    """Bytes that reading an HDF5 dataset takes: of its numbers, and of a piece that is unpacked on the way."""
    return (math.prod(dataset.shape) + math.prod(dataset.chunks or (0,))) * max(4, dataset.dtype.itemsize)


def _own_numbers(dataset) -> NDArray[np.float32]:
    """Numbers of an HDF5 dataset that are stored in the file itself, and are finite."""
    _require(not (dataset.external or dataset.is_virtual), f"the numbers of {dataset.name} lie in another file")
    if not dataset.fletcher32:
        warnings.warn("weights without HDF5's checksums (fletcher32): damage in them may go unseen", stacklevel=4)
    array = np.array(dataset, dtype=np.float32)
    _require(bool(np.isfinite(array).all()), f"{dataset.name} holds numbers that are not finite")
    return array
