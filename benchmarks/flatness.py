"""The local energy of deep nets: how near to the speed of the hardware, and what variance reduction saves.

``python -m benchmarks.flatness`` prints

1. images per second inside `bpflat.flatness.local_energy` over those of a plain forward pass in inference mode: same
   model, batch, precision and memory format.  Images are patterns × (1 + draws × σ), the pass at w too, and counted;
   the whole call is timed, with its copies, checks and noise;
2. the same over the usual way: a Python loop over ``named_parameters()`` that perturbs in place, and a DataLoader.

SmallConvNet on the CPU, ResNet-18 and ResNet-56 on a GPU if there is one; pictures of 32 × 32.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.timing import median_seconds, verdict
from bpflat import LocalEnergyProfile
from bpflat.flatness import local_energy
from bpflat.flatness.evaluation import arithmetic
from training.models import make_model

SIGMAS = (0.1, 0.3)
Data = tuple[Tensor, Tensor]


class Setting(NamedTuple):
    """Patterns, draws at each σ, batch, and options of `local_energy`."""

    n_patterns: int
    n_samples: int
    batch_size: int
    options: dict

    @property
    def passes(self) -> int:
        """Times that one call of `local_energy` goes through all patterns."""
        return 1 + self.n_samples * len(SIGMAS)

    def profile(self, model: nn.Module, data: Data) -> LocalEnergyProfile:
        """The call that is timed."""
        arguments = {"n_samples": self.n_samples, "batch_size": self.batch_size, **self.options}
        return local_energy(model, data, SIGMAS, seed=0, **arguments)


def random_data(model: nn.Module, n_patterns: int, device: torch.device) -> Data:
    """Random pictures, and as targets what the model says of them: no errors at w, many beside it.

    The last bias is moved, since a network that is not trained would give one answer to everything.
    """
    inputs = torch.randn(n_patterns, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    *_, last = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        outputs = torch.cat([model(batch) for batch in inputs.split(128)])
        mean = outputs.mean(dim=0)
        last.bias -= mean
        return inputs, (outputs - mean).argmax(dim=1)


def plain_forward(model: nn.Module, inputs: Tensor, setting: Setting) -> Callable[[], None]:
    """The passes that `local_energy` makes, in the same batches and arithmetic, and nothing else."""
    options, model = setting.options, copy.deepcopy(model)
    if options.get("channels_last"):
        inputs, model = (x.to(memory_format=torch.channels_last) for x in (inputs, model))
    forward = torch.compile(model) if options.get("compile") else model

    def run() -> None:
        with torch.inference_mode(), arithmetic(options.get("precision"), inputs.device):
            for _ in range(setting.passes):
                for batch in inputs.split(setting.batch_size):
                    forward(batch)
        if inputs.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def usual_way(model: nn.Module, loader: DataLoader, n_samples: int) -> NDArray[np.float64]:
    """Rises of the training error (S, n_samples), as most people would program them."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    device = next(model.parameters()).device

    def error() -> float:
        wrong, loss = 0, 0.0
        for inputs, targets in loader:
            inputs, targets = inputs.to(device), targets.to(device)
            outputs = model(inputs)
            wrong += (outputs.argmax(dim=1) != targets).sum().item()
            loss += F.cross_entropy(outputs, targets, reduction="sum").item()
        return wrong / len(loader.dataset)

    rises = np.empty((len(SIGMAS), n_samples))
    with torch.no_grad():
        at_w = error()
        for s, sigma in enumerate(SIGMAS):
            for i in range(n_samples):
                for name, p in model.named_parameters():
                    p.copy_(before[name] + sigma * torch.randn_like(p) * before[name])
                rises[s, i] = error() - at_w
        for name, p in model.named_parameters():
            p.copy_(before[name])
    return rises


def check(model: nn.Module, data: Data, loader: DataLoader, setting: Setting) -> None:
    """Raise unless one call sees as many images as are counted, and both ways find the same profile."""
    seen = []
    hook = model.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
    profile = setting.profile(model, data)
    hook.remove()
    if sum(seen) != setting.n_patterns * setting.passes:
        raise AssertionError(f"{sum(seen)} images were seen, not {setting.n_patterns * setting.passes}")
    rises = usual_way(model, loader, setting.n_samples)
    error = np.hypot(profile.std_error, rises.std(axis=1, ddof=1) / np.sqrt(setting.n_samples))
    off = abs(profile.delta_error - rises.mean(axis=1)) / error
    if profile.train_error > 0.005:  # near ties go either way, with the size of the batch
        raise AssertionError(f"the training error is {profile.train_error:.2%} on the model's own answers")
    if not off.max() < 6:  # standard errors from a few draws; NaN where nothing varied
        raise AssertionError(f"local_energy and the usual way are {off.max():.1f} standard errors apart")


def compare(name: str, model: nn.Module, device: torch.device, settings: dict[str, Setting], repeats: int) -> None:
    """Print the first two ratios for one network; the usual way does the work of the first setting."""
    model = model.to(device).eval()
    on_gpu = device.type == "cuda"
    first = next(iter(settings.values()))
    data = random_data(model, first.n_patterns, device)
    loader = DataLoader(
        TensorDataset(*(part.cpu() for part in data)),
        first.batch_size,
        num_workers=4 if on_gpu else 0,
        pin_memory=on_gpu,
        persistent_workers=on_gpu,
    )
    check(model, data, loader, first)
    timed = [
        function
        for setting in settings.values()
        for function in (partial(setting.profile, model, data), plain_forward(model, data[0], setting))
    ]
    *ours_and_plain, usual = median_seconds(
        *timed, lambda: usual_way(model, loader, first.n_samples), repeats=repeats, warmups=1
    )
    n_images = first.n_patterns * first.passes
    print(f"{name}, batches of {first.batch_size}, {torch.get_num_threads()} threads, {n_images:,} images per call")
    for label, ours, plain in zip(settings, ours_and_plain[::2], ours_and_plain[1::2], strict=True):
        print(f"{label}: {n_images / ours:,.0f} images per second, plain {n_images / plain:,.0f}")
        print("  " + verdict("local_energy over plain forward passes", plain / ours, 0.9))
        ratio = "local_energy over a loop and a DataLoader in float32"
        print("  " + (verdict(ratio, usual / ours, 3) if on_gpu else f"{ratio}: {usual / ours:.3g}"))


def main() -> None:
    """Compare on the CPU, and on a GPU if there is one."""
    torch.manual_seed(0)
    small = Setting(n_patterns=2048, n_samples=4, batch_size=128, options={})
    settings = {"float32": small}
    if shutil.which("c++") or shutil.which("g++"):
        settings["compiled"] = small._replace(options={"compile": True})
    compare("SmallConvNet, CPU", make_model("smallconvnet"), torch.device("cpu"), settings, repeats=9)
    if torch.cuda.is_available():
        large = Setting(n_patterns=8192, n_samples=4, batch_size=512, options={})
        quick = {"precision": "bfloat16", "channels_last": True}
        settings = {
            "float32": large,
            "bfloat16, channels_last": large._replace(options=quick),
            "bfloat16, channels_last, compiled": large._replace(options={**quick, "compile": True}),
        }
        for name in ("resnet18", "resnet56"):
            compare(f"{name}, GPU", make_model(name), torch.device("cuda"), settings, repeats=7)
    else:
        print("ResNet-18 and ResNet-56: not measured, torch finds no CUDA device")


if __name__ == "__main__":
    main()
