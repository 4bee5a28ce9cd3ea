"""The solver of the node form of belief propagation.

The unknowns are the cavity moments (ω, V); evaluating the fixed-point map costs one sweep.  Newton's linear systems
are solved by GMRES, with differences of sweeps for the Jacobian.  What keeps GMRES short is the preconditioner: each
hidden unit's own linear response ``(I + (ΔC - diag q_k) diag Γ_k)⁻¹``, Cholesky-factored on the patterns that pull
noticeably.  The coupling between hidden units and the response of the variances, which it leaves out, are GMRES's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from bpflat.estimators.newton import directional_difference, newton_krylov
from bpflat.estimators.node_bp import BinaryNodes, RealNodes
from bpflat.estimators.output_node import tolerant_output_node
from bpflat.estimators.point import Point

_PULL = 0.1  # patterns with ΔΓ below this stay out of the preconditioner: cheaper, and GMRES needs no more steps


def solve(
    nodes: BinaryNodes | RealNodes,
    labels: NDArray[np.float64],
    delta: float,
    *,
    n_errors: int = 0,
    beta: float | None = None,
    start: Point | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 40,
) -> Point:
    """`bpflat.bp.solve_nodes` of checked arguments."""
    shape, size = nodes.hidden.shape, nodes.hidden.size
    sweeps = 0

    def flat(cavity):
        return np.concatenate([cavity.omega.ravel() / np.sqrt(delta), cavity.variance.ravel() / delta])

    def change(point):
        """What a sweep changes at a point (ω/√Δ, V/Δ), and the output nodes' answers there."""
        nonlocal sweeps
        if not (point[size:] > 0).all():
            return np.full(2 * size, np.inf), None
        sweeps += 1
        omega, variance = np.sqrt(delta) * point[:size].reshape(shape), delta * point[size:].reshape(shape)
        outputs = tolerant_output_node(omega, variance, labels, n_errors, beta)
        return flat(nodes.cavity(delta, *outputs[:2])) - point, outputs

    def linearize(point, residual, outputs):
        respond = _unit_response(nodes, delta, outputs.curvature)

        def product(direction):
            return -directional_difference(lambda x: change(x)[0], point, residual, direction)

        def precondition(vector):
            return np.concatenate([respond(vector[:size]), vector[size:]])

        return product, precondition

    nothing = np.zeros(shape)
    point = flat(nodes.cavity(delta, *(start.messages if start else (nothing, nothing))))
    if not (point[size:] > 0).all():  # the old curvatures make no sense at this Δ
        point = flat(nodes.cavity(delta, nothing, nothing))
    root = newton_krylov(change, linearize, point, tolerance=tolerance, max_steps=max_steps)
    outputs = root.extra
    log_z, excess = nodes.bethe(delta, *outputs[:3])
    residual = float(np.abs(root.residual).max(initial=0))
    return Point(
        delta=float(delta),
        log_z=log_z,
        excess=excess,
        converged=root.converged,
        n_iter=sweeps,
        residual=residual,
        messages=outputs[:2],
        beta=np.inf if beta is None else beta,
        errors=outputs.errors / (nodes.n_inputs * shape[1]),
    )


def _unit_response(nodes: BinaryNodes | RealNodes, delta: float, curvature: NDArray) -> Callable:
    """Return the function r (PK,) → ``(I + A_k diag Γ_k)⁻¹ r_k`` for every hidden unit k, with ``A_k = ΔC - diag q_k``.

    On the pulling patterns, with ``D = √Γ``, it is ``r - A D (I + D A D)⁻¹ D r``.  Single precision is enough here.
    """
    own = nodes.self_response(delta, curvature)
    gram = nodes.gram.astype(np.float32)
    units = []
    for k, pull in enumerate(delta * curvature.T):
        active = np.flatnonzero(pull > _PULL)
        root = np.sqrt(pull[active]).astype(np.float32)
        matrix = root[:, None] * gram[np.ix_(active, active)] * root
        matrix[np.diag_indices(len(active))] += 1 - (curvature * own)[active, k].astype(np.float32)
        units.append((active, root, cho_factor(matrix, lower=True, check_finite=False) if len(active) else None))

    def apply(vector):
        vector = vector.reshape(curvature.shape)
        pulled = np.zeros(curvature.shape, dtype=np.float32)
        for k, (active, root, factor) in enumerate(units):
            if len(active):
                pulled[active, k] = root * cho_solve(factor, root * vector[active, k], check_finite=False)
        return (vector - gram @ pulled + (own / delta) * pulled).ravel()

    return apply
