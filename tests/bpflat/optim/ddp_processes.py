"""What each process of the data-parallel tests runs; forked processes import this module by name."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from bpflat.optim import EntropySGD, ReplicatedSGD
from tests.bpflat.optim.toy_networks import SGD, batches, same_bits

BATCHES = batches(12)  # of 8 patterns, of which each of two processes gets every second
STEPS = 12
LOOP = {"gamma": 0.5, "L": 5, "epsilon": 1e-2}


def network(seed: int) -> nn.Module:
    """A network without BatchNorm, whose statistics would be those of half a batch."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def entropy_sgd(params, **options) -> EntropySGD:
    return EntropySGD.from_base(params, torch.optim.SGD, lr=0.05, outer_lr=0.5, **LOOP, **SGD, **options)


def replicated_sgd(models) -> ReplicatedSGD:
    return ReplicatedSGD.from_base([m.parameters() for m in models], torch.optim.SGD, lr=0.05, gamma=0.5, K=3, **SGD)


def train(models, optimizer, share=slice(None)):
    """`STEPS` steps on the patterns of each batch that `share` chooses."""
    for t in range(STEPS):
        optimizer.zero_grad()
        for a, model in enumerate(models):
            x, y = BATCHES[(t + 5 * a) % len(BATCHES)]
            nn.functional.cross_entropy(model(x[share].double()), y[share]).backward()
        optimizer.step()


def run(rank, folder):
    """All jobs, one after the other."""
    share = slice(rank, None, 2)
    parallel = DistributedDataParallel(network(0))
    optimizer = entropy_sgd(parallel.parameters(), seed=7)
    train([parallel], optimizer, share)
    torch.save([parallel.module.state_dict(), optimizer.state_dict()], folder / f"seeded-{rank}.pt")

    parallel = DistributedDataParallel(network(0))
    optimizer = entropy_sgd(parallel.parameters())  # no seed is given
    train([parallel], optimizer, share)
    states = [None] * 2
    dist.all_gather_object(states, [parallel.module.state_dict(), optimizer.state_dict()])
    resumed = DistributedDataParallel(network(0))
    again = entropy_sgd(resumed.parameters())
    resumed.module.load_state_dict(states[0][0])  # both go on from the checkpoint of process 0
    again.load_state_dict(copy.deepcopy(states[0][1]))  # torch's optimizers work on the tensors they are given
    train([parallel], optimizer, share)
    train([resumed], again, share)
    torch.save(
        {
            "states": states,
            "same": same_bits(optimizer.state_dict(), again.state_dict()),
            "numbers": [fresh_numbers() for _ in range(2)],
        },
        folder / f"unseeded-{rank}.pt",
    )

    replicas = [DistributedDataParallel(network(a)) for a in range(2)]
    train(replicas, replicated_sgd(replicas), share)
    torch.save([replica.module.state_dict() for replica in replicas], folder / f"replicas-{rank}.pt")

    sharded = network(0)
    fully_shard(sharded, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
    flattened = FullyShardedDataParallel(network(0), device_id=torch.device("cpu"), use_orig_params=True)
    for name, model in (("fully_shard", sharded), ("fsdp", flattened)):
        for make in (lambda m: entropy_sgd(m.parameters()), lambda m: replicated_sgd([m])):
            try:
                make(model)
            except ValueError as error:
                with open(folder / f"{name}-{rank}.refused", "a", encoding="utf-8") as file:
                    file.write(f"{error}\n")


def fresh_numbers() -> torch.Tensor:
    """What an optimizer without a seed adds as noise in its first step."""
    p = nn.Parameter(torch.zeros(4))
    p.grad = torch.zeros(4)
    entropy_sgd([p]).step()
    return p.detach()
