"""What each process of the distributed tests of the trainer runs; forked processes import this module by name."""

from __future__ import annotations

import os
import signal

import torch.distributed as dist

from tests.training.deep.toy_deep import Tiny, short, toy
from training import models
from training.deep import training


def replicas(y=3):
    """Recipe of y replicas that meet at every step."""
    return toy("rsgd", y=y)


def share(out, data, y, **options):
    """A run with its replicas shared among all processes."""
    models.MODELS["tiny"] = Tiny
    return short(replicas(y), out, data, group=dist.group.WORLD, **options)


def train(rank, out, data, y):
    """A run; every process says what it returned."""
    result = share(out, data, y, tensorboard=True)
    result.save(out.parent / f"{out.name}-{rank}.npz")


def train_until_killed(rank, out, data, y):
    """The last process is killed after the second checkpoint; the others go on until they notice."""
    save_state, calls = training.save_state, []

    def save_and_die(*arguments):
        save_state(*arguments)
        calls.append(1)
        if len(calls) == 2 and rank == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    training.save_state = save_and_die
    share(out, data, y, tensorboard=True, checkpoint_every=0)


def train_in_two_folders(rank, out, data, y):
    """Processes that do not share a folder, of which one has a checkpoint."""
    share(out / str(rank), data, y)
