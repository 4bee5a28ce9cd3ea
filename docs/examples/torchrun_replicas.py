"""Replicated-SGD with one replica in each process of torchrun."""

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy

from bpflat.optim import ReplicatedSGD, focusing

dist.init_process_group("gloo")  # "nccl" on GPUs
rank = dist.get_rank()
torch.manual_seed(0)
x = torch.randn(200, 10)  # the same data everywhere
y = (x[:, 0] * x[:, 1] > 0).long()

torch.manual_seed(1 + rank)  # weights and minibatches of its own for each replica
model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
optimizer = ReplicatedSGD([base], gamma=0.0, K=3, group=dist.group.WORLD)

epochs = 40
schedule = focusing.Exponential.over(0.002, epochs, factor=1000)
for epoch in range(epochs):
    optimizer.gamma = schedule(epoch)
    for batch in torch.randperm(200).split(25):
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()

distance = optimizer.distance()
with optimizer.centre([model]), torch.no_grad():
    error = (model(x).argmax(1) != y).float().mean()
if rank == 0:
    print(f"{optimizer.y} replicas, distance {distance:.2e}, training error of their centre {error:.3f}")
dist.destroy_process_group()
