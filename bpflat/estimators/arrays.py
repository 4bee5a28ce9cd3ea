"""Arrays of numpy and of torch alike: what the array API leaves open."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array
from numpy.typing import NDArray

Array = Any  # an array of numpy or a tensor of torch


_NAMESPACES: dict[type, ModuleType] = {}


def namespace(array: Array) -> ModuleType:
    """The functions of the array API for the array, found once per type: many calls are short."""
    kind = type(array)
    if kind not in _NAMESPACES:
        _NAMESPACES[kind] = array_namespace(array)
    return _NAMESPACES[kind]


def on_cpu(array: Array) -> bool:
    """Whether compiled code can read the array."""
    return isinstance(array, np.ndarray) or device(array).type == "cpu"


def to_numpy(array: Array) -> NDArray:
    """The array as one of numpy, copied only where it lies on a device."""
    return array.cpu().numpy() if is_torch_array(array) else np.asarray(array)


def like(values: NDArray, array: Array) -> Array:
    """Values of numpy as an array of the other's kind, on its device."""
    return values if isinstance(array, np.ndarray) else namespace(array).asarray(values, device=device(array))
