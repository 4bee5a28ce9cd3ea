"""Measurements of the local energy by two processes, run as a program in each: RANK FOLDER."""

import sys

import torch
from torch import distributed

from bpflat.flatness import local_energy
from tests.bpflat.flatness.toy_models import SIGMAS, trained

CASES = {
    "plain": {"n_samples": 5},
    "tolerance": {"n_samples": 40, "tolerance": 0.01, "antithetic": True},
    "augmented": {"n_samples": 5, "augment": lambda x: x.neg(), "subset": 50},
}


def main(rank: int, folder: str) -> None:
    """Measure every case with the other process, one with fresh entropy, and one alone."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model, *data = trained()
    for name, options in (CASES | {"fresh": {"n_samples": 5, "seed": None}}).items():
        local_energy(model, tuple(data), SIGMAS, **{"seed": 1, **options}).save(f"{folder}/{name}-{rank}.npz")
    alone = local_energy(model, tuple(data), SIGMAS, n_samples=5, seed=1 + rank, split=False)
    alone.save(f"{folder}/alone-{rank}.npz")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
