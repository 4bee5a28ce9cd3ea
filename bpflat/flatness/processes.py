"""The processes of torch.distributed that share one measurement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed

from bpflat.arguments import check_seed


@dataclass
class Processes:
    """The processes that share the draws: draw i belongs to rank i mod `size`."""

    rank: int
    size: int
    device: torch.device  # where they exchange tensors

    @classmethod
    def of(cls, split: bool, device: torch.device) -> Processes:
        if not (split and distributed.is_available() and distributed.is_initialized()):
            return cls(0, 1, device)
        where = device if distributed.get_backend() == "nccl" else torch.device("cpu")
        return cls(distributed.get_rank(), distributed.get_world_size(), where)

    def same_seed(self, seed: int | np.random.SeedSequence | None) -> np.random.SeedSequence:
        """The seed; where it is None, fresh entropy that all processes have."""
        if seed is not None or self.size == 1:
            return check_seed(seed)
        entropy = np.random.SeedSequence().generate_state(2, np.uint64) >> 1
        shared = torch.from_numpy(entropy.astype(np.int64)).to(self.device)
        distributed.broadcast(shared, 0)
        return np.random.SeedSequence(shared.tolist())

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes, on the CPU."""
        if self.size > 1:
            values = values.to(self.device)
            distributed.all_reduce(values)
        return values.cpu()
