"""The normalised local entropy Φ_LE(w, d) (eq. 3) of committee machines: curves along Δ or d, one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from bpflat.arguments import (
    check_choice,
    check_count,
    check_device,
    check_flag,
    check_grid,
    check_jobs,
    check_patterns,
)
from bpflat.bp import COSTS, DELTAS, check_beta, check_tolerance
from bpflat.estimators import edge_bp, ep, monte_carlo, node_bp
from bpflat.estimators.continuation import FIRST, STRIDE, Path, along_deltas, along_distances, run, run_together
from bpflat.estimators.point import Point, columns
from bpflat.estimators.posterior import Question, finished
from bpflat.estimators.problem import Problem
from bpflat.estimators.tables import OutputNode, majority_vote
from bpflat.parallel import over_processes
from bpflat.posing import pose
from bpflat.posterior import fields_of
from bpflat.provenance import Provenance
from bpflat.randomness import spawn_streams, stream
from bpflat.results import LocalEntropyCurve

METHODS = ("bp", "bp-edge", "ep", "mcmc")
_Floats = NDArray[np.float64]
_Follow = partial[Path]  # a path along the grid, of `bpflat.estimators.continuation`, and where it begins
_FIXED_POINTS: dict[str, Any] = {"bp": node_bp, "ep": ep}
_Curve = tuple[list[Point], NDArray[np.float64] | None]  # points (D,) of one reference, and its cumulants (3, D, B)
_CUMULANTS = 2**31  # key of their streams, beyond those of chains
_CPU_BYTES = 2 << 30  # most that references that are solved together take


def local_entropy(
    weights: ArrayLike | None,
    patterns: ArrayLike,
    labels: ArrayLike,
    deltas: ArrayLike | None = None,
    *,
    distances: ArrayLike | None = None,
    n_hidden: int | None = None,
    node: OutputNode | None = None,
    check: bool = True,
    method: str = "bp",
    beta: float | None = None,
    betas: ArrayLike | None = None,
    prior_scale: str | ArrayLike | None = None,
    predict_at: ArrayLike | None = None,
    marginals: bool = False,
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
    weights : array_like, shape (K, N) or (R, K, N), or None
        One reference or R of them, K odd unless a `node` allows it to be even.  Rows are rescaled to ``|w_k|² = N``:
        their scale does not matter.  None for no reference: the volume of all solutions under N(0, Δ), with no error
        allowed (see Notes).
    patterns : array_like, shape (P, N)
        Inputs; ±1 makes "bp" fastest, any real numbers are allowed.
    labels : array_like, shape (P,)
        ±1.
    deltas : array_like, shape (D,), optional
        Prior variances Δ > 0, increasing.  Default: 12 points, geometric from 1e-3 to 4.
    distances : array_like, shape (D,), optional
        Distances d > 0, increasing, at which Φ is wanted instead (then Δ is found to 1e-10).
    n_hidden : int, optional
        K, where `weights` are None.
    node : OutputNode, optional
        What is asked of each pattern (see `bpflat.nodes`): by default that the majority of the hidden units agrees with
        the label.  Errors, of w and w', are the patterns that it calls wrong.  A node that weighs patterns allows none,
        and Φ is the log of the mean of all factors, per weight, at a distance d.
    check : bool
        Compare the parts of a node of your own with one another at entry (see `bpflat.nodes.check_node`).
    method : {"bp", "bp-edge", "ep", "mcmc"}
        Belief propagation by its node form (fast) or by plain messages on edges (for comparison); expectation
        propagation with full covariances, slower, and closer where the inputs are correlated, as pixels are; Monte
        Carlo, slow, with standard errors.
    beta : float, optional
        Cost β of a training error: each w' weighs ``e^{-β E(w')}`` and none is forbidden.  Φ is then the canonical
        quantity, with ``log Z + β⟨E⟩`` for log Z in the Legendre transform.  By default w' are counted as in eq. 3.
    betas : array_like, shape (B,), optional
        Costs from 0 to 1e6, rising, at which `LocalEntropyCurve.cumulants` gives ``log ⟨e^{-βE}⟩``, the cumulant
        generating function of the number of errors under the prior.  Each takes "bp" and "ep" as long as the curve;
        "mcmc" takes about twice as long for all of them.
    prior_scale : array_like, shape (K, N) or that of weights, or "multiplicative", optional
        Scales s ≥ 0 of the prior, ``w' = w + √Δ s⊙z`` with z standard normal, in the units of weights as given;
        "multiplicative" is ``s = |w|``, the noise of eq. 4 with σ = √Δ.  By default s is the root mean square of the
        weights of a hidden unit, ``|w_k|/√N``: the prior N(w, Δ) of rows with norm √N.  Weights with s = 0 stay.
    predict_at : array_like, shape (Q, N), optional
        New patterns on which the w' that Φ counts are to vote, for `LocalEntropyCurve.predict` and `.test_error`.  The
        curve holds Q numbers per point for it, by "mcmc" as many again for each chain.
    marginals : bool
        Whether to hold means and variances of these w' too: 2KN numbers per point, by "mcmc" 4KN.  Either of the
        two adds their overlaps.
    seed : int, optional
        Seed of "mcmc": point i of reference r always draws from the same stream, whatever else is asked for.
    tolerance : float
        Tolerance of the fixed point (see `bpflat.bp.solve_nodes`), at most 1e-3: Φ is good to about its square.
    n_samples, n_chains : int
        Sweeps of a chain of "mcmc", and number of chains (see `bpflat.estimators.monte_carlo`).
    n_jobs : int
        Worker processes over the references, as in joblib (-1: one per core), but not on a GPU; for "mcmc" with one
        reference, over its chains.  Results agree to rounding.
    device : str, optional
        Solve references of "bp" and "ep" together through torch, on "cuda" or "cpu"; the results are the same to
        the square of `tolerance`.  For tens of references and more.
    progress : bool
        Show a bar over the references on stderr.

    Returns
    -------
    LocalEntropyCurve
        A point that did not converge is NaN, with ``converged`` False; the others stand.  Where the equations of
        the method have several solutions (it happens beyond Δ = 1), it is the one that grows out of the
        reference as Δ grows from 1e-3, whatever grid was asked for.

    Notes
    -----
    With scales s, ``d = ⟨Σ (w' - w)²/s²⟩/(2n)`` is the squared distance in units of them, and n, in d and in all that
    is per weight, the number of weights with s > 0.  The answers of a hidden unit depend on the direction of its
    weights alone: rows of weights and of s times any positive numbers together, the same w' are counted, and Φ, d and
    log Z stay what they are.  Multiplicative scales go along by themselves.  Scales make "bp" on patterns of ±1 as slow
    as on others, and cost a matrix (P, P) for each hidden unit.

    Without a reference, ``log Z = log P(E(w') = 0)`` of ``w' ~ N(0, Δ)`` is the log volume fraction of the solutions
    (Gardner's volume, per weight), and ``d = ⟨Σ w'²⟩/(2n)`` half their mean square: Φ(d) is the log fraction of the
    sphere ``|w'|² = 2nd`` that they take.  Answers do not depend on the norm of w', so that log Z is the same at any Δ,
    d is Δ/2, and Φ is log Z; one Δ is enough.  Hidden units may then trade places, which correlates them: "bp" and "ep"
    are good for K = 1, and off by some per cent for K > 1.

    Raises
    ------
    ValueError
        Even K without a node for it, labels other than ±1, shapes that do not match, empty arrays, NaN or infinite
        entries, a hidden unit without weights, weights beside `n_hidden` or neither, a pattern of zeros, Δ or d that do
        not rise, lie outside 1e-12 to 1e12, or are both given, an unknown method, numbers out of bounds, errors and β
        with "bp-edge", a device that is not there, or one for a method that does not use it; scales of another shape,
        negative, all zero, or beyond 1e12 times the largest weight of their hidden unit; a node for another K, with
        parts that do not agree, or one that the method, the device, a cost of errors or `predict_at` does not suit;
        patterns to predict at of another N.

    References
    ----------
    Pittorino et al., Entropic gradient descent algorithms and wide flat minima, ICLR 2021, eq. 3 and Appendix B.1.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import committee, local_entropy
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> labels = committee.predict(weights, patterns)
    >>> curve = local_entropy(weights, patterns, labels, distances=[0.05, 0.1])
    >>> curve.phi.shape, bool(curve.converged.all())
    ((2,), True)
    >>> bool(curve.phi[1] < curve.phi[0] < 0)  # fewer solutions farther from a solution
    True
    """
    method = check_choice("method", method, METHODS)
    if deltas is not None and distances is not None:
        raise ValueError("deltas and distances are both given; give the one at which Φ is wanted")
    beta, tolerance, n_jobs = check_beta(beta), check_tolerance(tolerance), check_jobs(n_jobs)
    costs = None if betas is None else check_grid("betas", betas, zero=True, between=(0.0, COSTS))
    for name, cost in (("beta", beta), ("betas", costs)):
        if cost is not None and method == "bp-edge":
            raise ValueError(f"{name} needs another method; messages on edges know hard patterns only")
    n_samples = check_count("n_samples", n_samples, at_least=100, at_most=10**7, why="kept, for a standard error")
    n_chains = check_count("n_chains", n_chains, at_least=2, at_most=1000, why="to compare them")
    device, progress = _check_device(device, method), check_flag("progress", progress)
    posed = pose(
        weights,
        patterns,
        labels,
        n_hidden=n_hidden,
        prior_scale=prior_scale,
        node=node,
        check=check,
        beta=beta,
        betas=costs,
        method=method,
        device=device,
    )
    problem = posed.problem
    question = _question(problem, predict_at, marginals)
    # without a reference nothing grows out of it
    follow = partial(along_deltas if distances is None else along_distances, first=np.inf if posed.is_free else FIRST)
    if distances is None:
        grid = check_grid("deltas", np.geomspace(1e-3, 4, 12) if deltas is None else deltas, between=DELTAS)
    else:
        grid = check_grid("distances", distances)
    options: dict[str, Any] = {"method": method, "tolerance": tolerance, "costs": costs, "n_jobs": n_jobs}
    options["question"] = question
    if device is None:
        curves = _curves_apart(problem, grid, follow, n_samples=n_samples, n_chains=n_chains, seed=seed, **options)
    else:
        curves = _curves_together(problem, grid, follow, device=device, **options)
    bar = tqdm(curves, total=problem.n_errors.size, desc=f"Φ by {method}", unit="reference", disable=not progress)
    points, cumulants = zip(*bar, strict=True)
    one, shape = posed.weights.ndim == 2, (*posed.weights.shape[:-2], len(grid))
    log_mean_exp, error, mean_errors = _stacked(cumulants, one)
    return LocalEntropyCurve(
        delta=np.array([[p.delta for p in curve] for curve in points]).reshape(shape),
        **columns(points, shape),
        train_error=posed.train_error,
        method=method,
        reference=posed.reference,
        scale=posed.scale,
        node=posed.node,
        n_weights=int(problem.n_weights[0]) if one else problem.n_weights,
        betas=costs,
        log_mean_exp=log_mean_exp,
        log_mean_exp_error=error,
        mean_errors=mean_errors,
        **fields_of(points, shape),
        provenance=Provenance.here(),
    )


def _question(problem: Problem, predict_at: ArrayLike | None, marginals: bool) -> Question | None:
    """What is asked of the local posteriors, if anything."""
    marginals = check_flag("marginals", marginals)
    if predict_at is None:
        return Question(None, marginals) if marginals else None
    patterns = check_patterns(predict_at, problem.inputs.n_inputs, name="predict_at")
    if problem.node is not majority_vote(problem.hidden.shape[-2]):
        raise ValueError("predict_at is for votes by majority; leave it out where a node is given")
    return Question(patterns, marginals)


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


def _stacked(cumulants: Sequence[_Floats | None], one: bool) -> Sequence[_Floats | None]:
    """``log ⟨e^{-βE}⟩``, standard errors and mean errors of all references, or of the one, if they were measured."""
    if cumulants[0] is None:
        return None, None, None
    return cumulants[0] if one else np.stack(cumulants, axis=1)  # type: ignore[arg-type, return-value]


def _curves_apart(
    problem: Problem, grid: _Floats, follow: _Follow, *, seed: int | None, n_jobs: int, **options: Any
) -> Iterator[_Curve]:
    """All points of each of R references, over processes."""
    n_references = len(problem.hidden)
    inner, outer = (n_jobs, 1) if n_references == 1 else (1, n_jobs)
    streams = spawn_streams(seed, n_references)
    calls = ((problem.take(r), grid, follow, child) for r, child in enumerate(streams))
    yield from over_processes(partial(_curve, n_jobs=inner, **options), calls, outer)


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
    costs: _Floats | None,
    question: Question | None,
) -> _Curve:
    """All points of one reference, and its cumulants."""
    if method == "bp-edge":
        finish = partial(finished, problem, question, edge_bp.posterior)
        # finest = STRIDE: what failed was too slow, and would be again
        return run(follow(grid, finest=STRIDE), partial(edge_bp.solve, problem, tolerance=tolerance), finish), None
    if method == "mcmc":  # no chain can be steered to a distance: expectation propagation finds the Δ
        deltas: Sequence[float] = grid.tolist()
        if follow.func is along_distances:
            deltas = [p.delta for p in run(follow(grid), partial(ep.solve, problem, tolerance=tolerance))]
        options = {"n_samples": n_samples, "n_chains": n_chains, "n_jobs": n_jobs}
        return _sampled(problem, deltas, costs, seed, question, **options)
    solve, posterior = partial(_FIXED_POINTS[method].solve, tolerance=tolerance), _FIXED_POINTS[method].posterior
    points = run(follow(grid), partial(solve, problem), partial(finished, problem, question, posterior))
    if costs is None:
        return points, None
    path = partial(along_deltas, [p.delta for p in points], **follow.keywords)
    curves = [run(path(), partial(solve, problem.at_cost(beta))) for beta in costs.tolist()]
    return points, _cumulants(curves, problem.n_weights)


def _sampled(
    problem: Problem,
    deltas: Sequence[float],
    costs: _Floats | None,
    seed: np.random.SeedSequence,
    question: Question | None,
    **options: Any,
) -> _Curve:
    """Points by Monte Carlo, and cumulants by chains of their own, so that points do not depend on the costs."""
    seeds = spawn_streams(seed, len(deltas))
    told = options | {"question": question}
    points = [monte_carlo.solve(problem, d, seed=s, **told) for d, s in zip(deltas, seeds, strict=True)]
    if costs is None:
        return points, None
    seeds = [stream(s, _CUMULANTS) for s in seeds]
    rows = [monte_carlo.cumulants(problem, d, costs, seed=s, **options) for d, s in zip(deltas, seeds, strict=True)]
    return points, np.stack(rows, axis=1)


def _cumulants(curves: Sequence[list[Point]], n_weights: int | NDArray[np.int64]) -> _Floats:
    """``log ⟨e^{-βE}⟩``, standard errors and mean errors, (3, D, B), from curves at B costs."""
    values = [[(p.log_z, p.std_error, p.errors) if p.converged else (np.nan,) * 3 for p in c] for c in curves]
    return n_weights * np.transpose(values)


def _curves_together(
    problem: Problem, grid: _Floats, follow: _Follow, *, device: str, n_jobs: int, **options: Any
) -> Iterator[_Curve]:
    """All points of each of R references, as many together as fit the device, on a CPU over processes."""
    n_references, n_hidden, n_patterns = problem.hidden.shape
    most = max(1, _room(device) // _bytes_of(options["method"], n_hidden, n_patterns, problem.is_isotropic))
    n_jobs = effective_n_jobs(n_jobs) if device == "cpu" else 1
    n_parts = max(n_jobs, -(-n_references // (most // n_jobs or 1)))
    parts = [part for part in np.array_split(np.arange(n_references), n_parts) if len(part)]
    calls = ((problem.take(part), grid, follow) for part in parts)
    for curves in over_processes(partial(_group, device=device, **options), calls, n_jobs):
        yield from curves


def _group(
    problem: Problem,
    grid: _Floats,
    follow: _Follow,
    *,
    method: str,
    tolerance: float,
    device: str,
    costs: _Floats | None,
    question: Question | None,
) -> list[_Curve]:
    """All points, and cumulants, of R references that are solved together."""
    on_device = problem.on(device)

    def solve_for(
        whole: Problem, rows: Sequence[int], deltas: Sequence[float], starts: Sequence[Point | None]
    ) -> list[Point]:
        members = whole.take(np.array(rows))
        return _FIXED_POINTS[method].solve_together(members, deltas, starts, tolerance=tolerance)

    def finish(r: int, point: Point) -> Point:
        return finished(problem.take(r), question, _FIXED_POINTS[method].posterior, point)

    curves = run_together([follow(grid) for _ in problem.hidden], partial(solve_for, on_device), finish)
    if costs is None:
        return [(points, None) for points in curves]
    deltas = [[p.delta for p in points] for points in curves]
    at_costs = [
        run_together(
            [along_deltas(row, **follow.keywords) for row in deltas], partial(solve_for, on_device.at_cost(beta))
        )
        for beta in costs.tolist()
    ]
    by_reference = zip(*at_costs, strict=True)
    cumulants = [_cumulants(rows, n) for rows, n in zip(by_reference, problem.n_weights, strict=True)]
    return list(zip(curves, cumulants, strict=True))


def _room(device: str) -> int:
    """Bytes that references which are solved together may take on a device."""
    import torch

    return torch.cuda.mem_get_info(device)[0] // 2 if device.startswith("cuda") else _CPU_BYTES


def _bytes_of(method: str, n_hidden: int, n_patterns: int, is_isotropic: bool) -> int:
    """Rough upper bound of what one reference takes: matrices (K, P, P), a Krylov space and its like."""
    matrices = {"bp": 12, "ep": 80}[method] + (0 if is_isotropic else 30)
    return n_hidden * n_patterns * (matrices * n_patterns + 1500)
