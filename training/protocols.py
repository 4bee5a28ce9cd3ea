"""The five training protocols of the committee machine (Appendix B.1), with the paper's symbols as field names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

LARGEST_SCALE = 1e30  # beta, omega and gamma stop growing here: far beyond saturation, far from overflow


class Scales(NamedTuple):
    """Values of the three scheduled parameters during one epoch."""

    beta: float
    omega: float
    gamma: float


def grow(start: float, rate: float, time: float) -> float:
    """Exponential schedule ``a(t) = a₀ (1 + a₁)^t``, held at `LARGEST_SCALE` where it would pass it."""
    if start == 0.0:
        return 0.0
    return math.exp(min(math.log(start) + time * math.log1p(rate), math.log(LARGEST_SCALE)))


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to train the committee machine; `PROTOCOLS` holds the published five.

    Attributes
    ----------
    name, label : str
        Short name (of files and on the command line) and name for people.
    algorithm : {"sgd", "rsgd", "esgd"}
        Plain SGD, replicated SGD (Algorithm 2), entropy-SGD (Algorithm 1).
    eta : float
        Learning rate η; for eSGD that of the outer step.
    beta0, beta1, omega0, omega1, gamma0, gamma1 : float
        Schedules ``a(t) = a₀ (1 + a₁)^(s t)`` of β, ω and γ, t the epoch, s the `schedule_speed`.
    y : int
        Replicas (rSGD).
    eta_prime, epsilon, alpha : float
        Inner learning rate η', noise ε and averaging constant α (eSGD).
    L : int
        Inner steps of one outer step (eSGD).
    K : int
        Hidden units; odd.
    B : int
        Patterns in a minibatch.
    reduction : {"sum", "mean"}
        Whether η multiplies the sum or the mean of the loss gradients of a minibatch.
    coupling : {"plain", "batch"}
        Whether replicas (or u' and u) attract each other with γ or with Bγ.
    stop : {"zero-errors", "mean-loss", "distance"}
        What ends a restart, looked at once an epoch: no error on the training set (hard signs); mean loss of the
        training set < `tolerance`; squared distance < `tolerance`.
    tolerance : float
        See `stop`.
    dropout : float
        Probability p of dropping an input; kept ones are divided by 1 − p.
    schedule_speed : float
        s > 1 shortens the schedules of β, ω and γ; 1 is the paper.
    max_epochs : int
        A restart that has not stopped by then ends with the status "reached the cap".

    Notes
    -----
    The squared distance of rSGD is ``Σ_ki (u^a_ki − ū_ki)²`` over all weights of a replica, averaged over replicas;
    that of eSGD is ``Σ_ki (u_ki − μ_ki)²``; rows of u have norm 1.
    """

    name: str
    label: str
    algorithm: str
    eta: float
    beta0: float
    beta1: float
    omega0: float
    omega1: float
    stop: str
    max_epochs: int
    gamma0: float = 0.0
    gamma1: float = 0.0
    y: int = 1
    eta_prime: float = 0.0
    epsilon: float = 0.0
    alpha: float = 0.75
    L: int = 1
    K: int = 9
    B: int = 100
    reduction: str = "sum"
    coupling: str = "plain"
    tolerance: float = 0.0
    dropout: float = 0.0
    schedule_speed: float = 1.0

    def __post_init__(self):
        _require_one_of("algorithm", self.algorithm, ("sgd", "rsgd", "esgd"))
        _require_one_of("reduction", self.reduction, ("sum", "mean"))
        _require_one_of("coupling", self.coupling, ("plain", "batch"))
        _require_one_of("stop", self.stop, ("zero-errors", "mean-loss", "distance"))
        if self.K < 1 or self.K % 2 == 0:
            raise ValueError(f"K must be odd and positive, or the vote can tie; got {self.K}")
        for name in ("y", "L", "B", "max_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("eta", "beta0", "omega0", "schedule_speed"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite; got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1): the probability to drop an input; got {self.dropout}")
        if self.algorithm != "rsgd" and self.y != 1:
            raise ValueError(f"y = {self.y} replicas need algorithm='rsgd', not {self.algorithm!r}; set y=1")
        if self.algorithm == "sgd" and self.stop == "distance":
            raise ValueError("stop='distance' needs algorithm='rsgd' or 'esgd'; choose 'zero-errors' or 'mean-loss'")
        if self.stop != "zero-errors" and not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive for stop={self.stop!r}; got {self.tolerance}")

    def scales(self, epoch: int) -> Scales:
        """β, ω and γ during epoch `epoch` (counted from 0)."""
        time = self.schedule_speed * epoch
        return Scales(
            grow(self.beta0, self.beta1, time),
            grow(self.omega0, self.omega1, time),
            grow(self.gamma0, self.gamma1, time),
        )


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


_RSGD = {
    "algorithm": "rsgd",
    "y": 10,
    "beta0": 1.0,
    "beta1": 2e-4,
    "omega0": 0.5,
    "omega1": 1e-3,
    "coupling": "batch",  # the whole objective is summed over the minibatch: ends sooner, and at zero errors
    "stop": "distance",
    "tolerance": 1e-8,
}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="sgd-fast",
            label="SGD fast",
            algorithm="sgd",
            eta=2e-4,
            beta0=2.0,
            beta1=1e-4,
            omega0=5.0,
            omega1=0.0,
            stop="zero-errors",
            max_epochs=5_000,
        ),
        Protocol(
            name="sgd-slow",
            label="SGD slow",
            algorithm="sgd",
            eta=3e-5,
            beta0=0.5,
            beta1=1e-3,
            omega0=0.5,
            omega1=1e-3,
            stop="mean-loss",
            tolerance=1e-7,
            max_epochs=10_000,
        ),
        Protocol(name="rsgd-fast", label="rSGD fast", eta=1e-4, gamma0=2e-3, gamma1=2e-3, max_epochs=10_000, **_RSGD),
        Protocol(name="rsgd-slow", label="rSGD slow", eta=1e-3, gamma0=1e-4, gamma1=1e-4, max_epochs=100_000, **_RSGD),
        Protocol(
            name="esgd",
            label="eSGD",
            algorithm="esgd",
            eta=1e-3,
            eta_prime=5e-3,
            epsilon=1e-6,
            L=20,
            gamma0=10.0,
            gamma1=5e-5,
            beta0=1.0,
            beta1=1e-4,
            omega0=0.5,
            omega1=5e-4,
            stop="distance",
            tolerance=1e-8,
            max_epochs=15_000,
        ),
    )
}
