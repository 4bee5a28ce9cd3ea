"""The cells of Table 1: network × data × {baseline, rSGD, eSGD, rSGD×y}, with the values of Appendix C.

Times are in epochs. An epoch of the baseline and of a replica is one pass over the training data; one of eSGD has as
many outer steps as the baseline has steps, so L passes. "rSGD" divides the baseline's epochs by y, eSGD's are printed
and about the baseline's divided by L, "rSGD×y" gives each replica the baseline's. Blanks of the table are absent.

Where Appendix C leaves something open:

- rSGD×y has the settings of rSGD, with schedules as long as the baseline's.
- eSGD's γ grows by 10 over the run and rSGD's by 10⁴, as said in general. The γ₁ printed for eSGD are not per epoch:
  SmallConvNet's 2·10⁻⁵ gives 10.4 over its 60 epochs if counted per gradient evaluation, ResNet-110's 5·10⁻⁴ gives a
  factor near 10 in no unit. Per outer step, as the group's code counts, they give 1.6 and 512, and DenseNet-121's
  2·10⁻⁵ gives 1.9: `with_printed_growth`.
- The printed γ₀ and γ_max of rSGD are those of eq. 6, whose distance has a ½ (eq. 2). The group's code leaves the ½
  out, so that the same number pulls twice as strongly: `gamma_convention` "code". Automatic γ₀ balance themselves.
- rSGD descends eq. 6, a sum over the replicas. The group's code descends its mean, by SGD whose weight decay λ is not
  divided by y: in terms of eq. 6, η/y and yλ. A later version multiplies the η that it is given by y, which leaves yλ
  alone. `loss_convention` "mean" and "mean-y-eta".
- eSGD's inner momentum is zeroed whenever w' returns to w, as in the group's code: each loop is a chain of its own.
- γ₀ that are not printed are automatic.
- Drops and decays of rSGD are the baseline's, rescaled with the epochs; so is where PyramidNet's K falls from 10 to 3.
- η' stays constant. ResNet-110's baseline and rSGD have momentum without Nesterov, as He et al. 2016.
- EfficientNet's "same settings as Tan & Le 2019" are their code's: RMSprop in TensorFlow's form, bicubic resizing, its
  BatchNorm. AutoAugment comes after the standard preprocessing that it is added to. eSGD has SGD in both loops.
- Elsewhere sub-policies come before crop and flip, as in the code of Cubuk et al. 2018 and Lim et al. 2019.
- ResNet-18 is torchvision's, with the stem for ImageNet, which explains the 13 %; "resnet18" has a stem for CIFAR.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from bpflat.optim import focusing
from training.deep.augment import Augmentation
from training.deep.images import SOURCES
from training.deep.rmsprop import TensorFlowRMSprop
from training.deep.schedules import Annealing, Decay, Drops
from training.deep.sub_policies import Policy, autoaugment_cifar10, fast_autoaugment_imagenet

GAMMA_CONVENTIONS = {"eq6": 1.0, "code": 2.0}  # printed γ times this is the γ of eq. 6
LOSS_CONVENTIONS = {"eq6": (0, 0), "mean": (1, 1), "mean-y-eta": (0, 1)}  # powers of y: η is divided, λ multiplied
COLUMNS = ("baseline", "rsgd", "esgd", "rsgd-y")
LABELS = {"baseline": "Baseline", "rsgd": "rSGD", "esgd": "eSGD", "rsgd-y": "rSGD×y"}
POLICIES: dict[str, Callable[[int], Policy]] = {  # sub-policies for images of a size
    "none": lambda size: (),
    "autoaugment-cifar10": autoaugment_cifar10,
    "fast-autoaugment-imagenet": lambda size: fast_autoaugment_imagenet(),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One cell of Table 1.

    Attributes
    ----------
    row, column : str
        Such as "resnet18-cifar10", and one of `COLUMNS`.
    model, data : str
        Names in `training.models.MODELS` and `training.deep.images.SOURCES`.
    model_options : dict
        Handed to the network, such as its dropout.
    epochs : int
        Epochs of each replica; of the outer loop for eSGD, whose epoch has L passes.
    eta : Drops, Annealing or Decay
        Learning rate η of the baseline, of each replica, of eSGD's outer step.
    optimizer : {"sgd", "rmsprop-tf"}
        The latter is `training.deep.rmsprop.TensorFlowRMSprop`.
    momentum, nesterov, weight_decay, batch
        Settings of the optimizer, inside and outside for eSGD; patterns in a minibatch.
    y, K : int
        Replicas, and steps between their interactions (rSGD).
    K_late, K_late_from : int, float
        K from this epoch on; 0 for no change.
    coupling : str
        Coupling of `bpflat.optim.ReplicatedSGD`.
    L, eta_prime, epsilon, alpha, reset_inner
        eSGD: inner steps, their learning rate η', noise and averaging constant; whether every loop begins without
        momentum.
    gamma0 : float or None
        First γ; None for the automatic one.
    gamma_growth : float
        Factor by which γ grows, exponentially, over the run.
    gamma1 : float
        What is printed for eSGD, per outer step (`with_printed_growth`); 0 where nothing is.
    gamma_max : float
        If not 0, cosine focusing up to this γ instead.
    gamma_convention : {"eq6", "code"}
        What the γ₀ and γ_max of rSGD multiply: d(w^a, w̄) of eq. 2, or |w^a − w̄|², which pulls twice as strongly.
    loss_convention : {"eq6", "mean", "mean-y-eta"}
        What rSGD's `eta` and `weight_decay` belong to: eq. 6, its mean over the replicas, or that mean with yη.
    size, padding, flip, policy, cutout, interpolation, policy_last
        See `training.deep.augment.Augmentation`; `policy` is a name in `POLICIES`.
    """

    row: str
    column: str
    model: str
    data: str
    epochs: int
    eta: Drops | Annealing | Decay
    batch: int
    weight_decay: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    y: int = 1
    K: int = 10
    K_late: int = 0
    K_late_from: float = 0.0
    coupling: str = "gradient"
    L: int = 1
    eta_prime: float = 0.0
    epsilon: float = 1e-4
    alpha: float = 0.75
    reset_inner: bool = True
    gamma0: float | None = None
    gamma_growth: float = 1.0
    gamma1: float = 0.0
    gamma_max: float = 0.0
    gamma_convention: str = "eq6"
    loss_convention: str = "eq6"
    size: int = 0
    padding: int = 4
    flip: bool = True
    policy: str = "none"
    cutout: int = 0
    interpolation: str = "bilinear"
    policy_last: bool = False
    model_options: dict = field(default_factory=dict)

    def __post_init__(self):
        for name, known in (("gamma_convention", GAMMA_CONVENTIONS), ("loss_convention", LOSS_CONVENTIONS)):
            if getattr(self, name) not in known:
                option = name.replace("_", "-")
                raise ValueError(f"{option} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        if self.loss_convention != "eq6" and self.algorithm == "rsgd" and self.optimizer != "sgd":
            raise ValueError(f"loss-convention {self.loss_convention} is known for SGD alone, not for {self.optimizer}")

    @property
    def name(self) -> str:
        """Row and column, such as "resnet18-cifar10-rsgd"."""
        return f"{self.row}-{self.column}"

    @property
    def algorithm(self) -> str:
        """One of "sgd", "rsgd", "esgd"."""
        return {"baseline": "sgd", "rsgd-y": "rsgd"}.get(self.column, self.column)

    @property
    def steps(self) -> int:
        """Steps of the baseline, of each replica, or outer steps of eSGD, on all images of the published data."""
        return self.epochs * (SOURCES[self.data].n_train // self.batch)

    @property
    def printed_gamma0(self) -> float:
        """γ₀ as eq. 6 means it; NaN for the automatic one."""
        return math.nan if self.gamma0 is None else self._strength * self.gamma0

    @property
    def _strength(self) -> float:
        return GAMMA_CONVENTIONS[self.gamma_convention] if self.algorithm == "rsgd" else 1.0

    def focusing(self, gamma0: float) -> focusing.Exponential | focusing.Cosine:
        """Schedule of γ of eq. 6 over the epochs of the recipe, from `gamma0` where it is not the cosine one."""
        if self.gamma_max:
            return focusing.Cosine(self._strength * self.gamma_max, self.epochs)
        return focusing.Exponential.over(gamma0, self.epochs, self.gamma_growth)

    def learning_rate(self, tau: float) -> float:
        """η of a step on eq. 6 at epoch `tau`, of the baseline's, or of eSGD's outer one."""
        return self.eta(tau) / self.y ** LOSS_CONVENTIONS[self.loss_convention][0]

    def interval(self, tau: float, pace: float = 1.0) -> int:
        """K at epoch `tau`; about `pace` times it, for as many interactions in a run of `pace` times the steps."""
        K = self.K_late if self.K_late and tau >= self.K_late_from else self.K
        return max(1, round(K * pace))

    def base_optimizer(self, model: nn.Module, eta: float | None = None) -> torch.optim.Optimizer:
        """Optimizer of the recipe for `model`, with learning rate `eta` instead of the first one if given."""
        eta = self.learning_rate(0.0) if eta is None else eta
        if self.optimizer == "rmsprop-tf" and self.algorithm != "esgd":
            return TensorFlowRMSprop(model.parameters(), eta, momentum=self.momentum, weight_decay=self.weight_decay)
        decay = self.weight_decay * self.y ** LOSS_CONVENTIONS[self.loss_convention][1]
        return torch.optim.SGD(
            model.parameters(), eta, momentum=self.momentum, nesterov=self.nesterov, weight_decay=decay
        )

    def augmentation(self, policy: Policy | None = None) -> Augmentation:
        """What happens to its minibatches; `policy` instead of the recipe's own sub-policies if given."""
        if policy is None:
            policy = POLICIES[self.policy](self.size or SOURCES[self.data].size)
        kept = ("size", "padding", "flip", "cutout", "interpolation", "policy_last")
        return Augmentation(policy=policy, **{name: getattr(self, name) for name in kept})


def _cells(baseline: Recipe, rsgd: dict, esgd: dict | None) -> list[Recipe]:
    """A row of the table: the baseline, and what differs from it for the entropic algorithms."""
    replicated = {"y": 3, "gamma_growth": 1e4} | rsgd
    parallel = replace(baseline, column="rsgd-y", **replicated)
    epochs = round(baseline.epochs / parallel.y)
    ratio = epochs / baseline.epochs
    shortened = {"epochs": epochs, "eta": parallel.eta.stretched(ratio), "K_late_from": parallel.K_late_from * ratio}
    cells = [baseline, replace(parallel, column="rsgd", **shortened), parallel]
    if esgd is not None:
        cells.append(replace(baseline, column="esgd", **{"L": 5, "gamma_growth": 10.0, "nesterov": True} | esgd))
    return cells


def _pyramidnet(data: str, **late: float) -> list[Recipe]:
    return _cells(
        Recipe(
            row=f"pyramidnet-{data}",
            column="baseline",
            model="pyramidnet272",
            data=data,
            epochs=300,
            eta=Annealing(0.05, 300),
            batch=64,
            weight_decay=5e-5,
            policy="autoaugment-cifar10",
            cutout=16,
        ),
        rsgd={"gamma_max": 0.1} | late,
        esgd=None,
    )


_TINY = {
    "column": "baseline",
    "data": "tiny-imagenet",
    "batch": 128,
    "weight_decay": 1e-4,
    "padding": 8,
    "policy": "fast-autoaugment-imagenet",
}

_ALL = [
    *_cells(
        Recipe(
            row="smallconvnet-cifar10",
            column="baseline",
            model="smallconvnet",
            data="cifar10",
            epochs=300,
            eta=Drops(0.01, (150, 225)),
            batch=128,
            weight_decay=1e-4,
        ),
        rsgd={"eta": Drops(0.05, (150, 225)), "gamma0": 1e-3},
        esgd={"epochs": 60, "eta": Drops(0.5, (30, 45)), "eta_prime": 0.02, "gamma0": 0.5, "gamma1": 2e-5},
    ),
    *_cells(
        Recipe(
            row="resnet18-cifar10",
            column="baseline",
            model="resnet18-imagenet-stem",
            data="cifar10",
            epochs=160,
            eta=Drops(0.01, (110,)),
            batch=128,
            weight_decay=5e-4,
        ),
        rsgd={"eta": Drops(0.02, (110,)), "K": 1},
        esgd={"epochs": 32, "eta": Drops(0.25, (16, 25)), "eta_prime": 0.01},
    ),
    *_cells(
        Recipe(
            row="resnet110-cifar10",
            column="baseline",
            model="resnet110",
            data="cifar10",
            epochs=164,
            eta=Drops(0.1, (82, 124), warm_up=(0.01, 1)),
            batch=128,
            weight_decay=1e-4,
            nesterov=False,
        ),
        rsgd={"eta": Drops(0.1, (82, 124)), "gamma0": 5e-4},
        esgd={"epochs": 32, "eta": Drops(0.9, (17, 25)), "eta_prime": 0.02, "gamma0": 0.1, "gamma1": 5e-4},
    ),
    *_pyramidnet("cifar10", K_late=3, K_late_from=220.0),
    *_pyramidnet("cifar100"),
    *_cells(
        Recipe(
            row="efficientnet-b0-cifar100",
            column="baseline",
            model="efficientnet-b0",
            data="cifar100",
            epochs=350,
            eta=Decay(0.01, 0.97),
            batch=64,
            weight_decay=1e-5,
            optimizer="rmsprop-tf",
            size=224,
            interpolation="bicubic",
            padding=32,
            policy="autoaugment-cifar10",
            policy_last=True,
        ),
        rsgd={"gamma0": 5e-6},
        esgd={"epochs": 70, "eta": Decay(0.5, 0.92), "eta_prime": 0.05},
    ),
    *_cells(
        Recipe(row="resnet50-tiny-imagenet", model="resnet50", epochs=270, eta=Drops(0.05, (90, 180, 240)), **_TINY),
        rsgd={},
        esgd={"epochs": 50, "eta": Drops(0.8, (18, 36, 48)), "eta_prime": 0.02},
    ),
    *_cells(
        Recipe(row="densenet121-tiny-imagenet", model="densenet121", epochs=200, eta=Drops(0.05, (100, 150)), **_TINY),
        rsgd={},
        esgd={"epochs": 40, "eta": Drops(0.5, (25, 30)), "eta_prime": 0.02, "gamma0": 1.0, "gamma1": 2e-5},
    ),
]

RECIPES: dict[str, dict[str, Recipe]] = {}
for _recipe in _ALL:
    RECIPES.setdefault(_recipe.row, {})[_recipe.column] = _recipe


def find_recipe(row: str, column: str) -> Recipe:
    """Return the recipe of one cell; a ValueError says which there are."""
    if row not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}; got {row!r}")
    if column not in RECIPES[row]:
        raise ValueError(f"Table 1 has for {row} only {', '.join(RECIPES[row])}; not {column!r}")
    return RECIPES[row][column]


def with_printed_growth(recipe: Recipe) -> Recipe:
    """Return the recipe with γ growing by the printed γ₁ in each outer step, ``γ₀ (1 + γ₁)^t``, instead of by 10.

    Raises
    ------
    ValueError
        When Appendix C prints no γ₁ for it.
    """
    if not recipe.gamma1:
        printed = ", ".join(
            cells["esgd"].name for cells in RECIPES.values() if "esgd" in cells and cells["esgd"].gamma1
        )
        raise ValueError(f"Appendix C prints no γ₁ for {recipe.name}, only for {printed}")
    return replace(recipe, gamma_growth=math.exp(recipe.steps * math.log1p(recipe.gamma1)))


def as_plain(recipe: Recipe) -> dict:
    """Return the recipe as a dict for JSON, with the kind of its learning-rate schedule.

    Fields that came later are left out where they mean nothing or are at the defaults that old runs had, so that runs
    stored before them are still recognised, and those of other algorithms are not.
    """
    fields = dataclasses.asdict(recipe)
    idle = {"sgd": _OF_RSGD + _OF_ESGD, "rsgd": _OF_ESGD, "esgd": _OF_RSGD}[recipe.algorithm]
    idle += tuple(name for name, value in _OF_BEFORE.items() if fields[name] == value)
    kept = {name: value for name, value in fields.items() if name not in idle}
    return kept | {"eta_schedule": type(recipe.eta).__name__}


_OF_BEFORE = {
    "flip": True,
    "model_options": {},
    "interpolation": "bilinear",
    "policy_last": False,
    "loss_convention": "eq6",
}
_OF_RSGD = ("coupling", "gamma_convention", "loss_convention")
_OF_ESGD = ("reset_inner", "gamma1")
