"""Replica exchange along inverse temperatures: the ladder, the partition function and the errors of both.

Nothing here knows what the energies are of.  Samplers have states at each of T inverse temperatures β and return their
energies U (chains, samples, T).  The stepping stones ``log Z(β_{j+1})/Z(β_j) = log ⟨e^{-(β_{j+1} - β_j) U}⟩_j`` give
log Z along the ladder, without an integral over β to discretise.  Infinite energies are allowed.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

RHAT = 1.05  # above it chains disagree
_STEP = 0.8  # of the ladder: (β_{j+1} - β_j) × the standard deviation of U at β_j
_KEPT = math.exp(-(_STEP**2))  # effective fraction of samples that such a step leaves of Gaussian energies
_ENOUGH = 0.3  # the ladder ends where this fraction of states is allowed
_COUNTABLE = 0.05  # and before its first step where this fraction of independent samples is
_SETTLED = 1.2  # R-hat of the energies at a temperature that the ladder goes on from
_FROZEN = 60.0  # a cost of an error at which no chain makes one more
_REACH = 0.05  # effective fraction of samples below which no average is carried further


class Sampler(Protocol):
    """What makes the states: it begins with one temperature."""

    def run(self, betas: NDArray[np.float64], n_sweeps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energies (..., n_sweeps, T), and norms at the last temperature (..., n_sweeps)."""

    def grow(self) -> None:
        """Add a temperature whose states start where the last ones are."""


def effective_fraction(energies: NDArray, step: float) -> float:
    """``⟨w⟩²/⟨w²⟩`` of the weights ``w = e^{-step U}``: the fraction of samples that count."""
    weights = _factors(energies - energies.min(), step)
    return float(weights.mean() ** 2 / np.mean(weights**2))


def _factors(energies: NDArray, step: float) -> NDArray[np.float64]:
    """``e^{-step U}``, 1 at no step, whatever U."""
    return np.exp(-step * energies) if step else np.ones(energies.shape)


def next_step(energies: NDArray) -> float:
    """Step in β from a temperature whose energies are given: infinite where nothing changes beyond, 0 where none helps.

    Whole numbers are counts: they have no tails, and states of less energy, unseen yet, may be what is wanted.  A step
    is in units of their deviation, and has an upper bound.  Other energies may have tails, even infinite values, and
    any unit: a step leaves enough of the samples effective.
    """
    if _are_counts(energies):
        return _STEP / max(energies.std(), 0.5)
    if not np.isfinite(energies).any():
        return 0.0
    spread = energies - energies.min()
    above = spread[(spread > 0) & np.isfinite(spread)]
    if np.mean(spread == 0) >= _KEPT or not above.size:
        return math.inf
    low = 60.0 / above.min()  # e^{-60} of all but the smallest
    while effective_fraction(spread, low) < _KEPT:
        low /= 2
    return brentq(lambda step: effective_fraction(spread, step) - _KEPT, low, 2 * low, rtol=1e-3)


def _are_counts(energies: NDArray) -> bool:
    return bool(np.isfinite(energies).all() and (energies == np.round(energies)).all())


def ladder(
    sampler: Sampler,
    allowed: float,
    beta: float | None,
    n_sweeps: int,
    longest: int,
    *,
    independent: bool = False,
    runs: int = 1,
) -> tuple[NDArray[np.float64], bool]:
    """Inverse temperatures from 0 to β, or to where energies of no more than `allowed` are common, by a run at each.

    Grows the sampler.  False where the longest ladder does not reach that far.  Where samples at β = 0 are
    `independent` of each other, less common states are counted among them.  A temperature that has not settled, by its
    R-hat, is run again, each time twice as long, up to that many `runs`: steps made from states that still come from
    the temperature before would be short, and end far beyond where they should.
    """
    betas = [0.0]
    while True:
        for run in range(runs):
            n = n_sweeps << run
            energies = sampler.run(np.array(betas), n)[0][..., n // 4 :, -1]
            if (independent and len(betas) == 1) or run == runs - 1 or rhat(energies[..., None]) < _SETTLED:
                break
        enough = _COUNTABLE if independent and len(betas) == 1 else _ENOUGH
        if np.mean(energies <= allowed) >= enough if beta is None else betas[-1] >= beta:
            return np.array(betas), True
        is_frozen = _are_counts(energies) and np.mean(energies == energies.min()) >= _ENOUGH
        step = math.inf if is_frozen and beta is not None else next_step(energies)  # then all beyond is within one step
        stuck = step == 0 or (beta is None and (step == math.inf or (_are_counts(energies) and betas[-1] > _FROZEN)))
        if stuck or len(betas) == longest:
            return np.array(betas), False
        betas.append(min(betas[-1] + step, math.inf if beta is None else beta))
        sampler.grow()


class Estimate(NamedTuple):
    """log Z, mean energy and mean |z|² of the wanted states, and how each sample moves them (influences)."""

    log_z: float
    energy: float
    norm: float
    log_z_influence: NDArray[np.float64]
    energy_influence: NDArray[np.float64]
    norm_influence: NDArray[np.float64]


def estimate(energies: NDArray, norms: NDArray, betas: NDArray, allowed: float, beta: float | None) -> Estimate:
    """Averages over energies (chains, samples, T) and |z|² (chains, samples); influences have the shape of the latter.

    At a given β the last states are those wanted.  Else ``P(U ≤ U₀) = Z(β) ⟨1[U ≤ U₀] e^{βU}⟩_β`` counts among them,
    and their energy is not asked for (0).
    """
    log_z, steps = stones(energies[..., :-1], betas)
    influence = (steps - 1).sum(axis=-1)
    last = energies[..., -1]
    if beta is not None:
        weight, energy = np.ones(last.shape), last
    else:
        weight, energy = (last <= allowed) * np.exp(betas[-1] * np.minimum(last - allowed, 0)), np.zeros(last.shape)
        if not weight.any():
            return Estimate(-math.inf, 0.0, math.nan, influence, influence, influence)
        log_z += betas[-1] * allowed + math.log(weight.mean())
        weight /= weight.mean()
        influence = influence + weight - 1
    means = [float(np.mean(weight * values)) for values in (energy, norms)]
    moved = (weight * (values - mean) for values, mean in zip((energy, norms), means, strict=True))
    return Estimate(log_z, *means, influence, *moved)


def stones(energies: NDArray, betas: NDArray) -> tuple[float, NDArray[np.float64]]:
    """Return log Z at the last of T + 1 temperatures, and the stones over their means, from energies (..., T)."""
    steps, lowest = np.diff(betas), energies.min(axis=(0, 1))
    lowest = np.where(np.isfinite(lowest), lowest, 0.0)  # taken out: else all underflows at a large step
    factors = np.exp(-steps * (energies - lowest))
    means = factors.mean(axis=(0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # a temperature of infinite energies alone
        return float((np.log(means) - steps * lowest).sum()), factors / means


def cumulants(
    energies: NDArray, betas: NDArray, grid: NDArray, rhats: NDArray, *, reach: float = _REACH
) -> NDArray[np.float64]:
    """``log ⟨e^{-βU}⟩`` and ``⟨U⟩_β`` along a grid of β, each with its standard error, shape (4, B).

    From the temperature of the ladder at or below each β.  NaN where a smaller fraction than `reach` of its samples
    counts, or where the chains disagree on the way there, by their R-hat at each temperature, `rhats` (T,).
    """
    known = np.maximum.accumulate(rhats) < RHAT
    found = np.full((4, len(grid)), np.nan)
    for i, (beta, j) in enumerate(zip(grid, np.searchsorted(betas, grid, side="right") - 1, strict=True)):
        at = energies[..., j]
        step = beta - betas[j]
        if not known[j] or not np.isfinite(at).any() or effective_fraction(at, step) < reach:
            continue
        log_z, steps = stones(energies[..., :j], betas[: j + 1])
        influence = (steps - 1).sum(axis=-1)
        shift = at.min()
        weight = _factors(at - shift, step)
        log_z += math.log(weight.mean()) - step * shift
        weight /= weight.mean()
        weighted = np.multiply(weight, at, out=np.zeros(at.shape), where=weight > 0)
        mean = weighted.mean()
        errors = standard_error(influence + weight - 1), standard_error(weighted - weight * mean)
        found[:, i] = log_z, errors[0], mean, errors[1]
    return found


def standard_error(influence: NDArray) -> float:
    """Standard error of the mean of influences (chains, samples).

    From their autocovariance, summed as far as its pairs fall (Geyer).
    """
    n_samples = influence.shape[1]
    if not np.isfinite(influence).all():
        return math.nan
    spectrum = np.fft.rfft(influence - influence.mean(), 2 * n_samples)
    covariance = np.fft.irfft((spectrum * spectrum.conj()).mean(axis=0))[:n_samples] / n_samples
    pairs = covariance[: n_samples // 2 * 2].reshape(-1, 2).sum(axis=1)
    pairs = np.minimum.accumulate(pairs)
    return math.sqrt(max(2 * pairs[pairs > 0].sum() - covariance[0], 0.0) / influence.size)


def observables(energies: NDArray, betas: NDArray) -> NDArray[np.float64]:
    """What is averaged at each temperature: the stepping stones, and at the last one the energies themselves."""
    return np.concatenate([np.exp(-np.diff(betas) * energies[..., :-1]), energies[..., -1:]], axis=-1)


def rhat(values: NDArray) -> NDArray[np.float64]:
    """Split R-hat at each temperature, shape (T,), of values (chains, samples, T)."""
    half = values.shape[1] // 2
    halves = np.concatenate([values[:, :half], values[:, half : 2 * half]])
    with np.errstate(invalid="ignore"):  # infinite energies
        within = halves.var(axis=1, ddof=1).mean(axis=0)
        between = halves.mean(axis=1).var(axis=0, ddof=1)
        return np.sqrt(1 + between / np.maximum(within, 1e-12))
