"""Expectation propagation with full covariances: log Z(w, Δ) without independence between the inputs.

Under the prior N(w, Δ) the pre-activations of hidden unit k are jointly Gaussian over the patterns, with means
``s⁰_k = X w_k/√N`` and covariance ``ΔC``, ``C = X Xᵀ/N``.  EP puts one Gaussian site ``exp(ν h - τ h²/2)`` on each
pre-activation h_kμ; the output node couples the K units of a pattern.  With ``S_k = (I + ΔC diag τ_k)⁻¹ ΔC``,

    mean_k = s⁰_k + S_k (ν_k - τ_k s⁰_k)      V = D/(1 - τ D)      ω = (mean - D ν)/(1 - τ D)      D = diag S
    τ = Γ/(1 - VΓ)                            ν = (g + ωΓ)/(1 - VΓ)                     g, Γ from the output node

The unknowns are the cavities (ω, V), as in the node form of belief propagation, and the solver is the same
Newton-Krylov method; here the Jacobian is known: ``∂S_k/∂τ = -S_k diag(·) S_k``, so that the variances respond through
the element-wise square of S_k.  Sites may be negative; cavities may not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bpflat.estimators.newton import directional_difference, newton_krylov
from bpflat.estimators.output_node import tolerant_output_node
from bpflat.estimators.point import Point

_WEAK = 1e-18  # sites with |τ| ΔC below this change no digit of a covariance; around flat minima most are weaker still


def solve_ep(
    hidden: NDArray[np.float64],
    gram: NDArray[np.float64],
    labels: NDArray[np.float64],
    n_inputs: int,
    delta: float,
    *,
    n_errors: int = 0,
    beta: float | None = None,
    start: Point | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 40,
) -> Point:
    """Find the fixed point of expectation propagation at one Δ.

    Parameters
    ----------
    hidden : ndarray, shape (P, K)
        Pre-activations of the reference, ``X wᵀ/√N``.
    gram : ndarray, shape (P, P)
        ``C = X Xᵀ/N``; any real inputs.
    labels : ndarray, shape (P,)
        ±1.
    n_inputs : int
        N.
    delta : float
        Prior variance Δ > 0.
    n_errors : int
        Training errors that the reference makes and solutions may make (see `bpflat.estimators.output_node`).
    beta : float, optional
        Cost of an error, where any number of them is allowed instead.
    start : Point, optional
        An earlier result for the same reference at a nearby Δ; else begin without sites.
    tolerance : float
        Largest |change of ω|/√Δ and |change of V|/Δ that one more iteration may make.
    max_steps : int
        Newton steps before giving up.

    Returns
    -------
    Point
        With ``messages = (ν, τ)``, each of shape (P, K).  ``converged`` is False when the solver gave up or a
        covariance is not positive definite there.

    References
    ----------
    T. Minka, Expectation propagation for approximate Bayesian inference, UAI 2001; C. E. Rasmussen and C. K. I.
    Williams, Gaussian Processes for Machine Learning, MIT Press 2006, Section 3.6.
    """
    shape, size = hidden.shape, hidden.size
    kernel = delta * gram
    scale = np.concatenate([np.full(size, np.sqrt(delta)), np.full(size, delta)])
    sweeps = 0

    def sites(point):
        """Both site parameters (2, P, K), and the output nodes' answers, at a point (ω/√Δ, V/Δ)."""
        omega, variance = (scale * point).reshape(2, *shape)
        outputs = tolerant_output_node(omega, variance, labels, n_errors, beta)
        shrink = 1 - variance * outputs.curvature
        return np.stack([outputs.g + omega * outputs.curvature, outputs.curvature]) / shrink, outputs

    def change(point):
        nonlocal sweeps
        if not (point[size:] > 0).all():
            return np.full(2 * size, np.inf), None
        sweeps += 1
        (nu, tau), outputs = sites(point)
        posterior, mean = _posterior(hidden, kernel, nu, tau)
        image = _cavities(mean, _diagonal(posterior), nu, tau)
        return np.ravel(image) / scale - point, (nu, tau, outputs, posterior, mean)

    def linearize(point, residual, extra):
        nu, tau, _, posterior, mean = extra
        variance = _diagonal(posterior)
        rest = 1 - tau * variance
        cavity_mean, cavity_variance = _cavities(mean, variance, nu, tau)
        response = posterior.astype(np.float32)  # single precision is enough for a direction
        squared = response**2
        here = np.stack([nu, tau])

        def product(direction):
            d_nu, d_tau = directional_difference(lambda x: sites(x)[0], point, here, direction)
            d_variance = -_apply(squared, d_tau)
            d_mean = _apply(response, d_nu - d_tau * mean)
            d_rest = -d_tau * variance - tau * d_variance
            d_cavity = (
                (d_mean - d_variance * nu - variance * d_nu - cavity_mean * d_rest) / rest,
                (d_variance - cavity_variance * d_rest) / rest,
            )
            return direction - np.ravel(d_cavity) / scale

        return product, None

    nothing = np.zeros(shape)
    for nu, tau in (start.messages if start else (nothing, nothing), (nothing, nothing)):
        posterior, mean = _posterior(hidden, kernel, nu, tau)
        point = np.ravel(_cavities(mean, _diagonal(posterior), nu, tau)) / scale
        if (point[size:] > 0).all():  # else the old sites make no sense at this Δ
            break
    root = newton_krylov(change, linearize, point, tolerance=tolerance, max_steps=max_steps)
    nu, tau, outputs, posterior, mean = root.extra
    omega, variance = (scale * root.point).reshape(2, *shape)
    signs, log_dets = np.transpose(
        [_log_det(kernel, *unit) for unit in zip(tau.T, _diagonal(posterior).T, strict=True)]
    )
    shift, pull = mean - hidden, nu - tau * mean
    total = (
        -0.5 * log_dets.sum()
        + 0.5 * np.sum((nu - tau * hidden) * shift + 2 * nu * hidden - tau * hidden**2)
        + outputs.log_z
        + 0.5 * np.sum(np.log1p(variance * tau))
        - 0.5 * np.sum((variance * nu**2 + 2 * omega * nu - omega**2 * tau) / (1 + variance * tau))
    )
    n_weights = n_inputs * shape[1]
    excess = (delta * np.vdot(pull, gram @ pull) - np.sum(_diagonal(posterior) * tau)) / n_weights
    residual = float(np.abs(root.residual).max(initial=0))
    converged = root.converged and bool((signs > 0).all())
    return Point(
        delta=float(delta),
        log_z=float(total / n_weights),
        excess=float(excess),
        converged=converged,
        n_iter=sweeps,
        residual=residual,
        messages=(nu, tau),
        beta=np.inf if beta is None else beta,
        errors=outputs.errors / n_weights,
    )


def _posterior(hidden, kernel, nu, tau):
    """Covariances S (K, P, P) and means (P, K) of the pre-activations given the sites."""
    covariance = np.stack([_covariance(kernel, unit) for unit in tau.T])
    return covariance, hidden + _apply(covariance, nu - tau * hidden)


def _is_strong(kernel, tau):
    """Which sites τ (P,) of a unit matter to its covariance; denormal ones would make LAPACK many times slower."""
    return np.abs(tau) * kernel.diagonal() > _WEAK


def _covariance(kernel, tau):
    """``S = (I + ΔC diag τ)⁻¹ ΔC`` (P, P) of one unit.

    Where most sites are weak, by the strong ones A alone: ``S = K - K_:A τ_A (I + K_AA τ_A)⁻¹ K_A:`` with K = ΔC.
    """
    strong = _is_strong(kernel, tau)
    if 2 * np.count_nonzero(strong) > len(tau):
        return np.linalg.solve(np.eye(len(tau)) + kernel * np.where(strong, tau, 0.0), kernel)
    rows = kernel[strong]
    return kernel - (rows.T * tau[strong]) @ np.linalg.solve(_precision(kernel, tau, strong), rows)


def _precision(kernel, tau, some):
    """``I + ΔC diag τ`` on some of the patterns, (P,) bool."""
    return np.eye(np.count_nonzero(some)) + kernel[np.ix_(some, some)] * tau[some]


def _log_det(kernel, tau, variance):
    """Sign and logarithm of ``det(I + ΔC diag τ)`` of one unit, with posterior variances (P,) for the weak sites."""
    strong = _is_strong(kernel, tau)
    sign, log_det = np.linalg.slogdet(_precision(kernel, tau, strong))
    return sign, log_det + np.sum((tau * variance)[~strong])


def _diagonal(matrices):
    """Diagonals (P, K) of matrices (K, P, P)."""
    return np.diagonal(matrices, axis1=1, axis2=2).T


def _apply(matrices, vectors):
    """Products of matrices (K, P, P) with the columns of vectors (P, K), in the precision of the matrices."""
    columns = vectors.T[:, :, None].astype(matrices.dtype)
    return np.matmul(matrices, columns)[:, :, 0].T


def _cavities(mean, variance, nu, tau):
    """Means and variances (P, K) of the pre-activations without their own site."""
    rest = 1 - tau * variance
    return (mean - variance * nu) / rest, variance / rest
