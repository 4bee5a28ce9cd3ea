"""The normalised local entropy Φ_LE(w, d) (eq. 3) of committee machines: curves along Δ or d, one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from bpflat.arguments import (
    check_axes,
    check_choice,
    check_count,
    check_device,
    check_flag,
    check_grid,
    check_jobs,
    check_problem,
    spawn_streams,
)
from bpflat.bp import DELTAS, check_beta, check_tolerance
from bpflat.committee import fingerprint
from bpflat.estimators import edge_bp, ep, monte_carlo, node_bp
from bpflat.estimators.continuation import STRIDE, along_deltas, along_distances, run, run_together
from bpflat.estimators.point import Point
from bpflat.estimators.problem import Problem
from bpflat.storage import load_result, save_result

METHODS = ("bp", "bp-edge", "ep", "mcmc")
_FIXED_POINTS = {"bp": node_bp, "ep": ep}
_CPU_BYTES = 2 << 30  # most that references that are solved together take


@dataclass(frozen=True)
class LocalEntropyCurve:
    """Local entropy around one reference or R of them, one entry a point.

    Arrays have shape (D,) for one reference of shape (K, N) and (R, D) for references (R, K, N).

    Attributes
    ----------
    delta : ndarray
        Variance Δ of the Gaussian prior around the reference.
    distance : ndarray
        ``d = |w' - w|²/(2KN)`` of the typical solution at that Δ; NaN where not converged.
    log_z : ndarray
        ``log Z(w, Δ)/(KN)``, nats per weight; NaN where not converged.
    phi : ndarray
        ``Φ_LE(w, d) ≤ 0``, nats per weight; NaN where not converged.
    std_error : ndarray
        Standard error of `phi`; NaN for methods that do not sample.
    converged : ndarray of bool
    n_iter : ndarray of int
        Sweeps over all messages that the point took.
    train_error : float or ndarray of shape (R,)
        Fraction of training errors of the reference itself.
    method : str
    beta : ndarray
        Cost β of an error, where one was given; else infinite: more errors than the reference's are forbidden.
    reference : str or ndarray of str, shape (R,)
        `bpflat.committee.fingerprint` of the weights as given.
    """

    delta: NDArray[np.float64]
    distance: NDArray[np.float64]
    log_z: NDArray[np.float64]
    phi: NDArray[np.float64]
    std_error: NDArray[np.float64]
    converged: NDArray[np.bool_]
    n_iter: NDArray[np.int64]
    train_error: float | NDArray[np.float64]
    method: str
    beta: NDArray[np.float64]
    reference: str | NDArray[np.str_] = ""

    @property
    def measure(self) -> str:
        """Whose log fraction Φ is.

        "count": of all w' that make no more errors than w (eq. 3).  "cost": the canonical quantity, in which w' weighs
        ``e^{-β (E(w') - ⟨E⟩)}``, for a β that was given, or in files of version 0.1 balanced so that ⟨E⟩ is E(w).
        """
        return "cost" if np.isfinite(self.beta).any() else "count"

    def save(self, path: str | os.PathLike) -> None:
        """Write the curve to `path` (.npz), atomically; raises OSError where it cannot be written."""
        save_result(path, "local-entropy", self)

    @classmethod
    def load(cls, path: str | os.PathLike) -> LocalEntropyCurve:
        """Read what `save` wrote; raises ValueError where the file is damaged or of another kind."""
        return load_result(path, "local-entropy", cls)

    def plot(self, ax=None, **style):
        """Draw Φ_LE against d, a line a reference, on matplotlib axes (new ones by default); returns the axes."""
        if check_axes(ax) is None:
            import matplotlib.pyplot as plt

            ax = plt.figure().add_subplot()
        for distance, phi, error in zip(*map(np.atleast_2d, (self.distance, self.phi, self.std_error)), strict=True):
            if np.isnan(error).all():
                ax.plot(distance, phi, **style)
            else:
                ax.errorbar(distance, phi, error, **style)
        ax.set(xlabel=r"squared distance $d$", ylabel=r"local entropy $\Phi_{\mathrm{LE}}$ (nats per weight)")
        return ax


def local_entropy(
    weights: ArrayLike,
    patterns: ArrayLike,
    labels: ArrayLike,
    deltas: ArrayLike | None = None,
    *,
    distances: ArrayLike | None = None,
    method: str = "bp",
    beta: float | None = None,
    seed: int | None = None,
    tolerance: float = 1e-9,
    n_samples: int = 4000,
    n_chains: int = 4,
    n_jobs: int = 1,
    device: str | None = None,
    progress: bool = False,
) -> LocalEntropyCurve:
    """Measure the normalised local entropy Φ_LE(w, d) (eq. 3).

    The log fraction, per weight, of the weights at distance d from w that make no more training errors than w.
    One of the methods gives ``log Z(w, Δ) = log P(E(w') ≤ E(w))`` under a Gaussian prior N(w, Δ) (B.1 of the paper),
    point after point along Δ; a Legendre transform gives Φ at the distance ``d(Δ)`` of a typical such w'.

    Parameters
    ----------
    weights : array_like, shape (K, N) or (R, K, N)
        One reference or R of them, K odd.  Rows are rescaled to ``|w_k|² = N``: their scale does not matter.
    patterns : array_like, shape (P, N)
        Inputs; ±1 makes "bp" fastest, any real numbers are allowed.
    labels : array_like, shape (P,)
        ±1.
    deltas : array_like, shape (D,), optional
        Prior variances Δ > 0, increasing.  Default: 12 points, geometric from 1e-3 to 4.
    distances : array_like, shape (D,), optional
        Distances d > 0, increasing, at which Φ is wanted instead (then Δ is found to 1e-10).
    method : {"bp", "bp-edge", "ep", "mcmc"}
        Belief propagation by its node form (fast) or by plain messages on edges (for comparison); expectation
        propagation with full covariances, slower, and closer where the inputs are correlated, as pixels are; Monte
        Carlo, slow, with standard errors.
    beta : float, optional
        Cost β of a training error: each w' weighs ``e^{-β E(w')}`` and none is forbidden.  Φ is then the canonical
        quantity, with ``log Z + β⟨E⟩`` for log Z in the Legendre transform.  By default w' are counted as in eq. 3.
    seed : int, optional
        For "mcmc": point i of reference r always draws from the same stream, whatever else is asked for.
    tolerance : float
        Of the fixed point (see `bpflat.bp.solve_nodes`), at most 1e-3: Φ is good to about its square.
    n_samples, n_chains : int
        For "mcmc": sweeps of a chain and number of chains (see `bpflat.estimators.monte_carlo`).
    n_jobs : int
        Worker processes over the references, as in joblib (-1: one a core), but not on a GPU; for "mcmc" with one
        reference, over its chains.  Results agree to rounding.
    device : str, optional
        For "bp" and "ep": solve references together through torch, on "cuda" or "cpu"; the results are the same to
        the square of `tolerance`.  For tens of references and more.
    progress : bool
        Show a bar over the references on stderr.

    Returns
    -------
    LocalEntropyCurve
        A point that did not converge is NaN, with ``converged`` False; the others stand.  Where the equations of
        the method have several solutions (it happens beyond Δ = 1), it is the one that grows out of the
        reference as Δ grows from 1e-3, whatever grid was asked for.

    Raises
    ------
    ValueError
        Even K, labels other than ±1, shapes that do not match, empty arrays, NaN or infinite entries, a hidden unit
        without weights, a pattern of zeros, Δ or d that do not rise, lie outside 1e-12 to 1e12, or are both given, an
        unknown method, numbers out of bounds, errors and β with "bp-edge", a device that is not there, or one for a
        method that does not use it.

    References
    ----------
    Pittorino et al., Entropic gradient descent algorithms and wide flat minima, ICLR 2021, eq. 3 and Appendix B.1.
    """
    method = check_choice("method", method, METHODS)
    if deltas is not None and distances is not None:
        raise ValueError("deltas and distances are both given; give the one at which Φ is wanted")
    beta, tolerance, n_jobs = check_beta(beta), check_tolerance(tolerance), check_jobs(n_jobs)
    if beta is not None and method == "bp-edge":
        raise ValueError("beta needs another method; messages on edges know hard patterns only")
    n_samples = check_count("n_samples", n_samples, at_least=100, at_most=10**7, why="kept, for a standard error")
    n_chains = check_count("n_chains", n_chains, at_least=2, at_most=1000, why="to compare them")
    device, progress = _check_device(device, method), check_flag("progress", progress)
    weights, patterns, labels = check_problem(weights, patterns, labels, zero_rows=False)
    problem = Problem.of(weights.reshape(-1, *weights.shape[-2:]), patterns, labels, beta=beta)
    n_errors = problem.n_errors
    if np.any(n_errors) and method == "bp-edge":
        raise ValueError(
            f"weights: {np.count_nonzero(n_errors)} of {n_errors.size} references make training errors (the first: "
            f"{np.flatnonzero(n_errors)[0]}), which messages on edges cannot allow; use another method"
        )
    if distances is not None:
        grid, follow = check_grid("distances", distances), along_distances
    else:
        grid = check_grid("deltas", np.geomspace(1e-3, 4, 12) if deltas is None else deltas, between=DELTAS)
        follow = along_deltas
    options = {"method": method, "tolerance": tolerance, "n_jobs": n_jobs}
    if device is None:
        curves = _curves_apart(problem, grid, follow, n_samples=n_samples, n_chains=n_chains, seed=seed, **options)
    else:
        curves = _curves_together(problem, grid, follow, device=device, **options)
    bar = tqdm(curves, total=n_errors.size, desc=f"Φ by {method}", unit="reference", disable=not progress)
    points = list(bar)
    shape, train_error = (*weights.shape[:-2], len(grid)), n_errors / len(labels)

    def collect(value: Callable, dtype=np.float64):
        return np.array([[value(p) for p in curve] for curve in points], dtype=dtype).reshape(shape)

    def if_converged(name: str):
        return collect(lambda p: getattr(p, name) if p.converged else np.nan)

    return LocalEntropyCurve(
        delta=collect(lambda p: p.delta),
        distance=if_converged("distance"),
        log_z=if_converged("log_z"),
        phi=if_converged("phi"),
        std_error=if_converged("std_error"),
        converged=collect(lambda p: p.converged, bool),
        n_iter=collect(lambda p: p.n_iter, np.int64),
        train_error=float(train_error[0]) if weights.ndim == 2 else train_error,
        method=method,
        beta=if_converged("beta"),
        reference=fingerprint(weights) if weights.ndim == 2 else np.array([fingerprint(w) for w in weights]),
    )


def _check_device(device: str | None, method: str) -> str | None:
    """Return the full name of the device, if one is given that the method can use."""
    if device is None:
        return None
    if method not in ("bp", "ep"):
        raise ValueError(f"device is for the methods 'bp' and 'ep', not {method!r}; leave it out")
    checked = check_device(device)
    if checked.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be a CPU or a CUDA GPU, for double precision, not {device!r}")
    return str(checked)


def _curves_apart(problem: Problem, grid, follow, *, seed, n_jobs, **options) -> Iterator[list[Point]]:
    """All points of each of R references, over processes."""
    n_references = len(problem.hidden)
    inner, outer = (n_jobs, 1) if n_references == 1 else (1, n_jobs)
    streams = spawn_streams(seed, n_references)
    with parallel_config("loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=outer, return_as="generator")(
            delayed(_curve)(problem.take(r), grid, follow, seed=stream, n_jobs=inner, **options)
            for r, stream in enumerate(streams)
        )


def _curve(problem: Problem, grid, follow, *, method, tolerance, n_samples, n_chains, seed, n_jobs) -> list[Point]:
    """All points of one reference."""
    if method == "bp-edge":
        # finest = STRIDE: what failed was too slow, and would be again
        return run(follow(grid, finest=STRIDE), partial(edge_bp.solve, problem, tolerance=tolerance))
    if method == "mcmc":  # no chain can be steered to a distance: expectation propagation finds the Δ
        deltas = grid
        if follow is along_distances:
            deltas = [p.delta for p in run(follow(grid), partial(ep.solve, problem, tolerance=tolerance))]
        options = {"n_samples": n_samples, "n_chains": n_chains, "n_jobs": n_jobs}
        streams = spawn_streams(seed, len(deltas))
        return [monte_carlo.solve(problem, d, seed=s, **options) for d, s in zip(deltas, streams, strict=True)]
    return run(follow(grid), partial(_FIXED_POINTS[method].solve, problem, tolerance=tolerance))


def _curves_together(problem: Problem, grid, follow, *, device, n_jobs, **options) -> Iterator[list[Point]]:
    """All points of each of R references, as many together as fit the device, on a CPU over processes."""
    n_references, n_hidden, n_patterns = problem.hidden.shape
    most = max(1, _room(device) // _bytes_of(options["method"], n_hidden, n_patterns))
    n_jobs = effective_n_jobs(n_jobs) if device == "cpu" else 1
    n_parts = max(n_jobs, -(-n_references // (most // n_jobs or 1)))
    parts = [part for part in np.array_split(np.arange(n_references), n_parts) if len(part)]
    with parallel_config("loky", inner_max_num_threads=1):
        groups = Parallel(n_jobs=n_jobs, return_as="generator")(
            delayed(_group)(problem.take(part), grid, follow, device=device, **options) for part in parts
        )
        for curves in groups:
            yield from curves


def _group(problem: Problem, grid, follow, *, method, tolerance, device) -> list[list[Point]]:
    """All points of R references that are solved together."""
    on_device = problem.on(device)

    def solve(rows, deltas, starts):
        members = on_device.take(np.array(rows))
        return _FIXED_POINTS[method].solve_together(members, deltas, starts, tolerance=tolerance)

    return run_together([follow(grid) for _ in problem.hidden], solve)


def _room(device: str) -> int:
    """Bytes that references which are solved together may take on a device."""
    import torch

    return torch.cuda.mem_get_info(device)[0] // 2 if device.startswith("cuda") else _CPU_BYTES


def _bytes_of(method: str, n_hidden: int, n_patterns: int) -> int:
    """About the most that one reference takes: matrices (K, P, P), and a Krylov space and its like."""
    return n_hidden * n_patterns * ({"bp": 12, "ep": 80}[method] * n_patterns + 1500)
