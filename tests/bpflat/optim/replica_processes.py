"""What each process of the distributed tests runs; forked processes import this module by name."""

from __future__ import annotations

import os
import signal

import torch
import torch.distributed as dist

from bpflat.optim import ReplicatedSGD
from tests.bpflat.optim.toy_networks import BASES, SGD, batches, loss_of, network

BATCHES = batches(16)
K = 3


class Replicas:
    """The replicas `members` of a system of several, each with its own minibatches, in this process."""

    def __init__(self, members, group=None, dtype=torch.float64, base=lambda p: torch.optim.SGD(p, lr=0.05, **SGD)):
        self.members = list(members)
        self.models = [network(a).to(dtype) for a in self.members]
        bases = [base(m.parameters()) for m in self.models]
        self.optimizer = ReplicatedSGD(bases, gamma=0.4, K=K, group=group)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 4, gamma=0.5)
        self.dtype, self.time = dtype, 0

    def losses(self):
        return [loss_of(model, self.batch(a)) for a, model in zip(self.members, self.models, strict=True)]

    def batch(self, a):
        x, y = BATCHES[(self.time + 5 * a) % len(BATCHES)]
        return x.to(self.dtype), y

    def step(self):
        self.optimizer.zero_grad()
        sum(self.losses()).backward()
        self.optimizer.step()
        self.scheduler.step()
        self.time += 1

    def state(self):
        return {
            "models": [model.state_dict() for model in self.models],
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "time": self.time,
        }

    def load(self, state):
        for model, saved in zip(self.models, state["models"], strict=True):
            model.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.time = state["time"]

    def outcome(self):
        """Weights of the replicas, and the centre with its buffers, its distance and γ₀."""
        with torch.no_grad():
            gamma0 = self.optimizer.balanced_gamma([loss.item() for loss in self.losses()])
        distance = self.optimizer.distance().item()
        with self.optimizer.centre(self.models):
            centre = {name: tensor.clone() for name, tensor in self.models[0].state_dict().items()}
        return {"centre": centre, "distance": distance, "gamma0": gamma0, "y": self.optimizer.y, **self.state()}


def run(rank, members, folder, *jobs):
    """What a process does: `members` lists the replicas of every rank, `jobs` name functions below, done in turn."""
    for job in jobs:
        JOBS[job](rank, members, folder)


def undisturbed(rank, members, folder):
    """Ten steps, the outcome saved; a checkpoint after four."""
    replicas = Replicas(members[rank], dist.group.WORLD)
    for _ in range(10):
        if replicas.time == 4:
            torch.save(replicas.state(), folder / f"checkpoint-{rank}.pt")
        replicas.step()
    torch.save(replicas.outcome(), folder / f"undisturbed-{rank}.pt")


def _with_base(name):
    """Job of ten steps of replicas around another base optimizer."""

    def job(rank, members, folder):
        replicas = Replicas(members[rank], dist.group.WORLD, base=BASES[name])
        for _ in range(10):
            replicas.step()
        torch.save(replicas.outcome(), folder / f"{name}-{rank}.pt")

    return job


def resumed(rank, members, folder):
    """The same from the checkpoint on."""
    replicas = Replicas(members[rank], dist.group.WORLD)
    replicas.load(torch.load(folder / f"checkpoint-{rank}.pt", weights_only=True))
    while replicas.time < 10:
        replicas.step()
    torch.save(replicas.outcome(), folder / f"resumed-{rank}.pt")


def killed(rank, members, folder):
    """The last rank is killed between two interactions; the others go on until they notice."""
    replicas = Replicas(members[rank], dist.group.WORLD)
    for _ in range(10):
        if replicas.time == 4:
            torch.save(replicas.state(), folder / f"checkpoint-{rank}.pt")
        if replicas.time == 7 and rank == len(members) - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        replicas.step()
    (folder / f"killed-{rank}.finished").touch()


def overflow(rank, members, folder):
    """An infinite gradient in one process at one step: its replica skips it, and all stay in step."""
    replicas = Replicas(members[rank], dist.group.WORLD, torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(6):
        replicas.optimizer.zero_grad()
        for loss in replicas.losses():
            scaler.scale(loss).backward()
        if t == 1 and rank == 0:
            next(replicas.models[0].parameters()).grad[0] = float("inf")
        scaler.step(replicas.optimizer)
        scaler.update()
        replicas.time += 1
    torch.save(replicas.outcome() | {"scale": scaler.get_scale()}, folder / f"overflow-{rank}.pt")


def skipped(rank, members, folder):
    """A closure without loss and gradients in one process at one step: its replicas skip it, and all stay in step."""
    replicas = Replicas(members[rank], dist.group.WORLD)
    for t in range(6):
        if t == 2 and rank == 0:
            before = [p.detach().clone() for p in replicas.models[0].parameters()]
            replicas.optimizer.step(replicas.optimizer.zero_grad)
            after = list(replicas.models[0].parameters())
            assert all(map(torch.equal, before, after))
            replicas.time += 1
        else:
            replicas.step()
    torch.save(replicas.outcome(), folder / f"skipped-{rank}.pt")


def mismatch(rank, members, folder):
    """Processes with different networks refuse to start, all of them."""
    model = torch.nn.Linear(2, 2 + rank)
    try:
        ReplicatedSGD([torch.optim.SGD(model.parameters(), lr=0.1)], gamma=0.1, group=dist.group.WORLD)
    except ValueError as error:
        (folder / f"mismatch-{rank}.refused").write_text(str(error), encoding="utf-8")


JOBS = {f.__name__: f for f in (undisturbed, resumed, killed, overflow, skipped, mismatch)}
JOBS |= {name: _with_base(name) for name in ("adam", "rmsprop")}
