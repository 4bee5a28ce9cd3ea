"""Local entropy around weights ±1, against Hamming distance; and the volume of all solutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from bpflat.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_grid,
    check_jobs,
)
from bpflat.binary.problem import check_binary, check_one_size, check_unanchored
from bpflat.binary.results import BinaryEntropyCurve
from bpflat.bp import check_beta, check_tolerance
from bpflat.committee import fingerprints
from bpflat.estimators import binary, flips, sum_product
from bpflat.estimators.binary import BinaryPoint, odds
from bpflat.estimators.continuation import STRIDE, Path, along_deltas, along_distances, run
from bpflat.estimators.point import Point, columns
from bpflat.estimators.problem import Problem
from bpflat.parallel import over_processes
from bpflat.provenance import Provenance
from bpflat.randomness import spawn_streams

METHODS = ("bp", "bp-edge", "mcmc")
STRONGEST = 13.8  # coupling at which one weight of 1e12 differs from the reference

_Floats = NDArray[np.float64]
_Follow = Callable[..., Path]


def local_entropy(
    weights: ArrayLike,
    patterns: ArrayLike,
    labels: ArrayLike,
    gammas: ArrayLike | None = None,
    *,
    distances: ArrayLike | None = None,
    method: str = "bp",
    beta: float | None = None,
    seed: int | np.random.SeedSequence | None = None,
    tolerance: float = 1e-9,
    n_samples: int = 4000,
    n_chains: int = 4,
    n_jobs: int = 1,
    progress: bool = False,
) -> BinaryEntropyCurve:
    """Local entropy of committee machines with weights ±1 against Hamming distance.

    The log fraction, per weight, of the machines w ∈ {−1, +1}^(KN) at Hamming distance d from w̃ that make no more
    training errors than w̃.  A method gives ``log Z`` under the prior ``Π e^{γ w̃_i w_i}/(2 cosh γ)``, point after point
    as γ falls, and with the overlap ``q = 1 − 2d`` of its typical w

        Φ(d) = log Z/n + log(2 cosh γ) − γ q − H(d)        H(d) = −d log d − (1 − d) log(1 − d)

    which is 0 without patterns.

    Parameters
    ----------
    weights : array_like, shape (K, N) or (R, K, N)
        One reference w̃ or R of them, ±1, K odd.
    patterns : array_like, shape (P, N)
        Inputs; ±1 makes "bp" fastest, any real numbers are allowed but for "bp-edge".
    labels : array_like, shape (P,)
        ±1.
    gammas : array_like, shape (D,), optional
        Couplings γ ≥ 0 to the reference, at most 13.8, increasing; points are in the order of d, which is the reverse.
        Default: those whose prior flips 12 fractions of the weights, geometric from 1e-3 to 1/2.
    distances : array_like, shape (D,), optional
        Hamming distances d from 1e-12 to 1/2, increasing, at which Φ is wanted instead (then γ is found to 1e-10).
    method : {"bp", "bp-edge", "mcmc"}
        Belief propagation in its node form, with pre-activations as Gaussians (fast, good to relative 1/N); the
        sum-product algorithm on edges, which counts them exactly (O(N²) for every pattern and unit; exact on trees);
        Monte Carlo, slow, with standard errors.
    beta : float, optional
        Cost β of a training error: each w weighs ``e^{−β E(w)}`` and none is forbidden.  Φ is then the canonical
        quantity, with ``log Z + β⟨E⟩`` for log Z.
    seed : int or SeedSequence, optional
        Seed of "mcmc": point i of reference r always draws from the same stream, whatever else is asked for.
    tolerance : float
        Largest change of ω/√V and U by one more sweep of "bp", or of a message of "bp-edge"; at most 1e-3.
    n_samples, n_chains : int
        Sweeps of a chain of "mcmc", and number of chains.
    n_jobs : int
        Processes over the references, as in joblib (−1: one per core); for "mcmc" with one reference, over its chains.
    progress : bool
        Show a bar over the references on stderr.

    Returns
    -------
    BinaryEntropyCurve
        A point that did not converge is NaN, with ``converged`` False; the others stand.  So is one where belief
        propagation counts less than one solution: beyond capacity, or between isolated solutions.  Of several solutions
        of its equations it is the one that comes from γ = 0 towards the reference, as far as that goes.

    Raises
    ------
    ValueError
        Weights other than ±1, even K, labels other than ±1, shapes that do not match, NaN or infinite entries, a
        pattern of zeros, γ or d that do not rise, are out of bounds or both given, an unknown method, numbers out of
        bounds; inputs of different sizes, or references with errors, for "bp-edge" without β.

    References
    ----------
    C. Baldassi, A. Ingrosso, C. Lucibello, L. Saglietti and R. Zecchina, Phys. Rev. Lett. 115, 128101 (2015).

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary, committee
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(20, 101)), rng.choice([-1.0, 1.0], size=(3, 101))
    >>> curve = binary.local_entropy(weights, patterns, committee.predict(weights, patterns), distances=[0.05, 0.1])
    >>> curve.phi.shape, bool(curve.phi[1] < curve.phi[0] < 0)
    ((2,), True)
    """
    method = check_choice("method", method, METHODS)
    if gammas is not None and distances is not None:
        raise ValueError("gammas and distances are both given; give the one at which Φ is wanted")
    beta, tolerance, n_jobs = check_beta(beta), check_tolerance(tolerance), check_jobs(n_jobs)
    n_samples = check_count("n_samples", n_samples, at_least=100, at_most=10**7, why="kept, for a standard error")
    n_chains = check_count("n_chains", n_chains, at_least=2, at_most=1000, why="to compare them")
    progress = check_flag("progress", progress)
    weights, patterns, labels = check_binary(weights, patterns, labels)
    problem = Problem.of(weights.reshape(-1, *weights.shape[-2:]), patterns, labels, beta=beta)
    if method == "bp-edge":
        _check_edges(problem)
    if distances is None:
        flips_of = np.geomspace(1e-3, 0.5, 12)
        given = -0.5 * np.log(flips_of / (1 - flips_of))[::-1] if gammas is None else gammas
        grid = odds(check_grid("gammas", given, zero=True, between=(0.0, STRONGEST))[::-1])
        follow: _Follow = along_deltas
    else:
        grid, follow = check_grid("distances", distances, between=(1e-12, 0.5)), along_distances
    n_references = len(problem.hidden)
    inner, outer = (n_jobs, 1) if n_references == 1 else (1, n_jobs)
    options: dict[str, Any] = {"method": method, "tolerance": tolerance, "n_jobs": inner}
    calls = ((problem.take(r), grid, follow, child) for r, child in enumerate(spawn_streams(seed, n_references)))
    curves = over_processes(partial(_curve, n_samples=n_samples, n_chains=n_chains, **options), calls, outer)
    points = list(tqdm(curves, total=n_references, desc=f"Φ by {method}", unit="reference", disable=not progress))
    one, shape = weights.ndim == 2, (*weights.shape[:-2], len(grid))
    return BinaryEntropyCurve(
        gamma=0.0 - 0.5 * np.log([[point.delta for point in curve] for curve in points]).reshape(shape),
        **columns(points, shape),
        train_error=float(problem.n_errors[0] / len(labels)) if one else problem.n_errors / len(labels),
        method=method,
        n_weights=weights.shape[-2] * weights.shape[-1],
        reference=fingerprints(weights),
        provenance=Provenance.here(),
    )


def _check_edges(problem: Problem) -> None:
    """Refuse what the sum-product algorithm cannot do."""
    check_one_size(problem.inputs.patterns, "bp-edge")
    if problem.beta is None and np.any(problem.n_errors):
        raise ValueError(
            f"weights: {np.count_nonzero(problem.n_errors)} of {problem.n_errors.size} references make training "
            "errors, which messages on edges know at a cost beta only; use another method"
        )


def _curve(
    problem: Problem,
    grid: _Floats,
    follow: _Follow,
    seed: np.random.SeedSequence,
    *,
    method: str,
    tolerance: float,
    n_samples: int,
    n_chains: int,
    n_jobs: int,
) -> list[Point]:
    """All points of one reference, along odds or distances."""
    points: list[Point] = []
    if method == "bp-edge":
        points = _from_both_ends(partial(sum_product.solve, problem, tolerance=tolerance), follow, grid, finest=STRIDE)
    elif method == "bp" or follow is along_distances:
        points = _from_both_ends(partial(binary.solve, problem, tolerance=tolerance), follow, grid)
    if method != "mcmc":
        return [point.counted(int(problem.n_weights)) for point in points if isinstance(point, BinaryPoint)]
    # no chain can be steered to a distance: belief propagation finds the coupling
    deltas = [point.delta for point in points] or grid.tolist()
    solve = partial(flips.solve, problem, n_samples=n_samples, n_chains=n_chains, n_jobs=n_jobs)
    return [solve(d, seed=child) for d, child in zip(deltas, spawn_streams(seed, len(deltas)), strict=True)]


def _from_both_ends(solve: Callable[..., Point], follow: _Follow, grid: _Floats, **options: Any) -> list[Point]:
    """Fixed points along a rising grid: from γ = 0 towards the reference, and from there what was not reached.

    Where the reference is isolated there are two.  That which comes from it stays with it alone as γ falls, until it
    jumps; so the other one is taken as far as it goes.
    """
    volume = solve(1.0)
    points = run(follow(grid[::-1], volume if volume.converged else None, **options), solve)[::-1]
    missing = [i for i, point in enumerate(points) if not point.converged]
    for i, point in zip(missing, run(follow(grid[missing], **options), solve), strict=True):
        points[i] = point
    return points


def volume(
    patterns: ArrayLike,
    labels: ArrayLike,
    n_hidden: int = 1,
    *,
    method: str = "bp",
    tolerance: float = 1e-9,
    max_steps: int = 40,
) -> BinaryPoint:
    """Log fraction of all machines with weights ±1 that make no error: log Z without a reference.

    Parameters
    ----------
    patterns : array_like, shape (P, N)
    labels : array_like, shape (P,)
        ±1.
    n_hidden : int
        Hidden units K, odd.
    method : {"bp", "bp-edge"}
        As in `local_entropy`.
    tolerance, max_steps : float, int
        As in `bpflat.bp.solve_nodes`; `max_steps` is of "bp" alone.

    Returns
    -------
    BinaryPoint
        ``log_z`` per weight; ``log_z + log 2`` is the entropy of the solutions.  ``converged`` is False beyond
        capacity.  Hidden units are alike in it: for several it is the solution that does not break their symmetry.

    Raises
    ------
    ValueError
        Bad input as in `local_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary, theory
    >>> rng = np.random.default_rng(0)
    >>> patterns, labels = rng.choice([-1.0, 1.0], (200, 401)), rng.choice([-1.0, 1.0], 200)
    >>> point = binary.volume(patterns, labels)
    >>> bool(abs(point.log_z - theory.volume([200 / 401], weights="binary").phi[0]) < 0.02)
    True
    """
    method = check_choice("method", method, METHODS[:2])
    tolerance, max_steps = check_tolerance(tolerance), check_count("max_steps", max_steps)
    problem = check_unanchored(patterns, labels, n_hidden)
    if method == "bp-edge":
        check_one_size(problem.inputs.patterns, method)
        return sum_product.solve(problem, 1.0, tolerance=tolerance).counted(int(problem.n_weights))
    return binary.solve(problem, 1.0, tolerance=tolerance, max_steps=max_steps).counted(int(problem.n_weights))
