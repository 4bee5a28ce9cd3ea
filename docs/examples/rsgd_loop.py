"""Replicated-SGD in a plain training loop: three replicas, and the error of their centre."""

import torch
from torch.nn.functional import cross_entropy

from bpflat.optim import ReplicatedSGD, focusing

torch.manual_seed(0)
x = torch.randn(400, 10)
y = (x[:, 0] * x[:, 1] > 0).long()
train, test = slice(0, 200), slice(200, 400)


def perceptron():
    """Return a new network."""
    return torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))


models = [perceptron() for _ in range(3)]
bases = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True) for m in models]
optimizer = ReplicatedSGD(bases, gamma=0.0, K=3)

epochs = 80
with torch.no_grad():
    gamma0 = optimizer.balanced_gamma([cross_entropy(m(x[train]), y[train]) for m in models])
schedule = focusing.Exponential.over(gamma0, epochs, factor=30)
for epoch in range(epochs):
    optimizer.gamma = schedule(epoch)
    for batches in zip(*(torch.randperm(200).split(25) for _ in models), strict=True):
        optimizer.zero_grad()
        for model, batch in zip(models, batches, strict=True):  # minibatches of its own for each replica
            cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()

with optimizer.centre(models), torch.no_grad():
    for name, part in (("training", train), ("test", test)):
        error = (models[0](x[part]).argmax(1) != y[part]).float().mean()
        print(f"{name} error of the centre: {error:.3f}")
print(f"distance of the replicas: {optimizer.distance():.2e}")
