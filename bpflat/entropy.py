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

from bpflat.arguments import check_device, check_grid, check_problem, spawn_streams
from bpflat.bp import Point, make_nodes, solve_edges, solve_nodes
from bpflat.committee import fingerprint, preactivations, vote
from bpflat.continuation import STRIDE, along_deltas, along_distances, run, run_together
from bpflat.ep import solve_ep
from bpflat.mcmc import sample_log_z
from bpflat.storage import load_result, save_result

METHODS = ("bp", "bp-edge", "ep", "mcmc")
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
        Cost of an error; infinite where the reference makes none, 0 where the prior alone makes no more than it.
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

    def save(self, path: str | os.PathLike) -> None:
        """Write the curve to `path` (.npz), atomically; raises OSError where it cannot be written."""
        save_result(path, "local-entropy", self)

    @classmethod
    def load(cls, path: str | os.PathLike) -> LocalEntropyCurve:
        """Read what `save` wrote; raises ValueError where the file is damaged or of another kind."""
        return load_result(path, "local-entropy", cls)

    def plot(self, ax=None, **style):
        """Draw Φ_LE against d, a line a reference, on matplotlib axes (new ones by default); returns the axes."""
        if ax is None:
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

    The log fraction, per weight, of the sphere at distance d around w that makes no more training errors than w.
    One of the methods gives ``log Z(w, Δ)`` with a Gaussian prior N(w, Δ) on the weights (B.1 of the paper), point
    after point along Δ; a Legendre transform gives Φ at ``d(Δ)``.

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
        Carlo, slow, and right within its standard error.
    beta : float, optional
        Cost β of a training error, where factors ``e^{-β} + (1 - e^{-β}) 1[right]`` replace the hard ones.  By default
        infinite for references without errors; else balanced at every Δ so that the mean number of errors is the
        reference's.
    seed : int, optional
        For "mcmc": point i of reference r always draws from the same stream, whatever else is asked for.
    tolerance : float
        Of the fixed point (see `bpflat.bp.solve_nodes`); Φ is then good to about its square.
    n_samples, n_chains : int
        For "mcmc": sweeps of a chain and number of chains (see `bpflat.mcmc.sample_log_z`).
    n_jobs : int
        Worker processes over the references, as in joblib (-1: one a core), but not on a GPU; for "mcmc" with one
        reference, over its chains.  Results agree to rounding.
    device : str, optional
        For "bp" and "ep": solve references together through torch, on "cuda" or "cpu" (see `bpflat.batch`); the
        results are the same to the square of `tolerance`.  For tens of references and more.
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
        without weights, Δ or d that are not positive and rising or both of them, an unknown method, β ≤ 0, errors
        and β with "bp-edge", a device that is not there, or one for a method that does not use it.

    References
    ----------
    Pittorino et al., Entropic gradient descent algorithms and wide flat minima, ICLR 2021, eq. 3 and Appendix B.1.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(map(repr, METHODS))}")
    if deltas is not None and distances is not None:
        raise ValueError("deltas and distances are both given; give the one at which Φ is wanted")
    if beta is not None and not beta > 0:
        raise ValueError(f"beta must be positive (what an error costs), not {beta}")
    if beta is not None and method == "bp-edge":
        raise ValueError("beta needs another method; messages on edges know hard patterns only")
    if n_samples < 100 or n_chains < 2:
        raise ValueError(
            "n_samples must be at least 100 and n_chains at least 2, for a standard error; "
            f"they are {n_samples} and {n_chains}"
        )
    if device is not None:
        if method not in ("bp", "ep"):
            raise ValueError(f"device is for the methods 'bp' and 'ep', not {method!r}; leave it out")
        found = check_device(device)
        if found.type not in ("cpu", "cuda"):
            raise ValueError(f"device must be a CPU or a CUDA GPU, for double precision, not {device!r}")
        device = str(found)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {tolerance}")
    weights, patterns, labels = check_problem(weights, patterns, labels)
    if not patterns.any(axis=1).all():
        raise ValueError("patterns hold one of zeros only: no weights can change its answer; leave it out")
    norms = np.linalg.norm(weights, axis=-1, keepdims=True)
    if not (norms > 0).all():
        raise ValueError("weights have a hidden unit whose weights are all zero: it has no direction to start from")
    references = (weights * (np.sqrt(weights.shape[-1]) / norms)).reshape(-1, *weights.shape[-2:])
    errors = np.mean(vote(preactivations(references, patterns)) != labels, axis=-1)
    if errors.any() and method == "bp-edge":
        raise ValueError(
            f"weights: {np.count_nonzero(errors)} of {len(errors)} references make training errors (the first: "
            f"{np.flatnonzero(errors)[0]}), which messages on edges cannot allow; use another method"
        )
    if distances is not None:
        grid, follow = check_grid("distances", distances), along_distances
    else:
        grid = check_grid("deltas", np.geomspace(1e-3, 4, 12) if deltas is None else deltas)
        follow = along_deltas
    options = {"method": method, "tolerance": tolerance, "beta": beta}
    if device is None:
        options |= {"n_samples": n_samples, "n_chains": n_chains, "seed": seed}
        curves = _curves_apart(references, patterns, labels, grid, follow, n_jobs=n_jobs, **options)
    else:
        n_errors = np.rint(errors * len(labels)).astype(np.int64)
        options |= {"n_errors": n_errors, "device": device}
        curves = _curves_together(references, patterns, labels, grid, follow, n_jobs=n_jobs, **options)
    bar = tqdm(curves, total=len(references), desc=f"Φ by {method}", unit="reference", disable=not progress)
    points = list(bar)
    shape = (*weights.shape[:-2], len(grid))

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
        train_error=float(errors[0]) if weights.ndim == 2 else errors,
        method=method,
        beta=if_converged("beta"),
        reference=fingerprint(weights) if weights.ndim == 2 else np.array([fingerprint(w) for w in weights]),
    )


def _curves_apart(references, patterns, labels, grid, follow, *, seed, n_jobs, **options) -> Iterator[list[Point]]:
    """All points of each of the references (R, K, N), over processes."""
    inner, outer = (n_jobs, 1) if len(references) == 1 else (1, n_jobs)
    with parallel_config("loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=outer, return_as="generator")(
            delayed(_curve)(w, patterns, labels, grid, follow, seed=stream, n_jobs=inner, **options)
            for w, stream in zip(references, spawn_streams(seed, len(references)), strict=True)
        )


def _curve(
    weights, patterns, labels, grid, follow, *, method, tolerance, beta, n_samples, n_chains, seed, n_jobs
) -> list[Point]:
    """All points of one reference (K, N)."""
    if method == "bp-edge":
        # finest = STRIDE: what failed was too slow, and would be again
        return run(follow(grid, finest=STRIDE), partial(solve_edges, weights, patterns, labels, tolerance=tolerance))
    nodes = make_nodes(weights, patterns)
    options = {"n_errors": np.count_nonzero(vote(nodes.hidden) != labels), "beta": beta}
    pre_activations = nodes.hidden, nodes.gram, labels, nodes.n_inputs
    if method == "bp":
        solve = partial(solve_nodes, nodes, labels, tolerance=tolerance, **options)
    else:
        solve = partial(solve_ep, *pre_activations, tolerance=tolerance, **options)
    if method == "mcmc":  # no chain can be steered to a distance: expectation propagation finds the Δ
        deltas = grid if follow is along_deltas else [p.delta for p in run(follow(grid), solve)]
        options |= {"n_samples": n_samples, "n_chains": n_chains, "n_jobs": n_jobs}
        streams = spawn_streams(seed, len(deltas))
        return [sample_log_z(*pre_activations, d, seed=s, **options) for d, s in zip(deltas, streams, strict=True)]
    return run(follow(grid), solve)


def _curves_together(
    references, patterns, labels, grid, follow, *, n_errors, device, n_jobs, **options
) -> Iterator[list[Point]]:
    """All points of each of the references (R, K, N), in families that fit the device, on a CPU over processes."""
    most = max(1, _room(device) // _bytes_of(options["method"], references.shape[1], len(patterns)))
    n_jobs = effective_n_jobs(n_jobs) if device == "cpu" else 1
    n_parts = max(n_jobs, -(-len(references) // (most // n_jobs or 1)))
    parts = [part for part in np.array_split(np.arange(len(references)), n_parts) if len(part)]
    with parallel_config("loky", inner_max_num_threads=1):
        families = Parallel(n_jobs=n_jobs, return_as="generator")(
            delayed(_family)(
                references[part], patterns, labels, grid, follow, n_errors=n_errors[part], device=device, **options
            )
            for part in parts
        )
        for curves in families:
            yield from curves


def _family(
    references, patterns, labels, grid, follow, *, method, tolerance, beta, n_errors, device
) -> list[list[Point]]:
    """All points of R references (R, K, N) that are solved together."""
    import torch

    from bpflat.batch import make_family, solve_family

    family = make_family(method, references, patterns, labels, n_errors=n_errors, beta=beta, device=device)

    def solve(rows, deltas, starts):
        return solve_family(family.take(torch.tensor(rows, device=device)), deltas, starts, tolerance=tolerance)

    return run_together([follow(grid) for _ in references], solve)


def _room(device: str) -> int:
    """Bytes that references which are solved together may take on a device."""
    import torch

    return torch.cuda.mem_get_info(device)[0] // 2 if device.startswith("cuda") else _CPU_BYTES


def _bytes_of(method: str, n_hidden: int, n_patterns: int) -> int:
    """About the most that one reference takes: matrices (K, P, P), and a Krylov space and its like."""
    return n_hidden * n_patterns * ({"bp": 12, "ep": 80}[method] * n_patterns + 1500)
