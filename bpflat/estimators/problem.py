"""What an estimator is asked: references, patterns, labels, the prior, how many errors are allowed or what one costs.

The prior N(w, Δ s²) has a scale s for every weight.  In units of them, ``y = (w' - w)/s`` has the prior N(0, Δ), and
hidden unit k sees the inputs ``s_ki x_i``; this is how estimators treat scales, and a weight with s = 0 stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bpflat.committee import in_unit_range, normalised, preactivations
from bpflat.display import Brief
from bpflat.estimators.arrays import Array, namespace, to_numpy
from bpflat.estimators.tables import OutputNode, TableNode, majority_vote

if TYPE_CHECKING:
    import torch

_SMALLEST = 1e-50  # scales below it, of weights of order one, move nothing that matters: taken for 0
_CERTAIN = 40.0  # standard deviations from 0 at which a sign is certain in float64


@dataclass(frozen=True)
class Inputs:
    """The patterns, and what all estimators compute of them alone, each when it is first needed.

    Attributes
    ----------
    patterns : array, shape (P, N)
    """

    patterns: Array

    @cached_property
    def is_binary(self) -> bool:
        """Whether all inputs are ±1."""
        return bool((abs(self.patterns) == 1).all())

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


@dataclass(frozen=True, repr=False)
class Problem(Brief):
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
        Training errors E₀ that solutions may make, patterns that the node calls wrong; none where it weighs patterns.
    node : OutputNode
        What is asked of each pattern.
    beta : float or None
        Cost of an error, where any number of them is allowed instead.
    scale : array, shape (..., K, N), or float
        Scales s of the prior, in units where rows have norm √N; 1.0 for all of them.
    floor : array, shape (..., K, P), or float
        What is added to the cavity variances of pre-activations that no perturbed weight enters, which are ±1: so
        little that their signs are certain.  Else 0.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat.bp import make_nodes
    >>> from bpflat.committee import predict
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(50, 101)), rng.normal(size=(3, 101))
    >>> problem = make_nodes(weights, patterns)
    >>> int(problem.n_weights), problem.hidden.shape
    (303, (3, 50))
    """

    _brief = ("weights", "n_errors", "beta")

    inputs: Inputs
    labels: Array | None
    weights: NDArray[np.float64] | None
    hidden: Array
    n_errors: NDArray[np.int64]
    node: OutputNode
    beta: float | None = None
    scale: Array | float = 1.0
    floor: Array | float = 0.0

    @classmethod
    def of(
        cls,
        weights: NDArray[np.float64],
        patterns: NDArray[np.float64],
        labels: NDArray[np.float64] | None = None,
        *,
        node: OutputNode | None = None,
        beta: float | None = None,
        scale: NDArray[np.float64] | None = None,
    ) -> Problem:
        """Pose the problem of checked references (..., K, N): as many errors are allowed as each makes itself.

        These are counted from the weights as given: in rescaled rows an exact tie might turn.  Scales (..., K, N) of
        the prior are in the units of the weights as given, too.
        """
        node = majority_vote(weights.shape[-2]) if node is None else node
        rows, sizes = normalised(weights)
        hidden, as_given = (_hidden(each, patterns) for each in (rows, in_unit_range(weights)))
        if labels is None:
            n_errors = np.zeros(weights.shape[:-2], dtype=np.int64)
        else:
            energies = node.energy(np.where((as_given >= 0) == (hidden >= 0), hidden, as_given), labels)
            n_errors = np.asarray(np.count_nonzero(np.isinf(energies), axis=-1))
        inputs = Inputs(patterns)
        problem = cls(inputs, labels, rows, hidden, n_errors, node, beta)
        if scale is None:
            return problem
        scale = scale / sizes[..., None]
        scale = np.where(scale < _SMALLEST, 0.0, scale)
        is_still = scale**2 @ inputs.squares.T == 0
        if not is_still.any():
            return replace(problem, scale=scale, floor=np.zeros(hidden.shape))
        if not isinstance(node, TableNode):
            raise ValueError(
                "prior_scale leaves a unit nothing that a pattern sees, for which this node must be a table"
            )
        margin = 0.0 if labels is None else node.margin * labels
        hidden = np.where(is_still, margin + np.where(as_given >= margin, 1.0, -1.0), hidden)
        return replace(problem, hidden=hidden, scale=scale, floor=np.where(is_still, _CERTAIN**-2, 0.0))

    @property
    def is_isotropic(self) -> bool:
        """Whether all weights have the same prior variance."""
        return isinstance(self.scale, float)

    @property
    def n_weights(self) -> NDArray[np.int64]:
        """Numbers n of weights that the prior perturbs, shape (...): K N but for those with s = 0."""
        if self.is_isotropic:
            return np.full(self.hidden.shape[:-2], self.hidden.shape[-2] * self.inputs.n_inputs)
        return np.asarray(np.count_nonzero(to_numpy(self.scale), axis=(-2, -1)))

    @cached_property
    def grams(self) -> Array:
        """``C_k = X diag(s_k²) Xᵀ/N`` of the units, shape (..., K, P, P); (1, P, P) for all of them if isotropic."""
        if self.is_isotropic:
            return self.inputs.gram[None]
        xp, shape = namespace(self.scale), self.scale.shape
        scaled = (self.inputs.x * row for row in xp.reshape(self.scale, (-1, shape[-1])))
        return xp.reshape(xp.stack([x @ x.T for x in scaled]), (*shape[:-1], *2 * self.hidden.shape[-1:]))

    def take(self, rows: int | NDArray[np.int64]) -> Problem:
        """Return one of R references, or those of some indices."""
        names = ["hidden", "n_errors"] + ["weights"] * (self.weights is not None)
        names += [] if self.is_isotropic else ["scale", "floor"]
        return self._changed(rows, **{name: getattr(self, name)[rows] for name in names})

    def at_cost(self, beta: float) -> Problem:
        """Return the same problem with any number of errors allowed, at a cost."""
        return self._changed(..., beta=beta)

    def _changed(self, rows: Any, **changes: Any) -> Problem:
        """A copy with other attributes that keeps the `grams` of its rows where they are known: they are expensive."""
        copy = replace(self, **changes)
        if not self.is_isotropic and "grams" in vars(self):
            vars(copy)["grams"] = self.grams[rows]
        return copy

    def on(self, device: torch.device | str) -> Problem:
        """Return the same problem as tensors on a device that knows float64."""
        import torch  # seconds, which callers without torch need not wait for

        names = ["labels", "hidden"] + ([] if self.is_isotropic else ["scale", "floor"])
        tensors = {name: torch.tensor(getattr(self, name), device=device) for name in names}
        patterns = torch.tensor(self.inputs.patterns, device=device)
        return replace(self, inputs=replace(self.inputs, patterns=patterns), weights=None, **tensors)


def _hidden(weights: NDArray[np.float64], patterns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pre-activations, a row of patterns for each hidden unit: (..., K, P)."""
    return np.ascontiguousarray(np.swapaxes(preactivations(weights, patterns), -1, -2))
