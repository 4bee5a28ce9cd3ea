"""Arrays of numpy and of torch alike: what the array API leaves open."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_torch_array
from numpy.typing import NDArray

Array = Any  # an array of numpy or a tensor of torch


def on_cpu(array: Array) -> bool:
    """Whether compiled code can read the array."""
    return not is_torch_array(array) or array.device.type == "cpu"


def to_numpy(array: Array) -> NDArray:
    """The array as one of numpy, copied only where it lies on a device."""
    return array.cpu().numpy() if is_torch_array(array) else np.asarray(array)


def like(values: NDArray, array: Array) -> Array:
    """Values of numpy as an array of the other's kind, on its device."""
    return array_namespace(array).asarray(values, device=device(array))
