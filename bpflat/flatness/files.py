"""Models and data named on a command line: MODULE:FACTORY, files of weights, files and folders of patterns."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bpflat.flatness.models import unwrap
from bpflat.reading import open_regular, read_image, reason
from bpflat.storage import read_npz
from bpflat.tensor_files import load_tensors

_TORCH_SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".tar")
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_WEIGHTS_KEYS = ("state_dict", "model_state_dict", "model")


def search_too(folder: Path) -> None:
    """Let `find` search a folder where no module of that name is installed: a matplotlib.py there hides nothing."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of modules")
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))


def find(name: str) -> Any:
    """Return the object that MODULE:ATTRIBUTE names, of an installed module or one that `search_too` adds.

    Raises
    ------
    ValueError
        When there is no such object; the message names the file of the module, if there is one.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute or module.startswith("."):
        raise ValueError(f"{name!r} must be MODULE:NAME, as in torchvision.models:resnet18")
    where = "no such module is installed; --path FOLDER adds a folder to search"
    try:
        named: Any = importlib.import_module(module)
        where = f"the module is {getattr(named, '__file__', 'built in')}"
        for part in attribute.split("."):
            named = getattr(named, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} cannot be found ({error}); {where}") from error
    return named


def make_model(factory: str, weights: Path | None, options: dict[str, Any]) -> nn.Module:
    """Call MODULE:FACTORY with keyword `options` and load a file of weights into what it gives.

    Raises
    ------
    ValueError
        When there is no such factory, it fails or gives no module, or the weights are not those of the model.
    OSError
        When the file cannot be read.
    """
    maker = find(factory)
    try:
        model = maker if isinstance(maker, nn.Module) else maker(**options)
    except TypeError as error:
        raise ValueError(f"{factory} cannot be called with {options} ({error})") from error
    model = unwrap(model)
    if weights is not None:
        state = _state(weights)
        wanted = model.state_dict()
        missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
        if missing or unknown:
            raise ValueError(
                f"{weights} does not hold the weights of {factory}: "
                f"missing {missing[:3]} ({len(missing)}), unknown {unknown[:3]} ({len(unknown)})"
            )
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{weights} does not hold the weights of {factory}: {error}") from error
    return model


def _state(path: Path) -> dict[str, Tensor]:
    """The state_dict in a file, perhaps inside a checkpoint, without the prefixes that wrappers leave."""
    state: Any = load_tensors(path)
    for key in _WEIGHTS_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    entries = state.items() if isinstance(state, dict) else ()
    if not entries or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in entries):
        raise ValueError(f"{path} holds no state_dict; save one by torch.save(model.state_dict(), path)")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


class Files(Iterable):
    """Batches, one per file, which `read` reads anew at every pass."""

    def __init__(self, paths: list[Path], read: Callable[[Path], object]):
        self.paths, self.read = paths, read

    def __iter__(self) -> Iterator[object]:
        return map(self.read, self.paths)


def _read_any(path: Path) -> object:
    """What a file holds: a dict of arrays (``.npz``), or what torch.save was given."""
    return read_npz(path) if path.suffix == ".npz" else load_tensors(path)


def _read_pair(path: Path) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a file; uint8 inputs become float32 in [0, 1]."""
    content = _read_any(path)
    if isinstance(content, dict):
        if not {"inputs", "targets"} <= content.keys():
            raise ValueError(
                f"{path} lacks `inputs` and `targets`; it has {', '.join(map(str, content)) or 'nothing'} "
                "(for batches of another form give --forward and --loss)"
            )
        content = content["inputs"], content["targets"]
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise ValueError(f"{path} must hold inputs and targets")
    try:
        inputs, targets = (torch.as_tensor(part) for part in content)
    except Exception as error:  # text and objects, as torch pleases
        raise ValueError(f"{path} must hold inputs and targets that are numbers ({reason(error)})") from error
    return (inputs / 255 if inputs.dtype == torch.uint8 else inputs), targets


def read_data(
    path: Path, transform: str | None = None, batch_size: int | None = None, *, as_stored: bool = False
) -> object:
    """Patterns of a file (``.npz`` or torch's), of a folder of such files, or of a folder of images.

    Parameters
    ----------
    path : Path
        Files hold `inputs` (N, ...) and `targets` (N,); a folder of images has a folder for each class.
    transform : str, optional
        MODULE:NAME of what makes a tensor of a PIL image; by default one in [0, 1].
    batch_size : int, optional
        Number of images that are read at once.
    as_stored : bool
        A file is a batch, whatever it holds.

    Raises
    ------
    ValueError
        When there are no patterns, or images without torchvision.
    OSError
        When a file cannot be read.
    """
    read = _read_any if as_stored else _read_pair
    if not path.is_dir():
        return read(path)
    files = sorted(p for p in path.iterdir() if p.suffix in (".npz", *_TORCH_SUFFIXES))
    if files:
        return Files(files, read)
    if not any(p.is_dir() for p in path.iterdir()):
        raise ValueError(f"{path} holds neither files (.npz, .pt) with inputs and targets nor folders of images")
    return _images(path, transform, batch_size)


def _images(path: Path, transform: str | None, batch_size: int | None) -> Iterable:
    try:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms.functional import to_tensor
    except ImportError as error:
        raise ValueError(
            f"folders of images need torchvision, which cannot be imported ({error}); pip install torchvision"
        ) from error
    convert: Callable = to_tensor if transform is None else find(transform)
    try:
        images = ImageFolder(str(path), convert, loader=_read_image)
    except FileNotFoundError as error:
        raise ValueError(f"{path} has no images by class ({error})") from error
    return torch.utils.data.DataLoader(images, batch_size=batch_size or 256)


def _read_image(path: str) -> Any:
    with open_regular(path) as file:
        try:
            return read_image(file.read())
        except ValueError as error:
            raise ValueError(f"{path} is {error}") from error
