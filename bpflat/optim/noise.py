"""The Gaussian noise of Langevin steps: reproducible, resumable, and the same in all data-parallel processes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from bpflat.arguments import check_seed
from bpflat.optim.wrapper import add_scaled_, flat_views
from bpflat.randomness import integer_seed


class Noise:
    """Standard normal numbers for groups of tensors, from one generator a device.

    Parameters
    ----------
    seed : int, SeedSequence or None
        None takes fresh entropy; where torch.distributed is initialised when the first numbers are drawn, that of
        process 0, which all processes must then ask for.
    """

    def __init__(self, seed: int | np.random.SeedSequence | None):
        self._seed = check_seed(seed)
        self._is_own = seed is None  # not yet known to agree with other processes
        self._generators: dict[torch.device, torch.Generator] = {}
        self._saved: dict[str, list[Tensor]] = {}  # states for generators to come, by type of device
        self._key: tuple[int, ...] | None = None
        self._room: tuple[list[Tensor], list[Tensor]] = ([], [])

    def add_(self, groups: Sequence[list[Tensor]], scales: Sequence[float | Tensor]) -> None:
        """Add `scale` times N(0, 1) to all tensors of each group, in place."""
        tensors = [tensor for group in groups for tensor in group]
        key = tuple(map(id, tensors))
        if key != self._key:
            self._room, self._key = flat_views(tensors), key
        flats, views = self._room
        for flat in flats:
            flat.normal_(generator=self._generator(flat.device))
        for group, scale in zip(groups, scales, strict=True):
            add_scaled_(group, views[: len(group)], scale)
            views = views[len(group) :]

    def state(self) -> dict[str, Tensor]:
        """States of the generators by type and order of the devices, ``"cuda:1"`` being the second of its type used.

        So a process can go on from the state of another, whose device has another index.
        """
        states = copy.copy(self._saved)
        for kind in {device.type for device in self._generators}:
            used = [g.get_state() for device, g in self._generators.items() if device.type == kind]
            states[kind] = used + self._saved.get(kind, [])[len(used) :]
        return {f"{kind}:{i}": state for kind, of_kind in states.items() for i, state in enumerate(of_kind)}

    def load(self, states: dict[str, Tensor]) -> None:
        """Go on where `state` was called."""
        saved = defaultdict(list)
        for name, state in states.items():
            saved[name.partition(":")[0]].append(state.cpu().clone())
        self._saved, self._generators = dict(saved), {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Noise:
        """Copy that draws the same numbers."""
        twin = copy.copy(self)
        twin.load(self.state())
        twin._key = None
        return twin

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            order = sum(other.type == device.type for other in self._generators)
            saved = self._saved.get(device.type, [])
            generator = torch.Generator(device)
            if order < len(saved):
                generator.set_state(saved[order])
            else:
                self._agree()
                generator.manual_seed(integer_seed(self._seed, 0, len(self._generators)))
            self._generators[device] = generator
        return self._generators[device]

    def _agree(self) -> None:
        """Take the seed of process 0, if none was given."""
        if self._is_own and dist.is_available() and dist.is_initialized():
            entropy = [self._seed.entropy]
            dist.broadcast_object_list(entropy, src=0)
            self._seed, self._is_own = np.random.SeedSequence(entropy[0]), False
