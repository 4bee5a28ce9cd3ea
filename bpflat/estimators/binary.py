"""Belief propagation for weights ±1, in its node form, and the side of the weights by itself.

Messages are those of `node_bp` with another answer of the weights: in the field U that the patterns exert on it, a
weight has the mean ``M = ψ'(U)`` and the variance ``1 - M²``, with ψ the logarithm of its partition function.  For the
prior ``Π e^{γ w̃ w}/(2 cosh γ)`` around a reference, ``M = tanh(U + γ w̃)``.  A weight's square is 1, so that the
messages' inverse variances A act through the reaction of a weight upon its own field alone.  With ``x̂ = x/√N``, to
leading order in 1/N, where the cavity mean towards pattern μ is ``m_{ki→μ} = M_ki - x̂_i g_kμ (1 - M_ki²)``:

    V_kμ = Σ_i x̂_i² (1 - M_ki²)        ω_kμ = Σ_i x̂_i M_ki - V_kμ g_kμ
    U_ki = Σ_μ x̂_i g_kμ + M_ki Σ_μ x̂_i² Γ_kμ

are the stationary points of the Bethe free energy (the output nodes obey ``∂_V log Z = (g² - Γ)/2``)

    log Z = Σ_ki [ψ(U_ki) - U_ki M_ki] + Σ_μ log Z_μ + ½ Σ_kμ V_kμ g_kμ²

whose derivative in γ is ``Σ w̃ M - n tanh γ``, exactly.  Unlike with Gaussian weights, ω and V alone do not fix M, so
the unknowns of Newton's method are ω (K, P) and U (K, N).

Where the inputs of a pattern are 0 or ±c and an even number of them is not 0, pre-activations lie on a lattice that
holds 0, which counts as +1.  The central limit then takes the sum for a normal number that is cut at ``-c/√N``, between
two points of the lattice: ω is shifted by as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlog1py

from bpflat.estimators.newton import Operator, directional_difference, newton_krylov
from bpflat.estimators.node_bp import cholesky_solver
from bpflat.estimators.output_node import Outputs, output_nodes
from bpflat.estimators.point import Point
from bpflat.estimators.problem import Problem
from bpflat.signs import log_cosh, sech, shell_entropy

_Floats = NDArray[np.float64]
_NARROWEST = 1e-14  # least cavity variance: weights that are all frozen have none
_STIFFEST = 0.2  # least of ``1 - V Γ`` and ``1 - a D`` in the preconditioner
_STRENGTH = 0.05  # of patterns that stay out of it
_FARTHEST = 0.9  # probability of a flip that is guessed at most
_HALVINGS = 4  # of a Newton step: what needs shorter ones begins too far away
_LEAST_ENTROPY = -1.0  # nats in all, below which belief propagation has found weights where there are none


# --- the side of the weights --------------------------------------------------------------------


class Weights(NamedTuple):
    """What weights ±1 answer to the field U that the patterns exert on them, arrays (K, N) of each.

    Means M; variances 1 - M²; slopes M'(U); and ``ψ(U) - ψ(0)``.
    """

    mean: _Floats
    variance: _Floats
    slope: _Floats
    log_z: _Floats


Answer = Callable[[_Floats], Weights]


def anchored(anchor: _Floats | float, field: _Floats) -> Weights:
    """Weights with the prior ``e^{h w}/(2 cosh h)`` in a constant field h, the anchor: γ w̃ around a reference."""
    total = field + anchor
    variance = sech(total) ** 2
    return Weights(np.tanh(total), variance, variance, log_cosh(total) - log_cosh(anchor))


def replicated(gamma: float, n_replicas: float, field: _Floats) -> Weights:
    """Weights of one of y replicas, all in the same field, that a common centre ±1 pulls with the coupling γ."""
    above, below = field + gamma, field - gamma  # under a centre of +1 and of -1
    log_ratio = n_replicas * (log_cosh(above) - log_cosh(below))
    up, down = expit(log_ratio), expit(-log_ratio)
    within = up * sech(above) ** 2 + down * sech(below) ** 2
    between = up * down * (np.tanh(above) - np.tanh(below)) ** 2
    log_z = np.logaddexp(n_replicas * log_cosh(above), n_replicas * log_cosh(below)) / n_replicas
    return Weights(
        up * np.tanh(above) + down * np.tanh(below),
        within + between,
        within + n_replicas * between,
        log_z - np.log(2) / n_replicas - log_cosh(gamma),
    )


# --- points of a curve --------------------------------------------------------------------------


def odds(gamma: _Floats) -> _Floats:
    """Odds ``e^{-2γ}`` of a weight to differ from the reference under the prior: they take the place of Δ."""
    return np.exp(-2.0 * gamma)


@dataclass(frozen=True)
class BinaryPoint(Point):
    """log Z around one reference of weights ±1 at one coupling γ, and what follows from it.

    `delta` are the odds ``e^{-2γ} = p/(1 - p)`` of a weight to differ from the reference under the prior, and ``ε =
    d/p - 1`` is the `excess` of the Hamming distance d, a fraction of the weights, over that of the prior.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary
    >>> rng = np.random.default_rng(0)
    >>> point = binary.volume(rng.choice([-1.0, 1.0], (20, 101)), rng.choice([-1.0, 1.0], 20))
    >>> point.converged, point.gamma, bool(0 < point.log_z + np.log(2) < np.log(2))
    (True, 0.0, True)
    """

    @property
    def gamma(self) -> float:
        """Coupling γ to the reference."""
        return 0.0 - 0.5 * float(np.log(self.delta))

    @property
    def distance(self) -> float:
        """Hamming distance ``d = (1 - q)/2``, a fraction of the weights."""
        return self.delta / (1 + self.delta) * (1 + self.excess)

    def delta_at(self, distance: float) -> float:
        """Odds at which solutions would be at a distance, were their excess the same."""
        p = min(distance / (1 + self.excess), _FARTHEST)
        return p / (1 - p)

    @property
    def legendre(self) -> float:
        """``log(2 cosh γ) - γ q - H(d) = d log(d/p) + (1 - d) log((1 - d)/(1 - p))``."""
        d = self.distance
        return float(xlog1py(d, self.excess) + xlog1py(1 - d, -self.delta * self.excess))

    @property
    def legendre_slope(self) -> float:
        """Derivative of `legendre` in ε."""
        p = self.delta / (1 + self.delta)
        with np.errstate(divide="ignore"):
            return float(p * (np.log1p(self.excess) - np.log1p(-self.delta * self.excess)))

    @property
    def entropy(self) -> float:
        """Logarithm of the number of solutions at distance d, ``Φ + H(d)``, nats per weight."""
        return self.phi + float(shell_entropy(self.distance))

    def counted(self, n_weights: int) -> BinaryPoint:
        """The point, not converged where less than one solution would be left: beyond capacity, say.

        Of the last points only: paths may lead through such regions.
        """
        return replace(self, converged=self.converged and bool(self.entropy * n_weights >= _LEAST_ENTROPY))


def anchored_point(
    problem: Problem, delta: float, field: _Floats, log_z: float, errors: float, converged: bool, **rest: object
) -> BinaryPoint:
    """The point of weights in fields U (K, N) of the patterns, from log Z and errors in all."""
    n, p, excess = int(problem.n_weights), delta / (1 + delta), 0.0
    if problem.weights is not None:
        flips = expit(-2 * problem.weights * (field + anchor(problem, delta)))
        excess = float(np.mean(flips - p)) / p  # weight by weight keeps the digits of ε
    return BinaryPoint(
        delta=float(delta),
        log_z=log_z / n,
        excess=excess,
        converged=bool(converged and np.isfinite(log_z)),
        beta=np.inf if problem.beta is None else problem.beta,
        errors=errors / n,
        **rest,  # type: ignore[arg-type]
    )


def anchor(problem: Problem, delta: float) -> _Floats | float:
    """The prior's fields ``γ w̃`` (K, N), 0 without a reference."""
    return 0.0 if problem.weights is None else -0.5 * np.log(delta) * problem.weights


# --- the node form ------------------------------------------------------------------------------


@dataclass(frozen=True)
class BinaryNodes:
    """The equations above, a `newton.System`: unknowns are ω, in units of the prior's √V, and U, flat.

    Attributes
    ----------
    problem : Problem
        With ``hidden`` of shape (K, P), whose values do not matter.
    answer : callable
        The side of the weights, `Weights` from U (K, N).
    """

    problem: Problem
    answer: Answer

    product_cost = 1

    def take(self, rows: NDArray[np.int64]) -> BinaryNodes:
        """Return the one system that there is."""
        return self

    @cached_property
    def unit(self) -> float:
        """Root mean square of the prior's pre-activations."""
        field = np.zeros((self.problem.hidden.shape[0], self.problem.inputs.n_inputs))
        return max(float(np.sqrt(self._seen(self.answer(field).variance).mean())), _NARROWEST**0.5)

    @cached_property
    def offset(self) -> _Floats:
        """Shift of ω (P,) by half a step of the lattice, where that holds 0."""
        return lattice_shift(self.problem.inputs.patterns)

    def flat(self, omega: _Floats, field: _Floats) -> _Floats:
        """The unknowns (n,)."""
        return np.concatenate([omega.reshape(-1) / self.unit, field.reshape(-1)])

    def parts(self, x: _Floats) -> tuple[_Floats, _Floats]:
        """ω (K, P) and U (K, N)."""
        shape = self.problem.hidden.shape
        size = shape[0] * shape[1]
        return x[:size].reshape(shape) * self.unit, x[size:].reshape(shape[0], -1)

    def begin(self, messages: Sequence[_Floats]) -> _Floats:
        """Where to start: from U and g of an earlier point, or from none."""
        field, g = messages or (0.0, 0.0)
        field = field + np.zeros((len(self.problem.hidden), self.problem.inputs.n_inputs))
        return self.flat(self._omega(self.answer(field), g), field)

    def change(self, x: _Floats) -> tuple[_Floats, tuple[Outputs, Weights]]:
        """What a sweep changes, and what output nodes and weights answer."""
        omega, field = self.parts(x)
        weights = self.answer(field)
        problem, variance = self.problem, self.variance(weights)
        outputs = output_nodes(problem.node, omega, variance, problem.labels, problem.n_errors, problem.beta)
        pull = outputs.g @ self.problem.inputs.x + weights.mean * self._felt(outputs.curvature)
        return self.flat(self._omega(weights, outputs.g) - omega, pull - field), (outputs, weights)

    def linearize(
        self, x: _Floats, residual: _Floats, extra: tuple[Outputs, Weights]
    ) -> tuple[Operator, Operator | None]:
        """Differences of sweeps; and each hidden unit's own response, without that of its variances.

        With ``D = M'(U)`` and ``a = Σ_μ x̂² Γ`` it is ``(1 - VΓ) δω - X̂ D δU = r_ω``, ``(1 - aD) δU + X̂ᵀ Γ δω = r_U``.
        """
        outputs, weights = extra
        curvature = np.maximum(outputs.curvature, 0)
        own = np.maximum(1 - self.variance(weights) * curvature, _STIFFEST)
        give = np.maximum(1 - weights.slope * self._felt(curvature), _STIFFEST)
        x_hat, slope = self.problem.inputs.x.astype(np.float32), (weights.slope / give).astype(np.float32)
        respond = _unit_responses(x_hat, (curvature / own).astype(np.float32), slope)

        def product(directions: _Floats) -> _Floats:
            return -directional_difference(lambda at: self.change(at)[0], x, residual, directions)

        def precondition(vectors: _Floats) -> _Floats:
            omega, field = (part.astype(np.float32) for part in self.parts(vectors))
            moved = respond(omega + (slope * field) @ x_hat.T) / own
            return self.flat(moved, (field - (curvature * moved).astype(np.float32) @ x_hat) / give)

        return product, precondition

    def log_z(self, field: _Floats, outputs: Outputs, weights: Weights) -> float:
        """The Bethe free energy of all weights."""
        own = np.sum(weights.log_z - field * weights.mean)
        return float(own + outputs.log_z + 0.5 * np.sum(self.variance(weights) * outputs.g**2))

    def variance(self, weights: Weights) -> _Floats:
        """V (K, P)."""
        return np.broadcast_to(np.maximum(self._seen(weights.variance), _NARROWEST), self.problem.hidden.shape)

    def _omega(self, weights: Weights, g: _Floats | float) -> _Floats:
        return weights.mean @ self.problem.inputs.x.T + self.offset - self.variance(weights) * g

    def _seen(self, values: _Floats) -> _Floats:
        """``Σ_i x̂_i² v_ki``: (K, P), or (K, 1) where inputs are ±1."""
        inputs = self.problem.inputs
        return values.mean(axis=1, keepdims=True) if inputs.is_binary else values @ inputs.squares.T

    def _felt(self, values: _Floats) -> _Floats:
        """``Σ_μ x̂_i² v_kμ``: (K, N), or (K, 1) where inputs are ±1."""
        inputs = self.problem.inputs
        return values.sum(axis=1, keepdims=True) / inputs.n_inputs if inputs.is_binary else values @ inputs.squares


def _unit_responses(x_hat: NDArray, strength: NDArray, variance: NDArray) -> Operator:
    """The function r → ``(I + X̂ diag v_k X̂ᵀ diag s_k)⁻¹ r_k`` of all units, with s ≥ 0 (K, P) and v (K, N).

    On the patterns that matter, and in the precision of the arrays.
    """
    units = []
    for s, v in zip(strength, variance, strict=True):
        active = np.flatnonzero(s * v.mean() > _STRENGTH)
        root = np.sqrt(s[active])
        seen = x_hat[active] * (root[:, None] * np.sqrt(v))
        matrix = seen @ seen.T
        matrix[np.diag_indices(len(active))] += 1
        units.append((active, root, cholesky_solver(matrix[None])))

    def apply(right: NDArray) -> NDArray:
        moved = np.zeros_like(right)
        for k, (active, root, solve_matrix) in enumerate(units):
            if active.size:
                moved[k, active] = root * solve_matrix((root * right[k, active])[None])[0]
        return right - (variance * (moved @ x_hat)) @ x_hat.T

    return apply


def lattice_shift(patterns: _Floats) -> _Floats:
    """Half a step ``c/√N`` (P,) where pre-activations lie on a lattice with 0, else 0."""
    holds_zero = is_one_size(patterns) & (np.count_nonzero(patterns, axis=1) % 2 == 0)
    return np.where(holds_zero, np.abs(patterns).max(axis=1), 0.0) / np.sqrt(patterns.shape[1])


def is_one_size(patterns: _Floats) -> NDArray[np.bool_]:
    """Whether the inputs of a pattern are 0 or ±c, (P,): hidden units then count, and ties may happen."""
    sizes = np.abs(patterns)
    return ((sizes == 0) | (sizes == sizes.max(axis=1, keepdims=True))).all(axis=1)


def solve(
    problem: Problem, delta: float, start: Point | None = None, *, tolerance: float = 1e-9, max_steps: int = 20
) -> BinaryPoint:
    """Find the fixed point of one reference at odds Δ of a flip, with messages U (K, N) and g (K, P)."""
    nodes = BinaryNodes(problem, partial(anchored, anchor(problem, delta)))
    begin = nodes.begin(start.messages if start else ())
    root = newton_krylov(nodes, begin, tolerance=tolerance, max_steps=max_steps, halvings=_HALVINGS)
    outputs, weights = root.extra
    field = nodes.parts(root.x)[1]
    return anchored_point(
        problem,
        delta,
        field,
        nodes.log_z(field, outputs, weights),
        float(outputs.errors),
        bool(root.converged),
        n_iter=root.evaluations,
        residual=root.residual,
        messages=(field, outputs.g),
    )
