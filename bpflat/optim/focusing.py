"""Focusing: how the coupling γ grows during training (Section 4, "Focusing").

A schedule is called with the time τ in epochs, fractions allowed: ``optimizer.gamma = schedule(epoch)``.  Where γ
starts can be found automatically, by `EntropySGD.balanced_gamma` and `ReplicatedSGD.balanced_gamma`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bpflat.arguments import check_scalar

__all__ = ["Constant", "Cosine", "Exponential"]

_LARGEST_EXPONENT = 200.0  # e^200 times a γ₀ of 1e100 is still a number


@dataclass(frozen=True)
class Constant:
    """No focusing: ``γ(τ) = γ``.

    Parameters
    ----------
    gamma : float
        Coupling, at least 0 and finite, else ValueError.

    Examples
    --------
    >>> from bpflat.optim import focusing
    >>> schedule = focusing.Constant(0.1)
    >>> schedule(0), schedule(50)
    (0.1, 0.1)
    """

    gamma: float

    def __post_init__(self) -> None:
        check_scalar("gamma", self.gamma)

    def __call__(self, tau: float) -> float:
        """Return γ at epoch `tau`."""
        check_scalar("tau", tau)
        return self.gamma


@dataclass(frozen=True)
class Exponential:
    """Focusing of Section 4: ``γ(τ) = γ₀ (1 + γ₁)^τ``.

    Parameters
    ----------
    gamma0, gamma1 : float
        First coupling γ₀ and its growth γ₁ per epoch, at least 0 and finite, else ValueError.

    Examples
    --------
    >>> from bpflat.optim import focusing
    >>> schedule = focusing.Exponential.over(0.01, epochs=100, factor=10)
    >>> round(schedule(0), 6), round(schedule(50), 6), round(schedule(100), 6)
    (0.01, 0.031623, 0.1)
    """

    gamma0: float
    gamma1: float

    def __post_init__(self) -> None:
        check_scalar("gamma0", self.gamma0)
        check_scalar("gamma1", self.gamma1)

    @classmethod
    def over(cls, gamma0: float, epochs: float, factor: float = 10.0) -> Exponential:
        """Schedule that starts at `gamma0` and has grown by `factor` after `epochs`.

        The paper lets γ grow by 10 for Entropy-SGD and by 10⁴ for Replicated-SGD (Section 4 and Appendix C).

        Raises
        ------
        ValueError
            `epochs` is not positive or too few for such a growth, or `factor` is below 1.
        """
        check_scalar("epochs", epochs, above=0.0)
        log_factor = math.log(check_scalar("factor", factor, at_least=1.0))
        check_scalar("epochs", epochs, at_least=log_factor / _LARGEST_EXPONENT, why="to grow by such a factor")
        return cls(gamma0, math.expm1(log_factor / epochs))

    def __call__(self, tau: float) -> float:
        """Return γ at epoch `tau`."""
        latest = _LARGEST_EXPONENT / math.log1p(self.gamma1) if self.gamma1 else math.inf
        check_scalar("tau", tau, at_most=latest, why="γ would be beyond all floats")
        return self.gamma0 * (1.0 + self.gamma1) ** tau


@dataclass(frozen=True)
class Cosine:
    """Cosine focusing: ``γ(τ) = γ_max/2 (1 − cos(π τ/τ_tot))``, from 0 to γ_max; γ_max from τ_tot on.

    Appendix C.1 (PyramidNet) prints ``γ_max/2 cos(π τ/τ_tot)``.  That would start at its largest value and turn
    negative, so that replicas repel each other, half-way; focusing means that γ grows, hence this reading.

    Parameters
    ----------
    gamma_max : float
        Last coupling, at least 0 and finite, else ValueError.
    epochs : float
        τ_tot, positive, else ValueError.

    Examples
    --------
    >>> from bpflat.optim import focusing
    >>> schedule = focusing.Cosine(gamma_max=0.2, epochs=100)
    >>> schedule(0), round(schedule(50), 6), schedule(100)
    (0.0, 0.1, 0.2)
    """

    gamma_max: float
    epochs: float

    def __post_init__(self) -> None:
        check_scalar("gamma_max", self.gamma_max)
        check_scalar("epochs", self.epochs, above=0.0)

    def __call__(self, tau: float) -> float:
        """Return γ at epoch `tau`."""
        check_scalar("tau", tau)
        return 0.5 * self.gamma_max * (1.0 - math.cos(math.pi * min(tau / self.epochs, 1.0)))
