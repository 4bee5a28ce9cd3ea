"""Replicas as one system: alike in all processes, their coupled parameters, and their mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from bpflat.arguments import shown
from bpflat.optim.wrapper import parameters, shapes


def check_sequence(replicas: Sequence[Any]) -> list[Any]:
    """Return `replicas` as a list of at least one."""
    if not isinstance(replicas, Sequence) or isinstance(replicas, str | bytes):
        raise ValueError(f"replicas must be a sequence, with an entry for each, not {shown(replicas)}")
    if not replicas:
        raise ValueError("replicas are none: give one base optimizer for each replica of this process")
    return list(replicas)


def check_replicas(replicas: Sequence[Optimizer]) -> None:
    """Raise a ValueError unless the replicas are over copies of one model."""
    first = replicas[0]
    for a, base in enumerate(replicas[1:], start=1):
        if _signature(base) != _signature(first):
            raise ValueError(
                f"replicas must be over copies of one model; replica {a} differs from replica 0 in the shapes, types "
                f"or devices of its parameters, or in its groups: {shapes(base)} against {shapes(first)}"
            )
    params = [p for base in replicas for p in parameters(base)]
    if len({id(p) for p in params}) < len(params):
        raise ValueError("replicas share parameters: each needs its own model")


def _signature(base: Optimizer) -> list[list[tuple[Any, ...]]]:
    return [[(p.shape, p.dtype, p.device) for p in group["params"]] for group in base.param_groups]


def check_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """Return `group` if it is one that this process belongs to, or None."""
    if group is None or (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        return group
    raise ValueError(
        f"group must be a process group of torch.distributed with this process in it, or None; not {shown(group)}"
    )


def count_replicas(replicas: Sequence[Optimizer], group: dist.ProcessGroup | None, coupling: tuple[Any, ...]) -> int:
    """Replicas of all processes, which must agree on everything that the communication rests on, `coupling` too."""
    if group is None:
        return len(replicas)
    here = (shapes(replicas[0]), [str(p.dtype) for p in parameters(replicas[0])], *coupling)
    everywhere: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everywhere, (here, len(replicas)), group=group)
    for rank, (there, _) in enumerate(everywhere):
        if there != everywhere[0][0]:
            raise ValueError(
                f"replicas of processes 0 and {rank} differ in shapes, types, K, gamma or coupling: "
                f"{everywhere[0][0]} against {there}"
            )
    return sum(count for _, count in everywhere)


def coupled_parameters(replicas: Sequence[Optimizer]) -> list[list[list[Tensor]]]:
    """Coupled parameters of each replica and group; the same places in all of them."""
    places = [
        [
            i
            for i, copies in enumerate(zip(*(group["params"] for group in groups), strict=True))
            if all(p.requires_grad and (p.grad is None or p.grad.layout is torch.strided) for p in copies)
        ]
        for groups in zip(*(base.param_groups for base in replicas), strict=True)
    ]
    return [
        [[group["params"][i] for i in chosen] for group, chosen in zip(base.param_groups, places, strict=True)]
        for base in replicas
    ]


def mean_(
    flats: list[Tensor], views: list[Tensor], columns: list[list[Tensor]], y: int, group: dist.ProcessGroup | None
) -> list[Tensor]:
    """Mean over the y replicas of all processes, into `views` of `flats`; one column per replica of this process."""
    if not views:
        return views
    torch._foreach_copy_(views, columns[0])
    for column in columns[1:]:
        torch._foreach_add_(views, column)
    for flat in flats:
        if group is not None:
            dist.all_reduce(flat, group=group)
        flat.div_(y)
    return views
