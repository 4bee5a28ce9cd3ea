"""Belief propagation without edges: the same fixed points on (K, P) arrays.

At a fixed point every message follows from the output node's derivatives g, Γ and the weights' marginals, so the
unknowns are the cavity moments ω, V of the KP pre-activations.  With ``x̂ = x/√N`` and
``P_ki = 1/Δ + Σ_μ x̂_i² Γ_kμ``, the displacement of a weight's mean is ``δ_ki = M_ki - w_ki`` and

    δ_ki = Δ Σ_μ x̂_i g_kμ (1 - x̂_i² Γ_kμ/P_ki)        ω_kμ = Σ_i x̂_i (w_ki + δ_ki) - g_kμ Σ_i x̂_i²/P_ki
    V_kμ = Σ_i x̂_i²/(P_ki - x̂_i² Γ_kμ)

This is the elimination of edges that leads to TAP equations and to approximate message passing.  A weight's cavity
mean towards pattern μ is its marginal mean without what μ adds to it, ``m_{ki→μ} = M_ki - x̂_i g_kμ/P_ki``; summed over
the inputs, this gives Onsager's reaction term ``- g_kμ Σ_i x̂_i²/P_ki``.  TAP and AMP keep that and drop terms smaller
by 1/N, the factors ``1 - x̂_i² Γ_kμ/P_ki`` in δ and V, so that V does not depend on the pattern where inputs are ±1; and
AMP takes g in the reaction term from the iteration before, with which iteration converges for random patterns.  Here
the O(1/N) terms stay: fixed points, log Z and d are exactly those of belief propagation on edges, at any N and for any
patterns.  Real patterns are not random, and iteration diverges on them; hence Newton's method.

In these variables the terms of the Bethe free energy that grow as N/Δ cancel by algebra, not by subtraction:

    log Z = Σ_μ log Z_μ - ½ Σ_ki [δ_ki²/Δ + log(Δ P_ki)] + ½ Σ_μki [b²(1 - a)/P_ki - log(1 - a)]

with b = x̂_i g_kμ and a = x̂_i² Γ_kμ/P_ki: log Z keeps its relative precision where it is 1e-10 per weight.  Two sets
of sums: for inputs ±1 (x̂² = 1/N, P_ki = P_k) through the Gram matrix, and for any real inputs.  The latter also know
scales s of the prior: then all of this is about the weights y = (w' - w)/s, which see the inputs s_ki x̂_i.

A sweep is one evaluation of these equations.  Newton's linear systems are solved by GMRES, with differences of sweeps
for the Jacobian.  What keeps GMRES short is the preconditioner: each hidden unit's own linear response
``(I + (ΔC - diag q_k) diag Γ_k)⁻¹``, Cholesky-factored on the patterns that matter.  The coupling between
hidden units and the response of the variances, which it leaves out, are GMRES's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np
from array_api_compat import is_torch_array
from scipy.linalg import lapack

from bpflat.estimators import cavities, kernels
from bpflat.estimators.arrays import Array, like, namespace, on_cpu, to_numpy
from bpflat.estimators.cavities import CavityEquations, Solution
from bpflat.estimators.newton import Operator, directional_difference
from bpflat.estimators.output_node import Outputs
from bpflat.estimators.point import Point
from bpflat.estimators.posterior import IndependentWeights
from bpflat.estimators.problem import Problem

_STRENGTH = 0.1  # patterns with ΔΓ below this stay out of the preconditioner: cheaper, and GMRES needs no more steps
_PADDING = 32  # active patterns of a unit are rounded up to a multiple of it: few sizes of matrices, little waste
_SCRATCH_BYTES = 64 << 20  # most for the terms of a sum over inputs that are not ±1, at once


def solve(
    problem: Problem, delta: float, start: Point | None = None, *, tolerance: float = 1e-9, max_steps: int = 40
) -> Point:
    """Find the fixed point of one reference as `bpflat.bp.solve_nodes` does, with messages g and Γ (K, P)."""
    return cavities.solve(equations(problem, delta), start, tolerance=tolerance, max_steps=max_steps)


def posterior(problem: Problem, point: Point) -> IndependentWeights:
    """The weights of one reference at a point that `solve`, or `solve_together`, found."""
    return equations(problem, point.delta).weights(*map(to_numpy, point.messages))


def equations(problem: Problem, delta: float | Array) -> NodeEquations:
    """Choose the sums over inputs: by the Gram matrix where all are ±1, for weights of one prior variance."""
    return (BinaryNodes if problem.inputs.is_binary and problem.is_isotropic else RealNodes)(problem, delta)


solve_together = partial(cavities.solve_together, equations)  # `solve` for R references on a device


class NodeEquations(CavityEquations):
    """What does not depend on the kind of inputs; messages are g and Γ."""

    def sweep(self, x: Array) -> tuple[Array, Outputs]:
        """The output nodes' answers and the cavities that follow from them."""
        outputs = self.outputs(x)
        return self.flat(*self.cavities_from(outputs.g, outputs.curvature)), outputs

    def linearize(self, x: Array, residual: Array, extra: Sequence[Array]) -> tuple[Operator, Operator]:
        """Differences of sweeps, and each hidden unit's own linear response."""
        xp = namespace(x)
        curvature, size = extra[1], x.shape[-1] // 2
        gram = self.problem.inputs.single_gram if self.problem.is_isotropic else self.problem.grams
        respond = unit_response(gram, self.delta * curvature, self.self_response(curvature) / self.delta)

        def product(directions):
            return -directional_difference(lambda at: self.change(at)[0], x, residual, directions)

        def precondition(vectors):
            return xp.concat([respond(vectors[..., :size]), vectors[..., size:]], axis=-1)

        return product, precondition

    def solution(self, x: Array, extra: Sequence[Array]) -> Solution:
        """The Bethe free energy."""
        g, curvature, log_z, errors = extra
        displacement, edges = self.bethe_sums(g, curvature)
        gain = self.delta * self.added_precision(curvature)  # ΔP - 1
        multiplicity = self.problem.inputs.n_inputs / gain.shape[-1]  # how many inputs each of its columns stands for
        log_z = log_z - 0.5 * (displacement + multiplicity * _total(namespace(gain).log1p(gain))) + 0.5 * edges
        excess = displacement - multiplicity * _total(gain / (1 + gain))
        return Solution(log_z, excess, errors, np.ones(log_z.shape, bool), (g, curvature))

    def precision(self, curvature: Array) -> Array:
        """P of the weights."""
        return 1 / self.delta + self.added_precision(curvature)

    def weights(self, g: Array, curvature: Array) -> IndependentWeights:
        """Marginals of the weights, as displacements."""
        precision, scale = self.precision(curvature), self.problem.scale
        mean = scale * self.displacement(g, curvature, precision)
        return IndependentWeights(mean, np.broadcast_to(scale**2 / precision, mean.shape))

    @abstractmethod
    def displacement(self, g: Array, curvature: Array, precision: Array) -> Array:
        """δ (..., K, N), in units of s."""

    @abstractmethod
    def added_precision(self, curvature: Array) -> Array:
        """``Σ_μ x̂_i² Γ_kμ``."""

    @abstractmethod
    def self_response(self, curvature: Array) -> Array:
        """``q_kμ = Σ_i x̂_i²/P_ki`` (..., K, P): the reaction of ω to its own pattern."""

    @abstractmethod
    def bethe_sums(self, g: Array, curvature: Array) -> tuple[Array, Array]:
        """``Σ_ki δ_ki²/Δ`` and ``Σ_μki [b²(1 - a)/P_ki - log(1 - a)]``, (...) each."""


class BinaryNodes(NodeEquations):
    """Inputs ±1: ``x̂² = 1/N``, so that P, of shape (..., K, 1), depends on the unit alone."""

    def added_precision(self, curvature: Array) -> Array:
        """``Σ_μ Γ_kμ/N``."""
        return namespace(curvature).sum(curvature, axis=-1, keepdims=True) / self.problem.inputs.n_inputs

    def displacement(self, g: Array, curvature: Array, precision: Array) -> Array:
        """The same as in `NodeEquations`."""
        return self.delta * (g * (1 - curvature / (self.problem.inputs.n_inputs * precision))) @ self.problem.inputs.x

    def cavities_from(self, g: Array, curvature: Array) -> tuple[Array, Array]:
        """ω and V by one product with the Gram matrix."""
        precision = self.precision(curvature)
        cavity_precision = precision - curvature / self.problem.inputs.n_inputs
        u = g * (cavity_precision / precision)
        omega = self.problem.hidden + self.delta * (u @ self.problem.inputs.gram) - g / precision
        return omega, 1 / cavity_precision

    def self_response(self, curvature: Array) -> Array:
        """``1/P_k`` for all patterns."""
        return namespace(curvature).broadcast_to(1 / self.precision(curvature), curvature.shape)

    def bethe_sums(self, g: Array, curvature: Array) -> tuple[Array, Array]:
        """The sums of `NodeEquations`, by way of the Gram matrix."""
        n_inputs, precision = self.problem.inputs.n_inputs, self.precision(curvature)
        a = curvature / (n_inputs * precision)
        u = g * (1 - a)
        displacement = _total(self.delta * u * (u @ self.problem.inputs.gram))
        return displacement, _total(g * u / precision - n_inputs * namespace(a).log1p(-a))


class RealNodes(NodeEquations):
    """Any real inputs and scales s: O(KPN) per sweep, without memory for edges; P has shape (..., K, N)."""

    @cached_property
    def squared_scale(self) -> Array | float:
        """s²."""
        return self.problem.scale**2

    def added_precision(self, curvature: Array) -> Array:
        """``s² Σ_μ x̂_i² Γ_kμ``."""
        return self.squared_scale * (curvature @ self.problem.inputs.squares)

    def displacement(self, g: Array, curvature: Array, precision: Array) -> Array:
        """The same as in `NodeEquations`."""
        inputs = self.problem.inputs
        pull = g @ inputs.x - self.squared_scale * ((g * curvature) @ inputs.cubes / precision)
        return self.delta * self.problem.scale * pull

    def cavities_from(self, g: Array, curvature: Array) -> tuple[Array, Array]:
        """ω, and V, which is NaN, hence not allowed, where a term of it is not positive."""
        inputs, precision = self.problem.inputs, self.precision(curvature)
        shift = (self.problem.scale * self.displacement(g, curvature, precision)) @ inputs.x.T
        omega = self.problem.hidden + shift - g * ((self.squared_scale / precision) @ inputs.squares.T)
        return omega, cavity_variance(inputs.squares, self._unscaled(precision), curvature)

    def self_response(self, curvature: Array) -> Array:
        """``q_kμ`` with the scales s, ``Σ_i x̂_i² s_i²/P_ki``."""
        return (self.squared_scale / self.precision(curvature)) @ self.problem.inputs.squares.T

    def bethe_sums(self, g: Array, curvature: Array) -> tuple[Array, Array]:
        """The sums of `NodeEquations`, with δ in units of the scales s."""
        squares, precision = self.problem.inputs.squares, self.precision(curvature)
        displacement = _total(self.displacement(g, curvature, precision) ** 2 / self.delta)
        variance = self.squared_scale / precision
        own = g**2 * (variance @ squares.T)
        own = own - g**2 * curvature * ((self.squared_scale**2 / precision**2) @ (squares**2).T)
        return displacement, _total(own) - log_cavity_ratio(squares, self._unscaled(precision), curvature)

    def _unscaled(self, precision: Array) -> Array:
        """``P/s²``, infinite for weights that stay."""
        with np.errstate(divide="ignore"):
            return precision / self.squared_scale


def _total(values: Array) -> Array:
    """Sum over units and patterns, or inputs."""
    return namespace(values).sum(values, axis=(-2, -1))


def cavity_variance(squares: Array, precision: Array, curvature: Array) -> Array:
    """``V_kμ = Σ_i x̂_i²/(P_ki - x̂_i² Γ_kμ)`` (..., K, P), NaN where a term is not positive."""
    if on_cpu(curvature):
        return like(kernels.cavity_variance(*map(to_numpy, (squares, precision, curvature))), curvature)
    return _sum_over_inputs(_variance_term, squares, precision, curvature)


def log_cavity_ratio(squares: Array, precision: Array, curvature: Array) -> Array:
    """``Σ_μki log(1 - x̂_i² Γ_kμ/P_ki)`` (...)."""
    if on_cpu(curvature):
        return like(kernels.log_cavity_ratio(*map(to_numpy, (squares, precision, curvature))), curvature)
    return _total(_sum_over_inputs(_log_term, squares, precision, curvature))


def _variance_term(x2, curvature, precision):
    xp = namespace(x2)
    cavity_precision = precision - x2 * curvature
    return x2 / xp.where(cavity_precision > 0, cavity_precision, xp.full_like(cavity_precision, xp.nan))


def _log_term(x2, curvature, precision):
    return namespace(x2).log1p(-x2 * curvature / precision)


def _sum_over_inputs(term: Callable[[Array, Array, Array], Array], squares, precision, curvature) -> Array:
    """Sum over i, (..., K, P), of a term in x̂_i² (P, N), Γ_kμ and P_ki (..., K, P, N), some patterns at a time."""
    xp = namespace(curvature)
    block = max(1, _SCRATCH_BYTES // (8 * math.prod(precision.shape)))
    blocks = [slice(start, start + block) for start in range(0, len(squares), block)]
    terms = [term(squares[b], curvature[..., b, None], precision[..., None, :]) for b in blocks]
    return xp.concat([xp.sum(t, axis=-1) for t in terms], axis=-1)


def unit_response(gram: Array, strength: Array, own: Array) -> Operator:
    """Return the function r → ``(I + A_k diag s_k)⁻¹ r_k`` for every hidden unit k, with ``A_k = C - diag q_k``.

    On the active patterns, with ``D = √s``, it is ``r - A D (I + D A D)⁻¹ D r``.  Single precision is enough here.
    Units with about equally many active patterns are treated together.

    Parameters
    ----------
    gram : array, shape (P, P) or (..., K, P, P)
        C, of all units or of each.
    strength, own : array, shape (..., K, P)
        s = ΔΓ, of which what is weak is left out; q, in units of Δ.
    """
    xp, n_patterns = namespace(strength), gram.shape[-1]
    grams = xp.astype(xp.reshape(gram, (-1, n_patterns, n_patterns)), xp.float32, copy=False)  # one for all, or of each
    lost = xp.astype(xp.reshape(strength * own, (-1, n_patterns)), xp.float32)
    own = xp.astype(xp.reshape(own, (-1, n_patterns)), xp.float32)
    strength = xp.reshape(strength, (-1, n_patterns))
    order = xp.argsort(strength, axis=-1, descending=True, stable=False)
    counts = to_numpy(xp.sum(strength > _STRENGTH, axis=-1))
    sizes = np.minimum(-(-counts // _PADDING) * _PADDING, n_patterns)
    blocks = []
    for size in np.unique(sizes[sizes > 0]).tolist():
        units = like(np.flatnonzero(sizes == size)[:, None], gram)
        active = order[units[:, 0], :size]
        s = strength[units, active]
        root = xp.astype(xp.where(s > _STRENGTH, s, xp.zeros_like(s)) ** 0.5, xp.float32)  # 0: an identity, for padding
        own_gram = units[:, :, None] % len(grams)
        matrices = root[:, :, None] * grams[own_gram, active[:, :, None], active[:, None, :]] * root[:, None, :]
        diagonal = np.arange(size)
        matrices[:, diagonal, diagonal] += 1 - xp.where(root > 0, lost[units, active], xp.zeros_like(root))
        blocks.append((units, active, root, cholesky_solver(matrices)))

    def apply(vectors: Array) -> Array:
        rows = xp.reshape(vectors, (-1, n_patterns))
        moved = xp.zeros_like(own)
        for units, active, root, solve_matrices in blocks:
            moved[units, active] = root * solve_matrices(root * xp.astype(rows[units, active], xp.float32))
        pulled = moved @ grams[0] if len(grams) == 1 else (grams @ moved[..., None])[..., 0]
        return xp.reshape(rows - pulled + own * moved, vectors.shape)

    return apply


def cholesky_solver(matrices: Array) -> Operator:
    """The function vectors (B, n) → matrices⁻¹ vectors; the identity where a matrix (n, n) is not positive definite."""
    if is_torch_array(matrices):
        import torch

        factors, failed = torch.linalg.cholesky_ex(matrices)
        factors[failed > 0] = torch.eye(factors.shape[1], dtype=factors.dtype, device=factors.device)
        return lambda vectors: torch.cholesky_solve(vectors[:, :, None], factors)[:, :, 0]
    factored = [lapack.spotrf(matrix.T, lower=True, overwrite_a=True) for matrix in matrices]

    def apply(vectors):
        pairs = zip(factored, vectors, strict=True)
        return np.stack([v if failed else lapack.spotrs(factor, v, lower=True)[0] for (factor, failed), v in pairs])

    return apply
