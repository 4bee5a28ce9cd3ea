"""Output nodes: what a pattern asks of the hidden units, for `bpflat.local_entropy` and the routines of `bpflat.bp`.

A node weighs the pre-activations h_k of a pattern by a factor ``e^{-u(h, σ)}``, with an energy u from 0, right, to
infinity, wrong.  `majority` (the committee, with a lead, a margin or a rule for ties), `parity` and `cross_entropy`
count the hidden units that agree with the label (`CountNode`); `weighted` votes need to know which ones do
(`SignNode`).  Any object that has what `OutputNode` asks for is a node, too, and `check_node` compares its parts with
one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bpflat.arguments import check_array, check_choice, check_count, check_flag, check_scalar, shown
from bpflat.estimators.tables import MOST_SIGNS, CountNode, OutputNode, SignNode, check_margin, majority_vote

__all__ = ["CountNode", "OutputNode", "SignNode", "check_node", "cross_entropy", "majority", "parity", "weighted"]

_TIES = {"wrong": np.inf, "coin": np.log(2), "right": 0.0}
_MOST_UNITS = 10**4
_STEP, _CLOSE = 1e-4, 1e-5  # of the differences that check derivatives; how well these must agree
_DRAWS, _DEVIATIONS = 2**14, 6.0  # pre-activations that check log Z, and by how many standard errors it may be off
_Floats = NDArray[np.float64]


def majority(n_hidden: int, *, lead: int = 1, ties: str | None = None, margin: float = 0.0) -> CountNode:
    """The committee machine's majority vote.

    Parameters
    ----------
    n_hidden : int
        K.
    lead : int
        Smallest vote ``σ Σ_k sign(h_k)`` of a pattern that is right, from 1 to K.
    ties : {"wrong", "right", "coin"}, optional
        What a vote of 0 is, where K is even: wrong, right, or decided by a fair coin, a factor of ½.
    margin : float
        Margin κ of the hidden units: those agree with the label that have ``σ h_k ≥ κ``.

    Returns
    -------
    CountNode

    Raises
    ------
    ValueError
        Even K and no rule for ties, or a rule where none count; numbers out of bounds.

    Examples
    --------
    >>> from bpflat.nodes import majority
    >>> majority(4, ties="coin").energies[0].round(3).tolist()
    [inf, inf, 0.693, 0.0, 0.0]
    """
    n_hidden = check_count("n_hidden", n_hidden, at_most=_MOST_UNITS, why="units")
    lead = check_count("lead", lead, at_most=n_hidden, why="votes")
    vote = 2 * np.arange(n_hidden + 1.0) - n_hidden
    energies, margin = _vote_energies(vote, lead, ties, 1, f"a vote of K = {n_hidden}"), check_margin(margin)
    return CountNode(energies, margin, _named("majority", lead=lead - 1 and lead, ties=ties, margin=margin))


def weighted(output_weights: ArrayLike, *, lead: float = 0.0, ties: str | None = None, margin: float = 0.0) -> SignNode:
    """A vote of hidden units with output weights of their own.

    Parameters
    ----------
    output_weights : array_like, shape (K,)
        Output weights a_k, of any signs and sizes; K is at most 12.
    lead : float
        Smallest ``σ Σ_k a_k sign(h_k)`` of a pattern that is right, where positive; by default the sign decides.
    ties : {"wrong", "right", "coin"}, optional
        What a weighted vote of 0 is, as in `majority`, where there are such.
    margin : float
        As in `majority`, also where a_k is negative.

    Returns
    -------
    SignNode

    Raises
    ------
    ValueError
        As `majority`; a lead that no vote reaches.

    Examples
    --------
    >>> from bpflat.nodes import weighted
    >>> weighted([2.0, -1.0]).energies[0].tolist()  # of no unit that agrees, the first, the second, both
    [inf, 0.0, inf, 0.0]
    """
    weights = check_array("output_weights", output_weights, ("K",))
    size = float(np.abs(weights).sum())
    if len(weights) > MOST_SIGNS or size == 0:
        raise ValueError(f"output_weights must be 1 to {MOST_SIGNS} numbers, not all 0; got {shown(output_weights)}")
    lead = check_scalar("lead", lead, at_most=size, why="the largest vote")
    agrees = np.arange(2 ** len(weights))[:, None] & 2 ** np.arange(len(weights)) > 0
    vote = np.where(agrees, weights, -weights).sum(axis=1)
    vote[np.abs(vote) < 1e-12 * size] = 0.0
    energies, margin = _vote_energies(vote, lead * (1 - 1e-12), ties, 0, "this vote"), check_margin(margin)
    return SignNode(energies, margin, _named("weighted", lead=lead, ties=ties, margin=margin))


def _vote_energies(vote: NDArray[Any], lead: float, ties: str | None, least: float, what: str) -> _Floats:
    """0 for votes of at least `lead`, the rule's energy for those of 0 unless more than `least` is wanted, else ∞."""
    can_tie = lead <= least and bool((vote == 0).any())
    if ties is None and can_tie:
        raise ValueError(f"{what} can be a tie: say what that is, ties='wrong', 'right' or 'coin'")
    if ties is not None and not can_tie:
        raise ValueError(f"ties are votes of 0, and {what} has none that could count; leave them out")
    tie = np.inf if ties is None else _TIES[check_choice("ties", ties, tuple(_TIES))]
    return np.where(vote == 0, tie, np.where((vote > 0) & (vote >= lead), 0.0, np.inf))


def _named(family: str, **options: object) -> str:
    """Name of a node, with the options that change it."""
    return ", ".join([family, *(f"{name} {value}" for name, value in options.items() if value)])


def parity(n_hidden: int, *, margin: float = 0.0) -> CountNode:
    """The parity machine: the product of the hidden signs is the label.

    Parameters
    ----------
    n_hidden : int
        K, odd or even.
    margin : float
        As in `majority`.

    Returns
    -------
    CountNode

    Raises
    ------
    ValueError
        Numbers out of bounds.

    Examples
    --------
    >>> from bpflat.nodes import parity
    >>> parity(2).energies.tolist()  # of the labels +1 and -1
    [[0.0, inf, 0.0], [inf, 0.0, inf]]
    """
    n_hidden = check_count("n_hidden", n_hidden, at_most=_MOST_UNITS, why="units")
    agreeing = np.arange(n_hidden + 1)
    odd = np.array([n_hidden - agreeing, agreeing + 1]) % 2  # negative hidden signs, and one more for the label -1
    margin = check_margin(margin)
    return CountNode(np.where(odd, np.inf, 0.0), margin, _named("parity", margin=margin))


def cross_entropy(n_hidden: int, omega: float, *, beta: float = 1.0) -> CountNode:
    """The loss of eq. 8 with sign hidden units: patterns weigh ``e^{-β f(s, ω)}`` (eq. 1).

    Parameters
    ----------
    n_hidden : int
        K, odd or even.
    omega : float
        Norm parameter ω of the loss ``f(s, ω) = -s/2 + log(2 cosh ωs)/(2ω)`` with ``s = σ Σ_k sign(h_k)/√K``.
    beta : float
        Inverse temperature β.

    Returns
    -------
    CountNode

    Raises
    ------
    ValueError
        Numbers out of bounds.

    Examples
    --------
    >>> from bpflat.nodes import cross_entropy
    >>> cross_entropy(3, omega=1.0).energies[0].round(3).tolist()
    [1.747, 0.714, 0.137, 0.015]
    """
    n_hidden = check_count("n_hidden", n_hidden, at_most=_MOST_UNITS, why="units")
    omega = check_scalar("omega", omega, above=0.0)
    beta = check_scalar("beta", beta, above=0.0, at_most=1e6)
    s = (2 * np.arange(n_hidden + 1) - n_hidden) / np.sqrt(n_hidden)
    loss = np.maximum(-s, 0) + np.log1p(np.exp(-2 * omega * np.abs(s))) / (2 * omega)
    return CountNode(beta * loss, name=_named("cross-entropy", omega=omega, beta=beta))


def check_node(node: OutputNode, n_hidden: int, *, numbers: bool = True) -> OutputNode:
    """Compare a node's derivatives with finite differences of its log Z, and that with its energy.

    Parameters
    ----------
    node : OutputNode
    n_hidden : int
        K.
    numbers : bool
        Compare numbers, and not only whether all parts are there and the node is for K units.

    Returns
    -------
    OutputNode
        The same.

    Raises
    ------
    ValueError
        A part that is missing or of another shape, numbers that do not agree, energies of a hard node other than 0 and
        infinity.

    Notes
    -----
    At 16 random cavities: g and Γ against central differences, to 1e-5; Z against the mean of ``e^{-u}`` over 16,384
    samples of the pre-activations, to 6 standard errors.

    Examples
    --------
    >>> from bpflat.nodes import check_node, parity
    >>> node = check_node(parity(3), 3)
    """
    n_hidden = check_count("n_hidden", n_hidden, at_most=_MOST_UNITS, why="units")
    if not isinstance(node, OutputNode):
        raise ValueError(f"node must have is_hard, output and energy, as bpflat.nodes.OutputNode; got {shown(node)}")
    if getattr(node, "n_hidden", n_hidden) != n_hidden:
        raise ValueError(f"node is for K = {node.n_hidden} hidden units, weights or n_hidden for {n_hidden}")  # type: ignore[attr-defined]
    if not check_flag("numbers", numbers) or isinstance(node, CountNode | SignNode):  # right by themselves
        return node
    rng = np.random.default_rng(0)
    omega, variance = rng.normal(size=(n_hidden, 16)), rng.uniform(0.2, 2.0, size=(n_hidden, 16))
    labels = np.tile([1.0, -1.0], 8)
    g, curvature, log_z = _called("output", node.output, omega, variance, labels)
    for k in range(n_hidden):
        step = _STEP * (np.arange(n_hidden) == k)[:, None]
        up, down = (_called("output", node.output, omega + s * step, variance, labels) for s in (1, -1))
        _compare(f"g of unit {k}", g[k], (up[2] - down[2]) / (2 * _STEP), "the slope of its log Z")
        _compare(f"Γ of unit {k}", curvature[k], (down[0][k] - up[0][k]) / (2 * _STEP), "minus the slope of its g")
    hidden = omega + np.sqrt(variance) * rng.standard_normal((_DRAWS, n_hidden, 16))
    (energies,) = _called("energy", lambda *given: (node.energy(*given),), hidden, labels)
    if node.is_hard and not ((energies == 0) | np.isinf(energies)).all():
        raise ValueError("node is hard, but some of its energies are neither 0 nor infinite")
    chance = np.exp(-energies)
    error = np.maximum(chance.std(axis=0) / _DRAWS**0.5, 1 / _DRAWS)
    _compare("Z", np.exp(log_z), chance.mean(axis=0), "the mean of its e^{-energy}", _DEVIATIONS * error)
    return node


def node_for(node: OutputNode | None, n_hidden: int, check: bool = True) -> OutputNode:
    """Return the node for K units, by default the committee's, with its parts compared if they are to be checked."""
    check = check_flag("check", check)
    return majority_vote(n_hidden) if node is None else check_node(node, n_hidden, numbers=check)


def _called(
    name: str, function: Callable[..., Iterable[_Floats]], omega: _Floats, *arrays: _Floats
) -> tuple[_Floats, ...]:
    """What a node's method returns, if these are arrays of the shapes that are asked for."""
    values = tuple(function(omega, *arrays))
    of_patterns = (*omega.shape[:-2], omega.shape[-1])
    shapes = [omega.shape, omega.shape, of_patterns] if name == "output" else [of_patterns]
    if [np.shape(v) for v in values] != shapes or any(np.isnan(v).any() for v in values):
        got = [np.shape(v) for v in values]
        raise ValueError(f"node.{name} must return arrays of shapes {shapes} without NaN, not {got}")
    return values


def _compare(name: str, got: _Floats, expected: _Floats, what: str, tolerance: float | _Floats = 0.0) -> None:
    """Raise a ValueError with the numbers where two arrays differ."""
    off = np.abs(got - expected) - tolerance - (_CLOSE * (1 + np.abs(expected)) if np.ndim(tolerance) == 0 else 0)
    worst = int(np.argmax(off))
    if off[worst] > 0:
        raise ValueError(f"node: {name} is {got[worst]:.8g} where {what} is {expected[worst]:.8g}")
