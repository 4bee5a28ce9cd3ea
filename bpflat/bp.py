"""Belief propagation on the fully-connected committee machine: log Z(w, Δ) of the anchored partition function.

`solve_edges` passes messages on every edge, as the method is usually written; `solve_nodes` finds the same fixed
points with far less work.  Both return a `Point` and share `output_node`, the exact vote of K noisy signs.  All check
what they are given, and call the solvers of `bpflat.estimators`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bpflat.arguments import (
    check_array,
    check_count,
    check_labels,
    check_patterns,
    check_scalar,
    check_weights,
)
from bpflat.estimators import edge_bp, node_bp
from bpflat.estimators.point import Point
from bpflat.estimators.problem import Problem
from bpflat.estimators.tables import CountNode, OutputNode, majority_vote
from bpflat.nodes import node_for

__all__ = ["Point", "Problem", "make_nodes", "output_node", "solve_edges", "solve_nodes"]

DELTAS = (1e-12, 1e12)  # beyond these nothing, or all, of the reference is lost to six digits
COSTS = 1e6  # largest cost of an error
LOOSEST = 1e-3  # largest tolerance: log Z, stationary at the fixed point, is then still good to about a millionth

_Floats = NDArray[np.float64]


def check_delta(delta: float) -> float:
    """Return the prior variance Δ as a float if it lies in `DELTAS`."""
    return check_scalar("delta", delta, at_least=DELTAS[0], at_most=DELTAS[1], why="a variance of weights of order one")


def check_tolerance(tolerance: float) -> float:
    """Return the tolerance of a fixed point as a float if it is positive, and at most `LOOSEST`."""
    why = "beyond it the error of log Z, of its square, could be seen"
    return check_scalar("tolerance", tolerance, above=0.0, at_most=LOOSEST, why=why)


def check_beta(beta: float | None) -> float | None:
    """Return the cost of an error as a float if it is positive and finite, or None."""
    return None if beta is None else check_scalar("beta", beta, above=0.0, at_most=COSTS, why="what an error costs")


def check_start(start: Point | None, shape: tuple[int, ...]) -> Point | None:
    """Return the point to begin from if its two messages have the shape that is asked for."""
    if start is not None and not isinstance(start, Point):
        raise ValueError(f"start must be a Point or None, not of type {type(start).__name__}")
    if start is not None and [np.shape(m) for m in start.messages] != [shape, shape]:
        raise ValueError(f"start holds messages of shapes {[np.shape(m) for m in start.messages]}, not two of {shape}")
    return start


def check_counting(node: OutputNode) -> CountNode:
    """Return the node if it counts hidden units."""
    if not isinstance(node, CountNode):
        raise ValueError("node must count hidden units (bpflat.nodes.CountNode) for messages on edges")
    return node


def check_costs(node: OutputNode, **costs: object) -> None:
    """Raise a ValueError where errors are priced or allowed that a node does not know."""
    for name, cost in costs.items():
        if cost is not None and not node.is_hard:
            raise ValueError(f"{name} is about patterns that are right or wrong; this node weighs them; leave it out")


def output_node(omega: ArrayLike, variance: ArrayLike, labels: ArrayLike) -> tuple[_Floats, _Floats, _Floats]:
    """Log-partition function of the committee's vote and its derivatives in the cavity means.

    Parameters
    ----------
    omega : array_like, shape (P, K)
        Cavity means ω of the hidden pre-activations.  K odd.
    variance : array_like, shape (P, K), or one that is broadcast to it
        Cavity variances V > 0.
    labels : array_like, shape (P,)
        ±1.

    Returns
    -------
    g : ndarray, shape (P, K)
        ``∂ log Z_μ/∂ω_kμ``.
    curvature : ndarray, shape (P, K)
        ``Γ_kμ = -∂² log Z_μ/∂ω_kμ²``; at most 1/V, and it can be negative.
    log_z : ndarray, shape (P,)
        ``log P(majority of K independent signs = label)``, to full relative precision in both tails.

    Raises
    ------
    ValueError
        Even K, shapes that do not match, V that is not positive, labels other than ±1, NaN or infinite entries.

    Notes
    -----
    With ``y = σω/√V``, φ the normal density and ``r = D φ(y)/Z``: ``g = σ r/√V`` and ``Γ = r (r + y)/V``.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat.bp import output_node
    >>> g, curvature, log_z = output_node(np.zeros((1, 3)), 1.0, [1])  # three signs that know nothing
    >>> float(np.exp(log_z[0]).round(12))
    0.5
    """
    omega = check_array("omega", omega, ("P", "K"))
    if omega.shape[1] % 2 == 0:
        raise ValueError(f"omega has K = {omega.shape[1]} hidden units; K must be odd: no tied votes")
    variance = check_array("variance", variance, between=(1e-100, 1e100))
    try:
        variance = np.broadcast_to(variance, omega.shape)
    except ValueError:
        raise ValueError(f"variance of shape {variance.shape} does not match omega of shape {omega.shape}") from None
    node = majority_vote(omega.shape[1])
    g, curvature, log_z = node.output(omega.T, variance.T, check_labels(labels, len(omega)))
    return np.ascontiguousarray(g.T), np.ascontiguousarray(curvature.T), log_z


def make_nodes(
    weights: ArrayLike, patterns: ArrayLike, *, node: OutputNode | None = None, check: bool = True
) -> Problem:
    """Prepare a reference and its patterns for `solve_nodes`.

    Parameters
    ----------
    weights : array_like, shape (K, N)
        The reference w, K odd.  Rows are rescaled to ``|w_k|² = N``: their scale does not matter.  A row of zeros stays
        one: without a reference, log Z is the volume of all solutions under N(0, Δ).
    patterns : array_like, shape (P, N)
        ±1 is fastest, any real numbers are allowed.
    node : OutputNode, optional
        What is asked of each pattern (see `bpflat.nodes`); by default the majority vote.
    check : bool
        Compare the parts of a node of one's own with one another (see `bpflat.nodes.check_node`).

    Returns
    -------
    Problem
        Without labels; the node form (see `bpflat.estimators.node_bp`) is fastest where all inputs are ±1.

    Raises
    ------
    ValueError
        Even K of a majority vote, shapes that do not match, NaN or infinite entries, a pattern of zeros only, a node
        for another K or with parts that do not agree.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat.bp import make_nodes
    >>> from bpflat.committee import predict
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> nodes = make_nodes(weights, patterns)
    >>> nodes.hidden.shape, nodes.inputs.is_binary
    ((3, 50), True)
    """
    weights = check_weights(weights, many=False, even=node is not None)
    patterns = check_patterns(patterns, weights.shape[1], zero_rows=False)
    return Problem.of(weights, patterns, node=node_for(node, len(weights), check))


def solve_nodes(
    nodes: Problem,
    labels: ArrayLike,
    delta: float,
    *,
    n_errors: int = 0,
    beta: float | None = None,
    start: Point | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 40,
) -> Point:
    """Find the fixed point of belief propagation at one Δ by its node form.

    Parameters
    ----------
    nodes : Problem
        Reference and patterns, as `make_nodes` prepares them.
    labels : array_like, shape (P,)
        ±1.
    delta : float
        Prior variance Δ, from 1e-12 to 1e12.
    n_errors : int
        Training errors E₀ that solutions may make: the reference's own for eq. 3 (see `bpflat.estimators.output_node`);
        0 where the node weighs patterns.
    beta : float, optional
        Cost of an error, where any number of them is allowed instead.
    start : Point, optional
        An earlier result for the same reference at a nearby Δ; else begin without messages.
    tolerance : float
        Largest change of ω/√Δ and of V/Δ, in absolute value, by one more sweep; at most 1e-3.  log Z is stationary
        at the fixed point: its error is of second order in this.
    max_steps : int
        Newton steps before giving up.

    Returns
    -------
    Point
        With ``messages = (g, Γ)``, each of shape (P, K).  ``converged`` is False when no fraction of a step reduced
        the residual or `max_steps` was reached.

    Raises
    ------
    ValueError
        Labels that do not match the nodes or are not ±1, numbers out of bounds, a start of other shapes, errors or
        their cost where the node weighs patterns.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat.bp import make_nodes, solve_nodes
    >>> from bpflat.committee import predict
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> nodes, labels = make_nodes(weights, patterns), predict(weights, patterns)
    >>> point = solve_nodes(nodes, labels, delta=0.1)
    >>> further = solve_nodes(nodes, labels, delta=0.2, start=point)
    >>> point.converged, bool(further.phi < point.phi < 0)
    (True, True)
    """
    if not isinstance(nodes, Problem):
        raise ValueError(f"nodes must come from make_nodes(weights, patterns), not be of type {type(nodes).__name__}")
    labels = check_labels(labels, nodes.hidden.shape[-1])
    n_errors = check_count("n_errors", n_errors, at_least=0, at_most=len(labels), why="patterns")
    start = check_start(start, nodes.hidden.T.shape)
    check_costs(nodes.node, n_errors=n_errors or None, beta=beta)
    solution = node_bp.solve(
        replace(nodes, labels=labels, n_errors=np.array(n_errors), beta=check_beta(beta)),
        check_delta(delta),
        start and _transposed(start),
        tolerance=check_tolerance(tolerance),
        max_steps=check_count("max_steps", max_steps),
    )
    return _transposed(solution)


def _transposed(point: Point) -> Point:
    """A point whose messages are (P, K), as users meet them, for one with (K, P), and the other way round."""
    return replace(point, messages=tuple(np.ascontiguousarray(np.transpose(m)) for m in point.messages))


def solve_edges(
    weights: ArrayLike,
    patterns: ArrayLike,
    labels: ArrayLike,
    delta: float,
    *,
    node: OutputNode | None = None,
    start: Point | None = None,
    damping: float = 0.0,
    tolerance: float = 1e-10,
    max_sweeps: int = 2000,
) -> Point:
    """Iterate the messages of every edge to their fixed point: the plain form of belief propagation.

    Patterns are visited one after the other, each seeing the newest totals: on real pictures, whose Gram matrix has
    one huge eigenvalue, updating all at once diverges.

    Parameters
    ----------
    weights : array_like, shape (K, N)
        The reference w, centre of the prior N(w, Δ).  K odd.  Rows are rescaled to ``|w_k|² = N``.
    patterns : array_like, shape (P, N)
        Any real inputs.
    labels : array_like, shape (P,)
        ±1; all of them are to be kept.
    delta : float
        Prior variance Δ, from 1e-12 to 1e12.
    node : OutputNode, optional
        What is asked of each pattern, of the nodes that count hidden units; by default the majority vote.
    start : Point, optional
        An earlier result for the same reference whose messages to begin from (any Δ); else from no messages.
    damping : float
        Fraction of the old message that is kept, in [0, 1).
    tolerance : float
        Stop when every output derivative, ``g √V`` and ``Γ V``, changes by less than this in a sweep; at most 1e-3.
    max_sweeps : int
        Give up after so many sweeps.

    Returns
    -------
    Point
        With ``messages = (A, B)``, each of shape (P, K, N).  ``converged`` is False when `max_sweeps` was reached
        or a cavity variance turned negative.

    Raises
    ------
    ValueError
        Even K of a majority vote, shapes that do not match, labels other than ±1, numbers out of bounds, NaN or
        infinite entries, a node that does not count.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat.bp import make_nodes, solve_edges, solve_nodes
    >>> from bpflat.committee import predict
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> labels = predict(weights, patterns)
    >>> edges = solve_edges(weights, patterns, labels, delta=0.1)
    >>> nodes = solve_nodes(make_nodes(weights, patterns), labels, delta=0.1)
    >>> abs(edges.log_z / nodes.log_z - 1) < 1e-8
    True
    """
    weights = check_weights(weights, many=False, even=node is not None)
    patterns = check_patterns(patterns, weights.shape[1], zero_rows=False)
    node = check_counting(node_for(node, len(weights)))
    return edge_bp.solve(
        Problem.of(weights, patterns, check_labels(labels, len(patterns)), node=node),
        check_delta(delta),
        check_start(start, (len(patterns), *weights.shape)),
        damping=check_scalar("damping", damping, below=1.0),
        tolerance=check_tolerance(tolerance),
        max_sweeps=check_count("max_sweeps", max_sweeps),
    )
