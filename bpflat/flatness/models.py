"""Models as they are given: unwrapped, checked, copied to the device, told apart by their numbers.

Working on a copy keeps the user's model untouched whatever happens, a Ctrl-C or a killed process included, and costs
no memory: the weights without noise must be kept somewhere anyway, and the user's model does that.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from bpflat.arguments import shown

Choice = str | Iterable[str] | Callable[[str], bool] | None
_Place = tuple[Any, ...]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile's and the parallel wrappers, or raise a ValueError."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def choose(model: nn.Module, parameters: Choice) -> dict[str, nn.Parameter]:
    """Parameters to perturb, by name, shared ones once under their first name.

    Parameters
    ----------
    model : Module
    parameters : None, "weights", iterable of str, or callable
        Choice, as `bpflat.flatness.local_energy` takes it.

    Raises
    ------
    ValueError
        When some part of the model cannot be perturbed or is not finite, nothing is chosen, a name is unknown, or a
        chosen parameter is not of real numbers.
    """
    _check_parameters(model)
    every = dict(model.named_parameters(remove_duplicate=False))
    trainable = {name: p for name, p in every.items() if p.requires_grad}
    if parameters is None:
        chosen = trainable
    elif isinstance(parameters, str):
        if parameters != "weights":
            raise ValueError(f"parameters must be None, 'weights', names or a predicate, not {parameters!r}")
        chosen = {name: p for name, p in trainable.items() if p.ndim >= 2}
    elif callable(parameters) and not isinstance(parameters, type):
        chosen = {name: p for name, p in trainable.items() if parameters(name)}
    else:
        names = list(parameters) if isinstance(parameters, Iterable) else [parameters]
        unknown = [name for name in names if not isinstance(name, str) or name not in every]
        if unknown:
            raise ValueError(f"the model has no parameters {shown(unknown)}; it has {', '.join(every) or 'none'}")
        chosen = {name: every[name] for name in every if name in set(names)}  # the model's order, not the list's
    once: dict[_Place, str] = {}
    for name, p in chosen.items():
        once.setdefault(_place(p), name)
    chosen = {name: chosen[name] for name in once.values() if chosen[name].numel()}
    if not trainable and parameters is None:
        raise ValueError("the model has no trainable parameters; set requires_grad, or name those to perturb")
    if not chosen:
        raise ValueError(f"parameters={parameters!r} chooses none of {', '.join(trainable)}")
    for name, p in chosen.items():
        if not p.is_floating_point():
            raise ValueError(f"parameter {name} is of {p.dtype}; only real floating-point ones can be perturbed")
    return chosen


def _check_parameters(model: nn.Module) -> None:
    """Raise a ValueError that names the first part that cannot be perturbed, or is not finite."""
    for name, module in model.named_modules():
        what = f"module {name}" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{what} is of torch.jit: noise would not reach its weights; pass the Python module instead"
            )
        if type(module).__name__ == "FullyShardedDataParallel":
            raise ValueError(f"{what} is sharded; gather the weights (torch.distributed.checkpoint) into a plain model")
    for name, parameter in model.named_parameters():
        if is_traceable_wrapper_subclass(parameter):
            kind = type(parameter.data).__name__
            raise ValueError(f"parameter {name} is a {kind}; gather it into a plain tensor (DTensor: full_tensor())")
        if parameter.is_meta or nn.parameter.is_lazy(parameter):
            raise ValueError(f"parameter {name} has no values yet; load them, or run a batch through a lazy model")
        if not torch.isfinite(parameter).all():
            raise ValueError(f"parameter {name} has NaN or infinite entries; was the training stable?")


def _place(tensor: Tensor) -> _Place:
    """Place of the numbers: equal for tensors that share them, be they one object or tied by their storage."""
    if not tensor.numel():
        return (id(tensor),)
    storage = tensor.untyped_storage().data_ptr()
    return storage, tensor.device, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def copy_to(
    model: nn.Module, device: torch.device, chosen: Mapping[str, nn.Parameter]
) -> tuple[nn.Module, list[Tensor]]:
    """Copy a model onto a device without touching it.

    Parameters
    ----------
    model : Module
    device : torch.device
    chosen : mapping
        Some of its parameters, by name.

    Returns
    -------
    copy : Module
        Copy in eval mode, without gradients; what was shared is shared.
    parameters : list of Parameter
        The copies of those that are chosen.

    Raises
    ------
    ValueError
        When some part of the model cannot be copied, or copies itself in a way of its own.
    """
    attributes = (value for module in model.modules() for value in vars(module).values())
    computed = (value for value in attributes if isinstance(value, Tensor) and value.grad_fn is not None)
    places: dict[tuple[bool, _Place], Tensor] = {}
    tensors: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers(), *computed):
        at = isinstance(tensor, nn.Parameter), _place(tensor)
        if at not in places:
            values = tensor.detach().to(device, copy=True)
            is_parameter = isinstance(tensor, nn.Parameter)
            places[at] = nn.Parameter(values, requires_grad=False) if is_parameter else values
        tensors[id(tensor)] = places[at]
    try:
        twin = copy.deepcopy(model, dict(tensors))  # deepcopy takes these for copies already made
    except Exception as error:  # a module may hold anything: locks, files, generators
        raise ValueError(f"the model cannot be copied ({type(error).__name__}: {error}); copy.deepcopy must") from error
    copies = dict(twin.named_parameters(remove_duplicate=False)) if isinstance(twin, nn.Module) else {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if copies.get(name) is not tensors[id(parameter)]:
            raise ValueError(
                f"a copy of the model does not have the copy of its parameter {name}: some module has a __deepcopy__ "
                "of its own, which must copy its tensors by copy.deepcopy(..., memo)"
            )
    return twin.eval(), [tensors[id(parameter)] for parameter in chosen.values()]


def fingerprint(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that tell one model's parameters and buffers from another's.

    Examples
    --------
    >>> import torch
    >>> from bpflat.flatness import fingerprint
    >>> model = torch.nn.Linear(3, 2)
    >>> before = fingerprint(model)
    >>> _ = torch.nn.init.zeros_(model.bias)
    >>> before == fingerprint(model)
    False
    """
    digest = hashlib.sha256()
    model = unwrap(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # numpy knows no bfloat16
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(values.numpy())
    return digest.hexdigest()[:16]
