"""The perturbed model: a copy on the device whose chosen parameters are w + σ z⊙w.

Working on a copy keeps the user's model untouched whatever happens, a Ctrl-C or a killed process included, and costs
no memory: the weights without noise must be kept somewhere anyway, and the user's model does that.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from bpflat.arguments import shown, stream

Choice = str | Iterable[str] | Callable[[str], bool] | None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile's and the parallel wrappers, or raise a ValueError."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def check_parameters(model: nn.Module) -> None:
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


def choose(model: nn.Module, parameters: Choice) -> dict[str, nn.Parameter]:
    """Parameters to perturb, by name, shared ones once under their first name.

    Parameters
    ----------
    model : Module
    parameters : None, "weights", iterable of str, or callable
        As `bpflat.flatness.local_energy` takes it.

    Raises
    ------
    ValueError
        When nothing is chosen, a name is unknown, or a chosen parameter is not of real numbers.
    """
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
    once: dict[tuple, str] = {}
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


def _place(tensor: Tensor) -> tuple:
    """Where the numbers are: equal for tensors that share them, be they one object or tied by their storage."""
    if not tensor.numel():
        return (id(tensor),)
    storage = tensor.untyped_storage().data_ptr()
    return storage, tensor.device, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def copy_to(model: nn.Module, device: torch.device) -> tuple[nn.Module, dict[int, Tensor]]:
    """Copy a model onto a device without touching it.

    Returns
    -------
    copy : Module
        In eval mode, without gradients; what was shared is shared.
    tensors : dict
        The copy of each parameter and buffer by the ``id`` of the original.

    Raises
    ------
    ValueError
        When some part of the model cannot be copied, or copies itself in a way of its own.
    """
    attributes = (value for module in model.modules() for value in vars(module).values())
    computed = (value for value in attributes if isinstance(value, Tensor) and value.grad_fn is not None)
    places: dict[tuple, Tensor] = {}
    tensors: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers(), *computed):
        at = (isinstance(tensor, nn.Parameter), *_place(tensor))
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
    return twin.eval(), tensors


def fingerprint(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that tell one model's parameters and buffers from another's."""
    digest = hashlib.sha256()
    model = unwrap(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # numpy knows no bfloat16
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(values.numpy())
    return digest.hexdigest()[:16]


class Perturbation:
    """Sets parameters to w + σ z⊙w.

    One flat draw of the noise serves all parameters; z is a function of (seed, key) and of the chosen parameters alone.
    CPU and CUDA draw different numbers.  Memory: one number of the noise for each parameter.

    Parameters
    ----------
    w : list of Tensor
        Read, never written.
    parameters : list of Parameter
        To be set, on the same device, of the same shapes and types as `w`.
    seed : SeedSequence
    """

    def __init__(self, w: list[Tensor], parameters: list[Tensor], seed: np.random.SeedSequence):
        self.w, self.parameters, self.seed = [part.detach() for part in w], parameters, seed
        double = any(part.dtype == torch.float64 for part in w)
        sizes = [part.numel() for part in w]
        self.noise = torch.empty(sum(sizes), dtype=torch.float64 if double else torch.float32, device=w[0].device)
        self.z = [z.view(part.shape) for z, part in zip(self.noise.split(sizes), w, strict=True)]
        self.generator = torch.Generator(self.noise.device)

    def draw(self, *key: int) -> list[Tensor]:
        """Standard normal z of (seed, key), one for each parameter; valid until the next call."""
        self.generator.manual_seed(int(stream(self.seed, *key).generate_state(1, np.uint64)[0] >> 1))
        self.noise.normal_(generator=self.generator)
        return self.z

    def set(self, sigma: float, *key: int) -> None:
        """Set the parameters to w + σ z⊙w; σ may be negative."""
        if sigma:
            for w, z, parameter in zip(self.w, self.draw(*key), self.parameters, strict=True):
                torch.addcmul(w, w, z, value=sigma, out=parameter)
        else:
            torch._foreach_copy_(self.parameters, self.w)
        torch.clear_autocast_cache()  # it may hold bfloat16 copies of the weights before

    def force(self, strength: float, places: Iterable[int], *key: int) -> None:
        """Set some parameters to w + strength · rms(w) z, rms(w) being 1 where w = 0, and leave the others."""
        z = self.draw(*key)
        for i in places:
            rms = self.w[i].float().norm().item() / self.w[i].numel() ** 0.5
            self.parameters[i].copy_(self.w[i]).add_(z[i], alpha=strength * (rms or 1.0))
        torch.clear_autocast_cache()
