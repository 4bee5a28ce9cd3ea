"""Stochastic-gradient samplers of devinterp on models of a known learning coefficient, tuned to it.

They run in a loop of our own: with all patterns in each gradient, with all chains in one parameter, and without
devinterp's loading of data and storage of losses, all of which is in their favour.  ``nβ`` and the prior are those of
the model: a localisation ``γ = 1/σ²``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.solvable import Case

STEPS = tuple(10.0**power for power in range(-6, -1))
DIFFUSIONS = (0.01, 0.1)  # the first is the default
NAMES = ("SGLD", "RMSprop-SGLD", "SGNHT")


@dataclass(frozen=True)
class Sampler:
    """One of devinterp's samplers, with its step ε and, of the thermostat, its diffusion factor A."""

    name: str
    step: float
    diffusion: float | None = None

    def __str__(self):
        settings = f"{self.name}, ε = {self.step:.0e}".replace("e-0", "e−")
        return settings if self.diffusion is None else f"{settings}, A = {self.diffusion:g}"

    @property
    def is_localized(self) -> bool:
        """Whether it takes a localisation; else the loss must hold it."""
        return self.name != "SGNHT"

    def optimizer(self, chains: nn.Parameter, nbeta: float, gamma: float) -> torch.optim.Optimizer:
        """The optimizer that moves the chains."""
        from devinterp.optim import SGMCMC, SGNHT

        if self.is_localized:
            make = SGMCMC.sgld if self.name == "SGLD" else SGMCMC.rmsprop_sgld
            return make([chains], lr=self.step, nbeta=nbeta, localization=gamma)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # in its successor the momenta never move
            return SGNHT([chains], lr=self.step, nbeta=nbeta, diffusion_factor=self.diffusion)


@dataclass(frozen=True)
class Length:
    """Chains of a run, steps of each chain, and how many of them are left out at the start."""

    n_chains: int
    n_steps: int
    n_burn: int

    def __floordiv__(self, shorter: int) -> Length:
        """Length of runs that are so many times shorter."""
        return Length(self.n_chains, self.n_steps // shorter, self.n_burn // shorter)


def estimates(case: Case, sampler: Sampler, length: Length, n_runs: int, *, seed: int) -> NDArray[np.float64]:
    """λ̂(β) of some runs at once, from the mean loss along their chains; not finite where a chain runs away."""
    torch.manual_seed(seed)
    w, gamma = case.model.w.detach(), case.sigma**-2
    chains = nn.Parameter(w.repeat(n_runs * length.n_chains, *[1] * w.ndim))
    optimizer = sampler.optimizer(chains, case.nbeta, gamma)
    total = torch.zeros(len(chains), dtype=w.dtype)
    for step in range(length.n_steps):
        optimizer.zero_grad()
        energies = case.energies(chains)
        potential = energies / len(case.data[1])
        if not sampler.is_localized:
            potential = potential + gamma / (2 * case.nbeta) * (chains - w).square().flatten(1).sum(dim=1)
        potential.sum().backward()
        optimizer.step()
        if step >= length.n_burn:
            total += energies.detach()
    means = total.view(n_runs, length.n_chains).mean(dim=1) / (length.n_steps - length.n_burn)
    return case.beta * means.numpy()


def rms(values: NDArray, exact: float) -> float:
    """Root of the mean square error of some runs; infinite where one ran away."""
    if not np.isfinite(values).all():
        return np.inf
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean((values - exact) ** 2)))


def tuned(name: str, run: Callable[[Sampler, int], NDArray], exact: float) -> Sampler:
    """Settings of the least error: the best power of ten by short runs, then of it and its neighbours by longer ones.

    `run` takes settings and by how much runs are shorter.
    """

    def best(candidates: Iterable[Sampler], shorter: int) -> Sampler:
        return min(candidates, key=lambda sampler: rms(run(sampler, shorter), exact))

    diffusions, shorter = (DIFFUSIONS, 4) if name == "SGNHT" else ((None,), 10)  # friction 0.01 forgets slowly
    rough = best((Sampler(name, step, diffusion) for step in STEPS for diffusion in diffusions), shorter)
    return best((Sampler(name, rough.step * 10**power, rough.diffusion) for power in (-0.5, 0, 0.5)), 4)


def seconds_of_step(case: Case, sampler: Sampler, n_chains: int, n_steps: int = 300) -> float:
    """Time of the processor for a step of the chains of one run."""
    estimates(case, sampler, Length(n_chains, 10, 0), 1, seed=0)
    start = time.process_time()
    estimates(case, sampler, Length(n_chains, n_steps, 0), 1, seed=0)
    return (time.process_time() - start) / n_steps
