"""One number per minimum: the scalars of which tables and statistics are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from figures.measure.measures import Series

NEAR, FAR = 0.05, 0.25  # distances of Φ
NOISE = 0.5  # σ of δE


@dataclass(frozen=True)
class Minima:
    """Scalar measures of minima, one entry per minimum.

    Attributes
    ----------
    protocol : ndarray of str
        Name.
    restart, epochs : ndarray of int
    train_error, test_error, test_error_balanced : ndarray of float
        Fractions.
    phi_near, phi_far : ndarray of float
        Φ_LE by belief propagation at d = 0.05 and 0.25, nats per weight.
    phi_near_ep, phi_far_ep : ndarray of float
        The same by expectation propagation; NaN where it was not computed.
    delta_error : ndarray of float
        δE at σ = 0.5.
    """

    protocol: NDArray[np.str_]
    restart: NDArray[np.int64]
    epochs: NDArray[np.int64]
    train_error: NDArray[np.float64]
    test_error: NDArray[np.float64]
    test_error_balanced: NDArray[np.float64]
    phi_near: NDArray[np.float64]
    phi_far: NDArray[np.float64]
    phi_near_ep: NDArray[np.float64]
    phi_far_ep: NDArray[np.float64]
    delta_error: NDArray[np.float64]


def scalars(series: Sequence[Series]) -> Minima:
    """Read the scalars of all minima off their curves."""
    parts = [_scalars(measured) for measured in series]
    return Minima(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Minima)})


def _scalars(measured: Series) -> Minima:
    minima, n = measured.minima, len(measured.minima.restart)

    def phi(curve, distance):
        if curve is None:
            return np.full(n, np.nan)
        return curve.phi[:, np.flatnonzero(np.isclose(np.nanmean(curve.distance, axis=0), distance, rtol=1e-6))[0]]

    return Minima(
        protocol=np.full(n, measured.name),
        restart=minima.restart,
        epochs=minima.epochs,
        train_error=minima.train_error,
        test_error=minima.test_error,
        test_error_balanced=minima.test_error_balanced,
        phi_near=phi(measured.entropy, NEAR),
        phi_far=phi(measured.entropy, FAR),
        phi_near_ep=phi(measured.entropy_ep, NEAR),
        phi_far_ep=phi(measured.entropy_ep, FAR),
        delta_error=measured.energy.delta_error[:, np.flatnonzero(measured.energy.sigma == NOISE)[0]],
    )
