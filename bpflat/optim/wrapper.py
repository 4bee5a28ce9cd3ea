"""What the two optimizers share: a torch optimizer around others, and lists of tensors handled as one.

Each operation on the tensors is one call for all of them (``torch._foreach_*``, which torch's own optimizers use, or
one operation on a flat buffer of which the tensors are views).
"""

from __future__ import annotations

import contextlib
import copy
import types
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer

from bpflat.arguments import check_scalar, shown

_LEFT_BY_TORCH = ("_optimizer_", "_zero_grad_", "_opt_called", "step")  # hooks, and the marks of schedulers
_ALIGNMENT = 16  # elements between the starts of views: at least 32 bytes, for vectorised loads


class Wrapper(Optimizer):
    """A torch optimizer whose parameter groups are those of other optimizers; base of the two public classes."""

    def __init__(
        self,
        wrapped: Sequence[Optimizer],
        gamma: float,
        project: Callable[[], object] | None,
        names: Sequence[str] | None = None,
    ):
        if project is not None and not callable(project):
            raise ValueError(f"project must be callable without arguments, not {shown(project)}")
        for name, optimizer in zip(names or [f"replicas[{a}]" for a in range(len(wrapped))], wrapped, strict=True):
            _check_wrapped(name, optimizer)
        # What Optimizer.__init__ does, except for defaults and groups of its own: they are those of the wrapped.
        self.__setstate__({"state": defaultdict(dict)})
        self.gamma = gamma
        self._project = project
        self._inside_centre = False

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, of the optimizer itself also where Lightning's stand-in for it is asked.

        That one is of our class too, reads all else from the optimizer, and would keep what is set to itself.
        """
        optimizer = self.__dict__.get("_optimizer")
        if optimizer is None or name in self.__dict__:
            super().__setattr__(name, value)
        else:
            setattr(optimizer, name, value)

    def _constrain(self) -> None:
        if self._project is not None:
            self._project()

    @property
    def gamma(self) -> float:
        """Coupling γ; set it as focusing asks, for example once an epoch."""
        return self._gamma

    @gamma.setter
    def gamma(self, value: float) -> None:
        self._gamma = check_scalar("gamma", value)

    @contextlib.contextmanager
    def _exchanged(self, tensors: list[Tensor], values: dict[Tensor, Tensor]) -> Iterator[None]:
        """Let those of `tensors` that have a value hold it within the block; then all are as before, bit for bit."""
        with torch.no_grad():
            saved = [tensor.clone() for tensor in tensors]
            torch._foreach_copy_(tensors, [values.get(tensor, tensor) for tensor in tensors])
        self._inside_centre = True
        try:
            yield
        finally:
            self._inside_centre = False
            with torch.no_grad():
                torch._foreach_copy_(tensors, saved)

    def _require_outside_centre(self, what: str) -> None:
        if self._inside_centre:
            raise RuntimeError(
                f"{what} inside `with centre()`, where the centre stands in for the weights; leave it first"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: add the group to each wrapped optimizer, with its own options there."""
        raise ValueError("add the group to each wrapped optimizer (.inner and .outer, or .replicas), not to this one")

    def __deepcopy__(self, memo: dict[int, Any]) -> Wrapper:
        """Copy, parameters included, as of any torch optimizer; hooks and schedulers stay with the original.

        The copy is that of a model if both are copied at once: ``model, optimizer = deepcopy((model, optimizer))``.
        """
        if isinstance(self._project, types.FunctionType):
            raise TypeError(
                "an optimizer whose project is a function cannot be copied: the copy would project the weights of the "
                "original; make project a method of the model, copied with it, or save the optimizer's state_dict()"
            )
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        own = {name: value for name, value in vars(self).items() if not name.startswith(_LEFT_BY_TORCH)}
        twin.__setstate__({name: copy.deepcopy(value, memo) for name, value in own.items()})
        return twin

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled, only deepcopied with its model; save its state_dict()"
        )


def _check_wrapped(name: str, optimizer: Optimizer) -> None:
    """Raise a ValueError unless `optimizer` can be wrapped; `name` is what the user calls it."""
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"{name} must be a torch optimizer, not {shown(optimizer)}")
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise ValueError(
            f"{name}: maximize=True would turn the attraction into repulsion; minimise minus the objective"
        )
    if any(hasattr(p, "device_mesh") or hasattr(p, "_fsdp_flattened") for p in parameters(optimizer)):
        raise ValueError(
            f"{name} has sharded parameters (DTensor, as of fully_shard, or FullyShardedDataParallel): noise and "
            "distances would be those of one shard; use DistributedDataParallel, which keeps all weights everywhere"
        )


def evaluate(optimizer: Optimizer, closure: Callable[[], Any] | None) -> tuple[Any, bool]:
    """Loss that `closure` returns, gradients enabled, and whether there is a step to take.

    There is none if it returns None and no parameter has a gradient.  Closures without a loss whose gradients count
    are those of Lightning's manual optimization.
    """
    if closure is None:
        return None, True
    if not callable(closure):
        raise ValueError(f"closure must be callable without arguments, not {shown(closure)}")
    with torch.enable_grad():
        loss = closure()
    return loss, loss is not None or any(p.grad is not None for p in parameters(optimizer))


def parameter_groups(params: Iterable[Tensor] | Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups that torch's optimizers would make of `params`, in lists where there may be iterators."""
    entries = list(params)
    groups = entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
    return [{**g, "params": [g["params"]] if isinstance(g["params"], Tensor) else list(g["params"])} for g in groups]


def make_base(base: Callable[..., Optimizer], groups: list[dict[str, Any]], options: dict[str, Any]) -> Optimizer:
    """Return ``base(groups, **options)``, leaving `groups` as they are."""
    if not callable(base):
        raise ValueError(f"base must be a class of torch optimizers, such as torch.optim.SGD, not {shown(base)}")
    return base([dict(group) for group in groups], **options)


def unscale_(optimizer: Optimizer) -> bool:
    """Whether gradients are finite; divides them by the scale of a GradScaler that left that to the optimizer."""
    found_inf, scale = getattr(optimizer, "found_inf", None), getattr(optimizer, "grad_scale", None)
    if found_inf is None:
        return True
    if found_inf.item():
        return False
    if scale is not None:
        gradients = [p.grad for p in parameters(optimizer) if p.grad is not None]
        torch._foreach_div_([g._values() if g.is_sparse else g for g in gradients], scale)
    return True


def parameters(optimizer: Optimizer) -> list[Tensor]:
    """All parameters, group by group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def shapes(optimizer: Optimizer) -> list[list[list[int]]]:
    """Shape of every parameter, one list a group: what a state belongs to."""
    return [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]


def has_dense_gradient(parameter: Tensor) -> bool:
    """Whether the parameter takes part: frozen ones have no gradient, and sparse ones are left to their optimizer."""
    return parameter.grad is not None and parameter.grad.layout is torch.strided


@contextlib.contextmanager
def gradients_replaced(params: list[Tensor], gradients: dict[Tensor, Tensor]) -> Iterator[None]:
    """Let ``.grad`` of `params` be `gradients` within the block, and None for the others."""
    saved = [p.grad for p in params]
    for p in params:
        p.grad = gradients.get(p)
    try:
        yield
    finally:
        for p, gradient in zip(params, saved, strict=True):
            p.grad = gradient


def flat_views(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Zeroed flat buffers, one per device and dtype, and views of them in the shapes and strides of `tensors`."""
    layouts: dict[tuple[torch.device, torch.dtype], list[tuple[int, int]]] = defaultdict(list)
    sizes: dict[tuple[torch.device, torch.dtype], int] = defaultdict(int)
    for index, tensor in enumerate(tensors):
        kind = tensor.device, tensor.dtype
        layouts[kind].append((index, sizes[kind]))
        sizes[kind] += -(-tensor.numel() // _ALIGNMENT) * _ALIGNMENT
    views: list[Tensor] = [tensors[0]] * len(tensors) if tensors else []
    flats = []
    for (device, dtype), entries in layouts.items():
        flat = torch.zeros(sizes[device, dtype], device=device, dtype=dtype)
        flats.append(flat)
        for index, start in entries:
            shape, strides = tensors[index].shape, torch.empty_like(tensors[index]).stride()
            views[index] = flat.as_strided(shape, strides, start)
    return flats, views


def add_scaled_(tensors: list[Tensor], others: list[Tensor], scale: float | Tensor) -> None:
    """Add `scale` times `others` to `tensors`, in place; where `scale` is a tensor, `others` are overwritten."""
    if not tensors:
        return
    if isinstance(scale, Tensor):
        torch._foreach_mul_(others, scale)
        scale = 1.0
    torch._foreach_add_(tensors, others, alpha=scale)


def half_squared_distance(tensors: list[Tensor], others: list[Tensor]) -> Tensor:
    """Eq. 2, ``½ Σ_i (w'_i − w_i)²`` over all entries of all tensors, as a 0-d tensor on the device of the first."""
    norms = torch._foreach_norm(torch._foreach_sub(tensors, others))
    return torch.stack([norm.to(norms[0]) for norm in norms]).square().sum() / 2


def check_state(state: dict[str, Any], own: dict[str, Any], keys: Sequence[str]) -> None:
    """Raise a ValueError unless `state` has all `keys` and says the same as `own`: nothing is loaded before."""
    missing = [key for key in (*keys, *own) if not isinstance(state, dict) or key not in state]
    if missing:
        raise ValueError(f"this is no state_dict of such an optimizer: {', '.join(missing)} missing")
    for key, value in own.items():
        if state[key] != value:
            raise ValueError(
                f"state_dict of another model or arrangement: its {key} are {state[key]!r}, here they are {value!r}"
            )
