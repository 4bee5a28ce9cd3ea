"""Output nodes with a table: the energy of a pattern follows from which hidden units agree with its label, or how many.

All that the estimators ask of a node is `OutputNode`; the committee's majority vote is a `CountNode`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from bpflat.arguments import check_scalar, reals
from bpflat.estimators.arrays import Array, like, namespace
from bpflat.estimators.kernels import NOTHING, Factors, factors
from bpflat.estimators.output_node import votes

MOST_SIGNS = 12  # hidden units whose sign patterns are enumerated
_WIDEST = 1e3  # margin, in standard deviations of a pre-activation


@runtime_checkable
class OutputNode(Protocol):
    """What a node must have: a factor ``e^{-u(h, σ)}`` of pre-activations h and label σ, and its mean.

    Attributes
    ----------
    is_hard : bool
        Whether a pattern is right or wrong, with energies u of 0 and ∞ alone.  Errors can be counted and allowed then;
        else patterns are weighed, and none of infinite energy is allowed.

    Examples
    --------
    >>> from bpflat.nodes import OutputNode, parity
    >>> isinstance(parity(3), OutputNode)
    True
    """

    @property
    def is_hard(self) -> bool:
        """Whether all energies are 0 or ∞."""

    def output(self, omega: Array, variance: Array, labels: Array) -> tuple[Array, Array, Array]:
        """``g = ∂ log Z/∂ω`` and ``Γ = -∂² log Z/∂ω²`` (..., K, P), and log Z (..., P).

        Z is the mean of the factor over independent ``h_k ~ N(ω_k, V_k)``, from cavity means ω and variances V
        (..., K, P) and labels ±1 (P,).
        """

    def energy(self, hidden: Array, labels: Array) -> Array:
        """Energies u ≥ 0 (..., P) of pre-activations (..., K, P), infinite where a pattern is wrong."""


def check_margin(margin: float) -> float:
    """Return the margin as a float if it is one."""
    return check_scalar("margin", margin, at_least=-_WIDEST, at_most=_WIDEST)


class TableNode(ABC):
    """A node with energies (2, S), for labels +1 and -1; where to look follows from the signs of ``σ h_k - κ``."""

    energies: Any
    margin: float
    name: str

    def _check(self, length: str) -> None:
        """Check the fields, and keep energies as an array with a row for each label."""
        energies = reals("energies", self.energies)
        if energies.shape[:-1] not in ((), (2,)) or energies.shape[-1:] < (2,):
            raise ValueError(f"energies must have shape ({length},) or (2, {length}), not {energies.shape}")
        if not (energies >= 0).all():
            raise ValueError(f"energies must be at least 0; found {energies[~(energies >= 0)][0]:g}")
        if not np.isfinite(energies).any(axis=-1).all():
            raise ValueError("energies are all infinite: no pattern could be right")
        object.__setattr__(self, "energies", np.array(np.broadcast_to(energies, (2, energies.shape[-1]))))
        object.__setattr__(self, "margin", check_margin(self.margin))

    @cached_property
    def is_hard(self) -> bool:
        """Whether all energies are 0 or ∞."""
        return bool(((self.energies == 0) | np.isinf(self.energies)).all())

    @cached_property
    def _is_even(self) -> bool:
        """Whether both labels have the same energies."""
        return bool(np.array_equal(*self.energies))

    @property
    @abstractmethod
    def steps(self) -> NDArray[np.int64]:
        """How far unit k, where it agrees, leads along the table, shape (K,)."""

    @abstractmethod
    def _output(self, omega: Array, variance: Array, labels: Array, row: int) -> tuple[Array, Array, Array]:
        """`output` by one row of the table, without a margin."""

    def output(self, omega: Array, variance: Array, labels: Array) -> tuple[Array, Array, Array]:
        """The same as in `OutputNode`, to full relative precision in both tails."""
        omega = omega - self.margin * labels if self.margin else omega
        if self._is_even:
            return self._output(omega, variance, labels, 0)
        plus, minus = (self._output(omega, variance, labels, row) for row in (0, 1))
        where = namespace(omega).where
        g, curvature, log_z = (where(labels > 0, *pair) for pair in zip(plus, minus, strict=True))
        return g, curvature, log_z

    def energy(self, hidden: Array, labels: Array) -> Array:
        """The same as in `OutputNode`."""
        agrees = np.where(labels > 0, hidden >= self.margin, hidden < -self.margin)
        return self.energies[np.where(labels > 0, 0, 1), np.tensordot(agrees, self.steps, axes=(-2, 0))]


@dataclass(frozen=True, eq=False)
class CountNode(TableNode):
    """A node that counts the hidden units which agree with the label: those with ``σ h_k ≥ κ``.

    Attributes
    ----------
    energies : ndarray, shape (K + 1,) or (2, K + 1)
        Energy of a pattern with n = 0 … K agreeing units, from 0 to infinity; two rows where it depends on the label,
        for +1 and -1.
    margin : float
        κ, in units of pre-activations ``h_k = w_k·x/√N``.
    name : str
        What curves that were measured with it say.

    Raises
    ------
    ValueError
        Energies of another shape, negative ones, NaN, or nothing but infinite ones.

    Examples
    --------
    Two of three units at least, each wrong one at a cost:

    >>> import numpy as np
    >>> from bpflat.nodes import CountNode
    >>> node = CountNode([np.inf, np.inf, 1.0, 0.0])
    >>> g, curvature, log_z = node.output(np.zeros((3, 1)), np.ones((3, 1)), np.ones(1))
    >>> bool(np.isclose(np.exp(log_z[0]), (3 * np.exp(-1) + 1) / 8))
    True
    """

    energies: Any
    margin: float = 0.0
    name: str = "count"

    def __post_init__(self) -> None:
        """Refuse what is no table."""
        self._check("K + 1")

    @property
    def n_hidden(self) -> int:
        """K."""
        return self.energies.shape[-1] - 1

    @property
    def steps(self) -> NDArray[np.int64]:
        """Ones."""
        return np.ones(self.n_hidden, np.int64)

    @cached_property
    def factors(self) -> tuple[Factors, Factors]:
        """Factors of patterns with labels +1 and -1, as kernels need them."""
        return factors(self.energies[0]), factors(self.energies[1])

    def _output(self, omega, variance, labels, row):
        return votes(omega, variance, labels, self.factors[row])


@cache
def majority_vote(n_hidden: int) -> CountNode:
    """The committee machine's vote, a tie of which is wrong."""
    return CountNode(np.where(2 * np.arange(n_hidden + 1) > n_hidden, 0.0, np.inf), name="majority")


@dataclass(frozen=True, eq=False)
class SignNode(TableNode):
    """A node that asks which hidden units agree with the label: any function of K signs, by enumeration.

    Attributes
    ----------
    energies : ndarray, shape (2^K,) or (2, 2^K)
        Energy of a pattern for each set of agreeing units, at ``Σ_k 2^k`` over these, k from 0; as in `CountNode`
        otherwise.  K is at most 12.
    margin : float
        κ, in units of pre-activations ``h_k = w_k·x/√N``.
    name : str
        What curves that were measured with it say.

    Raises
    ------
    ValueError
        As `CountNode`, and too many units.

    Examples
    --------
    The first of two units decides alone:

    >>> import numpy as np
    >>> from bpflat.nodes import SignNode
    >>> node = SignNode([np.inf, 0.0, np.inf, 0.0])
    >>> node.energy(np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([1.0, 1.0]))
    array([ 0., inf])
    """

    energies: Any
    margin: float = 0.0
    name: str = "signs"

    def __post_init__(self) -> None:
        """Refuse what is no table."""
        self._check("2^K")
        size = self.energies.shape[-1]
        if 2**self.n_hidden != size or self.n_hidden > MOST_SIGNS:
            raise ValueError(f"energies are of {size} sets of agreeing units; there must be 2^K, K ≤ {MOST_SIGNS}")

    @property
    def n_hidden(self) -> int:
        """K."""
        return int(self.energies.shape[-1]).bit_length() - 1

    @property
    def steps(self) -> NDArray[np.int64]:
        """Powers of 2."""
        return 2 ** np.arange(self.n_hidden)

    @cached_property
    def _worth(self) -> tuple[NDArray[np.float64], ...]:
        """Whether unit k agrees in a set (2^K, K); ``1 - f(its other sign)/f`` where positive, else 0 (2, 2^K, K)."""
        sets = np.arange(self.energies.shape[-1])[:, None]
        with np.errstate(invalid="ignore"):
            rises = self.energies[:, sets ^ self.steps] - self.energies[..., None]
        return (sets & self.steps > 0).astype(np.float64), -np.expm1(-np.where(rises > 0, rises, 0.0))

    def _output(self, omega, variance, labels, row):
        """Sign patterns weighed in logarithms.

        With w the weights of the sets of agreeing units, normalised, ∂ log Z/∂y_k is ``w φ(y_k)/p_k`` times what the
        agreement of unit k is worth, summed over the sets where it agrees, less ``w φ(y_k)/q_k`` over the others.
        """
        xp = namespace(omega)
        agrees, worth, energies = (like(a, omega) for a in (self._worth[0], self._worth[1][row], self.energies[row]))
        root = variance**0.5
        y = labels * omega / root
        log_p, log_q = _log_ndtr(y), _log_ndtr(-y)
        log_chance = agrees @ log_p + (1 - agrees) @ log_q  # (..., 2^K, P)
        log_right = log_chance - energies[:, None]
        top = xp.max(log_right, axis=-2, keepdims=True)
        weights = xp.exp(log_right - top)
        success = xp.sum(weights, axis=-2, keepdims=True)
        fail = -xp.expm1(-energies) @ xp.exp(log_chance)
        # the smaller of the two tails is the one known to full relative precision
        log_z = xp.where(fail < 0.5, xp.log1p(-xp.clip(fail, 0.0, 0.5)), (top + xp.log(success))[..., 0, :])
        weights = weights / success
        log_density = -0.5 * y**2 - 0.5 * np.log(2 * np.pi)
        ratio = ((worth * agrees).T @ weights) * xp.exp(log_density - log_p)
        ratio = ratio - ((worth * (1 - agrees)).T @ weights) * xp.exp(log_density - log_q)
        ratio = xp.where(xp.abs(ratio) > NOTHING, ratio, xp.zeros_like(ratio))
        return labels * ratio / root, ratio * (ratio + y) / variance, log_z


def _log_ndtr(y: Array) -> Array:
    """Logarithm of the normal distribution function."""
    if isinstance(y, np.ndarray):
        return log_ndtr(y)
    import torch

    return torch.special.log_ndtr(y)
