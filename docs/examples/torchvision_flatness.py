"""The local energy of a torchvision model after a few steps of training."""

import torch
import torchvision

from bpflat.flatness import local_energy

torch.manual_seed(0)
model = torchvision.models.resnet18(num_classes=4)
images, labels = torch.randn(48, 3, 32, 32), torch.arange(48) % 4  # yours: real images, or a DataLoader
images += labels.reshape(-1, 1, 1, 1)

optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)
for _ in range(15):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()

model.eval()
options = {"n_samples": 4, "parameters": "weights", "seed": 0}
profile = local_energy(model, (images, labels), sigmas=[0.1, 0.25, 0.5], **options)
print(f"training error {profile.train_error:.3f}, training loss {profile.train_loss:.3f}")
for sigma, rise, error in zip(profile.sigma, profile.delta_error, profile.std_error, strict=True):
    print(f"σ = {sigma:.2f}: δE = {rise:.3f} ± {error:.3f}")
profile.plot().figure.savefig("profile.png")
