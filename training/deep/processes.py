"""Replicas over the processes of ``torchrun``: who has which, and what processes tell each other.

A group of None is this process alone, which has all replicas.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bpflat.locks import claimed

TIMEOUT = datetime.timedelta(hours=1)  # one process may download or measure while the others wait


@contextlib.contextmanager
def process_group(device: str) -> Iterator[tuple[dist.ProcessGroup | None, str]]:
    """Give the block the group of the processes that torchrun started, and the device of this one.

    The group is None when there is one process.  It speaks over gloo on the CPU and NCCL on GPUs, where "cuda" becomes
    one GPU per process.  An exception leaves it as it is: to wait for other processes then might take forever.

    Raises
    ------
    ValueError
        More processes than GPUs.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield None, device
        return
    if device.startswith("cuda"):
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine finds {torch.cuda.device_count()} GPUs: start one for each"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=torch.device(device))
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    yield dist.group.WORLD, device
    dist.destroy_process_group()


def own_replicas(y: int, group: dist.ProcessGroup | None) -> range:
    """Which of y replicas this process has: as many as every other.

    Raises
    ------
    ValueError
        When y cannot be divided so.
    """
    if group is None:
        return range(y)
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    if y % size:
        what = f"{y} replicas cannot be shared equally by" if y > 1 else "one network, without replicas, cannot use"
        raise ValueError(f"{what} {size} processes: start as many as divide the replicas of rSGD (torchrun)")
    share = y // size
    return range(rank * share, (rank + 1) * share)


def is_first(group: dist.ProcessGroup | None) -> bool:
    """Whether this is the process that writes files and speaks to people."""
    return group is None or dist.get_rank(group) == 0


@contextlib.contextmanager
def first_alone(group: dist.ProcessGroup | None) -> Iterator[None]:
    """Have the first process run the block before the others do."""
    if not is_first(group):
        dist.barrier(group)
    yield
    if group is not None and is_first(group):
        dist.barrier(group)


@contextlib.contextmanager
def first_claims(path: Path, group: dist.ProcessGroup | None) -> Iterator[None]:
    """Have the first process claim the file `path` for all within the block, see `bpflat.locks.claimed`."""
    with contextlib.ExitStack() as claims:
        refusal = None
        if is_first(group):
            try:
                claims.enter_context(claimed(path))
            except OSError as error:
                refusal = error
        refusal = first_decides(refusal, group)
        if refusal is not None:
            raise refusal
        yield


def sum_over(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sum of `tensor`, in place, over the processes."""
    if group is not None:
        dist.all_reduce(tensor, group=group)
    return tensor


def first_decides(value: Any, group: dist.ProcessGroup | None) -> Any:
    """What `value` is in the first process."""
    values = [value]
    if group is not None:
        dist.broadcast_object_list(values, src=0, group=group)
    return values[0]


def gather_states(state: Any, group: dist.ProcessGroup | None) -> list[Any]:
    """States (of containers and tensors) of all processes, on the CPU, in the first; an empty list in the others."""
    if group is None:
        return [state]
    file = io.BytesIO()
    torch.save(state, file)
    gathered = [None] * dist.get_world_size(group) if is_first(group) else None
    dist.gather_object(file.getvalue(), gathered, dst=0, group=group)
    return [torch.load(io.BytesIO(part), map_location="cpu", weights_only=True) for part in gathered or ()]
