"""What an estimator is asked: references, patterns, labels, how many errors are allowed or what one costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bpflat.committee import answers, normalised, preactivations
from bpflat.estimators.arrays import Array, namespace

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Inputs:
    """The patterns, and what all estimators compute of them alone, each when it is first needed.

    Attributes
    ----------
    patterns : array, shape (P, N)
    is_binary : bool
        Whether all inputs are ±1.
    """

    patterns: Array
    is_binary: bool

    @property
    def n_inputs(self) -> int:
        """N."""
        return self.patterns.shape[1]

    @cached_property
    def x(self) -> Array:
        """``x̂ = x/√N``, shape (P, N)."""
        return self.patterns / self.n_inputs**0.5

    @cached_property
    def squares(self) -> Array:
        """x̂², shape (P, N)."""
        return self.x**2

    @cached_property
    def cubes(self) -> Array:
        """x̂³, shape (P, N)."""
        return self.x * self.squares

    @cached_property
    def gram(self) -> Array:
        """``C = X Xᵀ/N``, shape (P, P)."""
        return self.patterns @ self.patterns.T / self.n_inputs

    @cached_property
    def single_gram(self) -> Array:
        """C in single precision."""
        xp = namespace(self.gram)
        return xp.astype(self.gram, xp.float32)


@dataclass(frozen=True)
class Problem:
    """One reference, or R of them, on the same patterns.

    Attributes
    ----------
    inputs : Inputs
    labels : array or None, shape (P,)
        ±1; None before they are known.
    weights : ndarray or None, shape (..., K, N)
        References with rows of norm √N; None on a device, where their pre-activations are enough.
    hidden : array, shape (..., K, P)
        Pre-activations ``X wᵀ/√N`` of the references.
    n_errors : ndarray of int, shape (...)
        Training errors E₀ that solutions may make.
    beta : float or None
        Cost of an error, where any number of them is allowed instead.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat.bp import make_nodes
    >>> from bpflat.committee import predict
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> problem = make_nodes(weights, patterns)
    >>> problem.n_weights, problem.hidden.shape
    (303, (3, 50))
    """

    inputs: Inputs
    labels: Array | None
    weights: NDArray[np.float64] | None
    hidden: Array
    n_errors: NDArray[np.int64]
    beta: float | None = None

    @classmethod
    def of(
        cls,
        weights: NDArray[np.float64],
        patterns: NDArray[np.float64],
        labels: NDArray[np.float64] | None = None,
        *,
        beta: float | None = None,
    ) -> Problem:
        """Pose the problem of checked references (..., K, N): as many errors are allowed as each makes itself.

        These are counted from the weights as given: in rescaled rows an exact tie might turn.
        """
        if labels is None:
            n_errors = np.zeros(weights.shape[:-2], dtype=np.int64)
        else:
            n_errors = np.asarray(np.count_nonzero(answers(weights, patterns) != labels, axis=-1))
        rows = normalised(weights)[0]
        hidden = np.ascontiguousarray(np.swapaxes(preactivations(rows, patterns), -1, -2))
        return cls(Inputs(patterns, bool(np.all(np.abs(patterns) == 1))), labels, rows, hidden, n_errors, beta)

    @property
    def n_weights(self) -> int:
        """K N."""
        return self.hidden.shape[-2] * self.inputs.n_inputs

    def take(self, rows: int | NDArray[np.int64]) -> Problem:
        """Return one of R references, or those of some indices."""
        weights = None if self.weights is None else self.weights[rows]
        return replace(self, weights=weights, hidden=self.hidden[rows], n_errors=self.n_errors[rows])

    def on(self, device: torch.device | str) -> Problem:
        """Return the same problem as tensors on a device that knows float64."""
        import torch  # seconds, which callers without torch need not wait for

        arrays = self.inputs.patterns, self.labels, self.hidden
        patterns, labels, hidden = (torch.tensor(a, device=device) for a in arrays)
        return replace(self, inputs=replace(self.inputs, patterns=patterns), labels=labels, weights=None, hidden=hidden)
