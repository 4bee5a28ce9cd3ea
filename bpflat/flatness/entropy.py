"""The local entropy Φ_LE(w, d) of a torch model: from what is asked for to a curve along σ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from tqdm import tqdm

from bpflat.arguments import check_choice, check_count, check_device, check_flag, check_grid, check_scalar, check_seed
from bpflat.estimators import tempering
from bpflat.estimators.point import Point, point_of_samples
from bpflat.flatness.ensemble import Ensemble
from bpflat.flatness.models import Choice, choose, fingerprint, unwrap
from bpflat.flatness.noise import Perturbation
from bpflat.flatness.objective import Forward, Measure, Objective
from bpflat.flatness.passes import Passes
from bpflat.flatness.patterns import Data
from bpflat.flatness.preparation import prepare
from bpflat.flatness.probe import check_model
from bpflat.flatness.sampling import NOISE, ORDER
from bpflat.flatness.scales import SCALES, scales_of
from bpflat.provenance import Provenance
from bpflat.randomness import stream
from bpflat.results import LocalEntropyCurve

_Floats = NDArray[np.float64]
_CHAINS = ORDER + 1  # first key of the seed's streams
_LADDER_RUNS = 4  # at each new temperature, at most
_SORTED_BY = 8  # samples of the prior that say which patterns are often wrong


def local_entropy(
    model: nn.Module,
    data: Data,
    sigmas: ArrayLike,
    *,
    scale: str = "multiplicative",
    beta: float | None = None,
    n_samples: int = 400,
    n_chains: int = 4,
    seed: int | np.random.SeedSequence | None = None,
    device: str | torch.device | None = None,
    forward: Forward | None = None,
    loss: Measure | None = None,
    error: Measure | None = None,
    parameters: Choice = None,
    batch_norm: str = "frozen",
    batch_size: int | None = None,
    block_size: int = 256,
    resident: bool | None = None,
    precision: str | None = None,
    together: int | None = None,
    max_temperatures: int = 64,
    max_passes: int = 200_000,
    betas: ArrayLike | None = None,
    progress: bool = False,
) -> LocalEntropyCurve:
    """Local entropy of any torch model (eq. 3), under the noise of the local energy (eq. 4).

    Weights are perturbed to ``w' = w + σ s⊙z``, z standard normal, and ``log Z(w, σ) = log P(E(w') ≤ E(w))`` is the log
    probability that they make no more training errors than w.  A Legendre transform gives ``Φ_LE(w, d)`` at the
    distance ``d = ⟨Σ_i (w'_i − w_i)²/s_i²⟩/(2n)`` of a typical such w', per perturbed weight.  By forward passes only.

    Dropout is off, the model is worked on as a copy and never touched, and the global random numbers are left alone.

    Parameters
    ----------
    model : torch.nn.Module
        As in `bpflat.flatness.local_energy`, and so are `data`, `device`, `forward`, `parameters`, `batch_size`,
        `resident`, `precision`, and `batch_norm` and `block_size`, of which the former "recompute" estimates the
        statistics for every state.
    data : tuple of Tensor, or iterable of them
        (inputs, targets), or batches of such.
    sigmas : array_like, shape (S,)
        Noise amplitudes σ > 0, strictly rising; Δ = σ².
    scale : {"multiplicative", "isotropic", "filter"}
        Scales s: ``|w|`` (eq. 4); 1 (B.1); or the root mean square of filters, balanced between outputs and inputs (and
        ``|w|`` for biases), which like the first is invariant when ReLU units are rescaled.  Weights with s = 0 stay,
        and n counts the others.
    beta : float, optional
        Cost β > 0 of an error: each w' weighs ``e^{-βE(w')}`` and none is forbidden; Φ is then the canonical quantity,
        with ``log Z + β⟨E⟩`` for log Z in the Legendre transform.  By default w' are counted as in eq. 3.
    n_samples : int
        Sweeps of each chain over its ladder, after a burn-in of a fifth of them; at least 100.  Where the chains
        disagree they go on, each time to twice as many sweeps, of which the first sixth is burn-in.
    n_chains : int
        Independent chains, each with a state at every temperature; at least 2.
    seed : int or SeedSequence, optional
        Results are a function of it, and at σ number i of the grid of the stream (seed, i); how many passes are made
        together changes the order of sums only.  The CPU and CUDA draw different numbers.  None takes fresh entropy.
    device : str or torch.device, optional
    forward : callable, optional
    loss : callable, optional
        With `loss` and no `error`, a smooth loss takes the place of the errors: E is ``n (L(w') − L(w))`` with n the
        number of patterns (the total weight of what the loss gives for them), a `beta` is needed, and
        ``log Z = log ⟨e^{−nβ(L − L₀)}⟩``.  The result then holds the learning coefficient ``λ̂(β) = nβ (⟨L⟩_β − L₀)``.
    error : callable, optional
        ``error(outputs, batch)`` gives what is counted, at least 0; see `bpflat.flatness.local_energy`.
    parameters : None, "weights", list of str, or callable, optional
    batch_norm : {"frozen", "recompute"}
    batch_size, block_size : int, optional
        Smaller batches are left sooner by states that are rejected.
    resident : bool, optional
    precision : {None, "float32", "tf32", "bfloat16", "float16"}
    together : int, optional
        States whose passes are made together, by torch.func.vmap; 1: one after the other.  By default up to 128 of
        small models, as far as they take no more than 64 MiB, where vmap knows all that the model does; else 1.
    max_temperatures : int
        Longest ladder.
    max_passes : int
        Passes over all patterns, at each σ, about, that `n_samples` are not raised beyond; those asked for are made
        anyhow, and 0 makes no others.
    betas : array_like, shape (B,), optional
        Inverse temperatures β ≥ 0, rising, of the cumulant generating function in `LocalEntropyCurve.cumulants`.
        Default: 0 and 24 geometric ones, from 1e-4 β to β, or to 10.
    progress : bool
        Show a bar over the sweeps on stderr.

    Returns
    -------
    LocalEntropyCurve
        A point that did not converge is NaN, with ``converged`` False and the reason in ``message``; the others stand.

    Raises
    ------
    ValueError
        What `bpflat.flatness.local_energy` refuses; σ that is not positive; nothing to perturb, all scales being 0; an
        `error` or a model that does not repeat itself; a loss without β, or one that is not finite at w; `together` for
        a model that vmap cannot handle.
    MemoryError
        When the device has no room for the model and one pattern.

    Warns
    -----
    UserWarning
        Some of the parameters to perturb are not used by the model.

    Notes
    -----
    Samples of the prior (β = 0) come first.  Where at least a twentieth of them makes no more errors than w, they are
    counted.  Else the run makes itself a ladder of β, each measured by a run that ends when it has settled, up to where
    such states are common; chains with a state at each β take elliptical slice steps and exchange neighbours, and the
    stepping stones and ``P(E ≤ E₀) = Z(β) ⟨1[E ≤ E₀] e^{βE}⟩_β`` give log Z.  An ellipse costs as many passes as it
    tries angles.  Where angles are so small that the n weights together move less than one would on its own, half of
    the steps are along the difference of two states of the chain, at other β.  Errors only add up, so that a pass is
    left, exactly, as soon as its state has made more of them than its slice allows; patterns that the noise often turns
    come first.  Losses may be negative: their passes are whole.

    Standard errors hold autocorrelations (Geyer); a point converged if the ladder arrived and no R-hat reaches 1.05.

    Memory beyond data and activations: ``n_chains·T + 2 G + 4`` numbers of 4 bytes (8 if one is of float64) for each
    perturbed parameter, T being the temperatures and G = `together`, and G/2 more where G > 1; the copy of the model is
    counted.  The data once more, for their order.

    References
    ----------
    I. Murray, R. P. Adams and D. J. C. MacKay, Elliptical slice sampling, AISTATS 2010; A. Gelman and D. B. Rubin,
    Statistical Science 7, 457 (1992); C. J. Geyer, Statistical Science 7, 473 (1992); S. Watanabe, A widely applicable
    Bayesian information criterion, JMLR 14, 867 (2013); for the filters H. Li et al., Visualizing the loss landscape of
    neural nets, NeurIPS 2018, and R. Sinkhorn, Ann. Math. Statist. 35, 876 (1964).

    Examples
    --------
    >>> import torch
    >>> from bpflat.flatness import local_entropy
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(20, 3)
    >>> inputs = torch.randn(200, 20)
    >>> data = inputs, model(inputs).argmax(1)
    >>> curve = local_entropy(model, data, [0.001, 0.01], n_samples=200, seed=0)
    >>> bool(curve.log_z[0] <= 0)
    True
    """
    sigmas = check_grid("sigmas", sigmas)
    check_choice("scale", scale, SCALES)
    progress = check_flag("progress", progress)
    beta = None if beta is None else check_scalar("beta", beta, above=0)
    n_samples = check_count("n_samples", n_samples, at_least=100, at_most=10**7, why="kept, for a standard error")
    n_chains = check_count("n_chains", n_chains, at_least=2, at_most=1000, why="to compare them")
    together = None if together is None else check_count("together", together, at_most=10**6)
    max_temperatures = check_count("max_temperatures", max_temperatures, at_least=2, at_most=10**4)
    max_passes = check_count("max_passes", max_passes, at_least=0, at_most=10**15)
    grid = _check_betas(betas, beta)
    objective = Objective(forward, loss, error)
    if beta is None and not objective.has_error:
        raise ValueError("beta must be given with a loss and no error: of a smooth loss there is nothing to count")
    model = unwrap(model)
    chosen = choose(model, parameters)
    where = check_device(next(iter(chosen.values())).device if device is None else device)
    seed = check_seed(seed)
    evaluation, copies = prepare(
        model,
        chosen,
        data,
        where,
        objective,
        seed=seed,
        batch_size=batch_size,
        block_size=block_size,
        batch_norm=batch_norm,
        resident=resident,
        precision=precision,
    )
    perturbation = Perturbation(chosen.values(), copies, stream(seed, NOISE))
    with torch.random.fork_rng([where] if where.type == "cuda" else []):  # a model that draws is refused
        perturbation.set(0.0)
        n_wrong, total_loss = evaluation.totals(check=True).tolist()
        if not objective.has_error and not math.isfinite(total_loss):
            raise ValueError("loss of the model is infinite, without any noise")
        check_model(evaluation, perturbation, chosen)
    scales = scales_of(perturbation.w, scale)
    if not any(part.any() for part in scales):
        raise ValueError(f"scale {scale!r} leaves all parameters as they are: all of them are 0; set scale='isotropic'")
    passes = Passes(
        evaluation,
        perturbation.w,
        scales,
        dict(zip(chosen, copies, strict=True)),
        n_wrong if objective.has_error else total_loss,
        together,
    )
    del perturbation, scales
    run = _Run(passes, beta, grid, n_samples, n_chains, max_temperatures, max_passes)
    with tqdm(total=len(sigmas) * run.n_sweeps, desc="Φ", unit="sweep", disable=not progress) as bar:
        points = [run.at(sigma, stream(seed, _CHAINS, s), bar) for s, sigma in enumerate(sigmas.tolist())]
    n_patterns = evaluation.scores.shape[1] * evaluation.mean_weight[0].item()
    return LocalEntropyCurve(
        **_columns(points, of_loss=not objective.has_error),
        train_error=n_wrong / n_patterns if objective.has_error else math.nan,
        method="mcmc",
        reference=fingerprint(model),
        sigma=sigmas,
        scale=scale,
        n_weights=passes.n_weights,
        node="",
        betas=grid,
        provenance=Provenance.here(),
    )


def _check_betas(betas: ArrayLike | None, beta: float | None) -> _Floats:
    if betas is not None:
        return check_grid("betas", betas, zero=True)
    return np.concatenate([[0.0], (10.0 if beta is None else beta) * np.geomspace(1e-4, 1.0, 24)])


@dataclass(frozen=True)
class _Measured:
    """What is known of one σ."""

    point: Point
    ess: float
    n_temperatures: int
    swap_rate: float
    passes: float
    message: str
    learning_coefficient: float
    learning_coefficient_error: float
    cumulants: _Floats  # (4, B)


@dataclass(frozen=True)
class _Run:
    """How the points of a curve are measured."""

    passes: Passes
    beta: float | None
    grid: _Floats  # of the cumulants
    n_samples: int
    n_chains: int
    longest: int
    max_passes: int

    @property
    def n_sweeps(self) -> int:
        return self.n_samples + self.n_samples // 5  # burn-in

    def at(self, sigma: float, seed: np.random.SeedSequence, bar: tqdm[Any]) -> _Measured:
        """Make a ladder for one σ and sample along it."""
        passes, n_patterns = self.passes, self.passes.evaluation.scores.shape[1]
        passes.sigma, passes.seen = sigma, 0
        ensemble = Ensemble(passes, self.n_chains, seed)
        passes.sort_patterns(ensemble.samples(_SORTED_BY))
        betas, reached = tempering.ladder(
            ensemble,
            passes.allowed,
            self.beta,
            max(25, self.n_samples // 20),
            self.longest,
            independent=True,
            runs=_LADDER_RUNS,
        )
        bar.set_postfix(sigma=f"{sigma:.3g}", temperatures=len(betas))
        if not reached:
            bar.update(self.n_sweeps)
            return self._out_of_reach(sigma, betas, ensemble.u, passes.seen / n_patterns)
        ensemble.progress = bar.update
        energies, norms, rhats = self._sample(ensemble, betas, bar)
        rhat = float(rhats.max())
        point, estimate = point_of_samples(
            energies,
            norms,
            betas,
            passes.allowed,
            self.beta,
            delta=sigma**2,
            n_weights=passes.n_weights,
            n_sampled=passes.n_weights,
            reached=reached,
            rhat=rhat,
        )
        error = tempering.standard_error(estimate.log_z_influence)
        nb = self.beta or 0.0
        return _Measured(
            point=point,
            ess=float(estimate.log_z_influence.var()) / error**2 if error else float(norms.size),
            n_temperatures=len(betas),
            swap_rate=float(ensemble.swaps.min()) if len(ensemble.swaps) else math.nan,
            passes=passes.seen / n_patterns,
            message="" if point.converged else _disagreement(rhat, norms.shape[1], self.max_passes),
            learning_coefficient=nb * estimate.energy,
            learning_coefficient_error=nb * tempering.standard_error(estimate.energy_influence),
            cumulants=tempering.cumulants(energies, betas, self.grid, rhats),
        )

    def _sample(self, ensemble: Ensemble, betas: _Floats, bar: tqdm[Any]) -> tuple[_Floats, _Floats, _Floats]:
        """Energies, norms and R-hat: of as many sweeps as are asked for, and of more while the chains disagree."""
        if len(betas) == 1:  # independent samples, which need no burn-in
            bar.update(self.n_sweeps - self.n_samples)
            energies, norms = ensemble.run(betas, self.n_samples)
            return energies, norms, tempering.rhat(energies)
        n_patterns = self.passes.evaluation.scores.shape[1]
        before, (energies, norms) = self.passes.seen, ensemble.run(betas, self.n_sweeps)
        while True:
            n_sweeps = norms.shape[1]
            kept = slice(n_sweeps // 6, None)
            rhats = tempering.rhat(tempering.observables(energies[:, kept], betas))
            more = self.passes.seen - before  # that as many sweeps again will take
            if rhats.max() < tempering.RHAT or (self.passes.seen + more) / n_patterns > self.max_passes:
                return energies[:, kept], norms[:, kept], rhats
            bar.total += n_sweeps
            further = ensemble.run(betas, n_sweeps)
            energies, norms = (np.concatenate(parts, axis=1) for parts in zip((energies, norms), further, strict=True))

    def _out_of_reach(self, sigma: float, betas: _Floats, energies: _Floats, spent: float) -> _Measured:
        """The point of a ladder that does not arrive."""
        mean = energies[:, -1].mean()
        end = f"after {len(betas)} inverse temperatures, at β = {betas[-1]:.3g} and a mean of {mean:.3g}"
        goal = "states with no more errors than the model" if self.beta is None else f"β = {self.beta:.3g}"
        point = Point(sigma**2, math.nan, math.nan, False, 0, math.nan, (), self.beta or math.inf)
        message = f"the ladder ends {end} errors, before {goal}: take a smaller σ, or raise max_temperatures"
        nothing = np.full((4, len(self.grid)), np.nan)
        return _Measured(point, math.nan, len(betas), math.nan, spent, message, math.nan, math.nan, nothing)


def _disagreement(rhat: float, n_samples: int, max_passes: int) -> str:
    """What to do about chains that disagree: the variance between them falls as the inverse of the samples."""
    needed = n_samples * (rhat**2 - 1) / (tempering.RHAT**2 - 1)
    return (
        f"the chains disagree (R-hat {rhat:.3f} after {n_samples:,} samples; it takes some {needed:,.0f} or more): "
        f"raise n_samples, or max_passes beyond {max_passes:,}"
    )


def _columns(points: list[_Measured], *, of_loss: bool) -> dict[str, NDArray[Any]]:
    """Fields of the result that have an entry for each σ."""

    def of_points(name: str) -> _Floats:
        return np.array([getattr(p.point, name) if p.point.converged else np.nan for p in points])

    def of_measured(name: str) -> NDArray[Any]:
        return np.array([getattr(p, name) for p in points])

    columns: dict[str, NDArray[Any]] = {
        name: of_points(name) for name in ("distance", "log_z", "phi", "std_error", "beta")
    }
    columns |= {name: of_measured(name) for name in ("ess", "n_temperatures", "swap_rate", "passes", "message")}
    if of_loss:
        converged = np.array([p.point.converged for p in points])
        for name in ("learning_coefficient", "learning_coefficient_error"):
            columns[name] = np.where(converged, of_measured(name), np.nan)
    names = ("log_mean_exp", "log_mean_exp_error", "mean_errors", "mean_errors_error")
    cumulants = np.array([p.cumulants for p in points]).swapaxes(0, 1)  # (4, S, B)
    columns |= dict(zip(names, cumulants, strict=True))
    return columns | {
        "delta": np.array([p.point.delta for p in points]),
        "converged": np.array([p.point.converged for p in points]),
        "n_iter": np.array([p.point.n_iter for p in points]),
        "rhat": np.array([p.point.residual + 1 for p in points]),
    }
