"""The noise of eq. 4 on the chosen parameters of a model: w + σ z⊙w, with w kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from bpflat.randomness import integer_seed


class Perturbation:
    """Sets parameters to w + σ z⊙w.

    One flat draw of the noise serves all parameters; z is a function of (seed, key) and of the chosen parameters alone.
    CPU and CUDA draw different numbers.  Memory: one number of the noise for each parameter.

    Parameters
    ----------
    w : iterable of Tensor
        Parameters w, read and never written; copied only where they are on another device.
    parameters : list of Parameter
        Parameters to be set, of the same shapes and types as `w`; noise is drawn on their device.
    seed : SeedSequence
    """

    def __init__(self, w: Iterable[Tensor], parameters: list[Tensor], seed: np.random.SeedSequence):
        self.parameters, self.seed, device = parameters, seed, parameters[0].device
        self.w = [part.detach().to(device) for part in w]
        double = any(part.dtype == torch.float64 for part in self.w)
        sizes = [part.numel() for part in self.w]
        self.noise = torch.empty(sum(sizes), dtype=torch.float64 if double else torch.float32, device=device)
        self.z = [z.view(part.shape) for z, part in zip(self.noise.split(sizes), self.w, strict=True)]
        self.generator = torch.Generator(self.noise.device)

    def draw(self, *key: int) -> list[Tensor]:
        """Standard normal z of (seed, key), one for each parameter; valid until the next call."""
        self.generator.manual_seed(integer_seed(self.seed, *key))
        self.noise.normal_(generator=self.generator)
        return self.z

    def set(self, sigma: float, *key: int) -> None:
        """Set the parameters to w + σ z⊙w; σ may be negative."""
        if sigma:
            for w, z, parameter in zip(self.w, self.draw(*key), self.parameters, strict=True):
                torch.addcmul(w, w, z, value=sigma, out=parameter)
        else:
            torch._foreach_copy_(self.parameters, self.w)
        torch.clear_autocast_cache()  # it may hold bfloat16 copies of the weights before

    def force(self, strength: float, places: Iterable[int], *key: int) -> None:
        """Set some parameters to w + strength · rms(w) z, rms(w) being 1 where w = 0, and leave the others."""
        z = self.draw(*key)
        for i in places:
            rms = self.w[i].float().norm().item() / self.w[i].numel() ** 0.5
            self.parameters[i].copy_(self.w[i]).add_(z[i], alpha=strength * (rms or 1.0))
        torch.clear_autocast_cache()
