"""The five training protocols of the committee machine (Appendix B.1), with the paper's symbols as field names."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

from bpflat.arguments import check_choice, check_count, check_scalar

LARGEST_VALUE = 1e30  # beta, omega and gamma stop growing here: far beyond saturation, far from overflow
_LARGEST_RATE = 1e6  # with it the products η β that multiply a gradient stay in the range of float32


class Scheduled(NamedTuple):
    """Values of the three scheduled parameters during one epoch."""

    beta: float
    omega: float
    gamma: float


def grow(start: float, rate: float, time: float) -> float:
    """Exponential schedule ``a(t) = a₀ (1 + a₁)^t``, held where it would pass `LARGEST_VALUE` or its inverse."""
    if start == 0.0:
        return 0.0
    exponent = math.log(start) + (time * math.log1p(rate) if rate else 0.0)  # no 0 times ∞
    limit = math.log(LARGEST_VALUE)
    return math.exp(max(min(exponent, limit), -limit))


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
    start : {"independent", "equal"}
        Whether the replicas of a restart start from machines drawn one by one, or all from the first of them (rSGD).
    pull : {"gamma", "eta gamma", "eta B gamma"}
        Part of its way to ū (rSGD) or u (eSGD) by which each minibatch pulls a machine: γ, a step of its own beside the
        gradient's; ηγ, a term γ(u − ū) of the gradient; ηBγ, one such term per pattern.  In eSGD this η is η'.
    outer_step : {"eta gamma", "eta", "eta B gamma"}
        Part of its way to μ that u goes in an outer step of eSGD: ηγ, the gradient of eq. 5; η, Lookahead; ηBγ, the
        gradient summed over a minibatch.
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

    Where `pull` or `outer_step` passes 1, machines overshoot what attracts them: such a protocol cannot be trained, and
    a restart in which γ has grown so far ends with the status "its pull would pass 1".  `reduction`, `start`, `pull`
    and `outer_step` are conventions that the paper leaves open.

    Raises
    ------
    ValueError
        A number out of its range, or a field that the algorithm does not use set to other than its default.
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
    start: str = "independent"
    pull: str = "eta gamma"
    outer_step: str = "eta gamma"
    tolerance: float = 0.0
    dropout: float = 0.0
    schedule_speed: float = 1.0

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        for name in _COUNTS:
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        for name, limits in _LIMITS.items():
            object.__setattr__(self, name, check_scalar(name, getattr(self, name), **limits))
        for name in ("name", "label"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} must be text; got {getattr(self, name)!r}")
        if self.K % 2 == 0:
            raise ValueError(f"K must be odd, or the vote can tie; got {self.K}")
        self._require_used_fields()
        if self.algorithm == "sgd" and self.stop == "distance":
            raise ValueError("stop='distance' needs algorithm='rsgd' or 'esgd'; choose 'zero-errors' or 'mean-loss'")
        if self.algorithm == "rsgd" and self.y == 1 and self.stop == "distance":
            raise ValueError("y must be at least 2 for stop='distance': one replica is its own centre, at distance 0")
        if self.algorithm == "esgd" and self.eta_prime == 0:
            raise ValueError("eta_prime must be positive for algorithm='esgd': u' does not move without it")
        if self.algorithm == "esgd" and self.gamma0 == 0 and self.outer_step != "eta":
            raise ValueError(f"gamma0 must be positive for outer_step={self.outer_step!r}: u does not move without it")
        if self.stop != "zero-errors" and self.tolerance == 0:
            raise ValueError(f"tolerance must be positive for stop={self.stop!r}; got {self.tolerance}")

    def _require_used_fields(self) -> None:
        """Raise for a field that would change nothing."""
        for field in fields(self):
            users = _USERS.get(field.name, (self.algorithm,))
            value = getattr(self, field.name)
            if self.algorithm not in users and value != field.default:
                wanted = " or ".join(repr(user) for user in users)
                raise ValueError(
                    f"{field.name} = {value!r} needs algorithm={wanted}, not {self.algorithm!r}; "
                    f"leave it at {field.default!r}"
                )

    def scheduled(self, epoch: int) -> Scheduled:
        """β, ω and γ during epoch `epoch` (counted from 0)."""
        time = self.schedule_speed * epoch
        return Scheduled(
            grow(self.beta0, self.beta1, time),
            grow(self.omega0, self.omega1, time),
            grow(self.gamma0, self.gamma1, time),
        )

    def attractions(self, epoch: int) -> dict[str, float]:
        """`pull` and `outer_step` in numbers during epoch `epoch`, those of them that the algorithm has."""
        gamma = self.scheduled(epoch).gamma
        if self.algorithm == "esgd":
            return {
                "pull": self._product(self.pull, self.eta_prime, gamma),
                "outer_step": self._product(self.outer_step, self.eta, gamma),
            }
        return {"pull": self._product(self.pull, self.eta, gamma)} if self.algorithm == "rsgd" else {}

    def _product(self, symbols: str, eta: float, gamma: float) -> float:
        values = {"eta": eta, "B": self.B, "gamma": gamma}
        return math.prod(values[symbol] for symbol in reversed(symbols.split()))


CHOICES = {  # of the fields that are words
    "algorithm": ("sgd", "rsgd", "esgd"),
    "stop": ("zero-errors", "mean-loss", "distance"),
    "reduction": ("sum", "mean"),
    "start": ("independent", "equal"),
    "pull": ("gamma", "eta gamma", "eta B gamma"),
    "outer_step": ("eta gamma", "eta", "eta B gamma"),
}
_COUNTS = ("y", "L", "K", "B", "max_epochs")
_LIMITS = {  # of the real numbers, which are at least 0 where nothing else is said; see `check_scalar`
    "eta": {"above": 0.0, "at_most": _LARGEST_RATE},
    "eta_prime": {"at_most": _LARGEST_RATE},
    "beta0": {"at_least": 1 / LARGEST_VALUE, "at_most": LARGEST_VALUE},
    "omega0": {"at_least": 1 / LARGEST_VALUE, "at_most": LARGEST_VALUE},
    "gamma0": {"at_most": LARGEST_VALUE},
    **{rate: {"at_least": -1.0, "above": -1.0} for rate in ("beta1", "omega1", "gamma1")},
    "epsilon": {"at_most": LARGEST_VALUE},
    "alpha": {"below": 1.0},
    "dropout": {"below": 1.0},
    "tolerance": {},
    "schedule_speed": {"above": 0.0},
}
_USERS = {  # algorithms that look at a field; all of them where none is named
    **dict.fromkeys(("y", "start"), ("rsgd",)),
    **dict.fromkeys(("gamma0", "gamma1", "pull"), ("rsgd", "esgd")),
    **dict.fromkeys(("eta_prime", "epsilon", "alpha", "L", "outer_step"), ("esgd",)),
}


def current_fields(stored: dict) -> dict:
    """Fields of a protocol as it was stored, under today's names.

    The first release held one convention, `coupling`, for eSGD's two steps together: "plain" (ηγ) or "batch" (ηBγ).
    """
    if "coupling" not in stored:
        return stored
    kept = {name: value for name, value in stored.items() if name != "coupling"}
    pull = outer_step = "eta gamma"
    if stored["coupling"] == "batch" and stored["algorithm"] != "sgd":
        pull = "eta B gamma"
        outer_step = pull if stored["algorithm"] == "esgd" else outer_step
    return kept | {"start": "independent", "pull": pull, "outer_step": outer_step}


_RSGD = {
    "algorithm": "rsgd",
    "y": 10,
    "beta0": 1.0,
    "beta1": 2e-4,
    "omega0": 0.5,
    "omega1": 1e-3,
    "start": "equal",  # unit k means the same in all replicas, so that their mean is a machine like them
    "pull": "eta B gamma",  # the whole objective is summed over the minibatch: ends at zero errors
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
