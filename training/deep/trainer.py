"""Training of a deep network by one recipe: baseline, replicated SGD or entropy-SGD in one loop over minibatches.

Everything random in an epoch is a function of (seed, epoch, replica).  So a run that is resumed at an epoch goes on as
one that never stopped, bit for bit (on a GPU as far as its kernels are deterministic), and replicas in processes of
their own do what they do in one, but for the rounding of their mean.  Networks lie in memory channels last, which is
faster and changes rounding alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from bpflat.optim import EntropySGD, ReplicatedSGD, attraction_limit
from training.deep.augment import Augmentation
from training.deep.flatness import FlatnessPlan, FlatnessPoint, measure_flatness
from training.deep.images import Images
from training.deep.processes import first_decides, own_replicas, sum_over
from training.deep.recipes import Recipe
from training.deep.results import EpochMetrics
from training.models import make_model
from training.randomness import augmentation_stream, device_seeds, minibatch_orders, sequence

EVALUATION_BATCH = {"cpu": 100, "cuda": 500}  # on a CPU what its caches hold, which takes half the time


@dataclasses.dataclass
class State:
    """A training between two epochs: its networks, optimizer, first γ (of the recipe; NaN until known) and curves.

    `models` are those of the `replicas` in this process, the others are in other processes of the `group`.  `pace` is
    what fraction of the recipe's steps γ and K of rSGD are rescaled to (`training.deep.run`); 1 leaves them.
    """

    recipe: Recipe
    replicas: range
    models: list[nn.Module]
    optimizer: Optimizer
    gamma0: float
    group: dist.ProcessGroup | None = None
    pace: float = 1.0
    epoch: int = 0
    curves: list[EpochMetrics] = dataclasses.field(default_factory=list)
    flatness: list[FlatnessPoint] = dataclasses.field(default_factory=list)

    def gamma(self, tau: float) -> float:
        """γ at epoch `tau` of the recipe."""
        return self.recipe.focusing(self.gamma0)(tau) / self.pace

    def K(self, tau: float) -> int:
        """Steps between interactions at epoch `tau` of the recipe."""
        return self.recipe.interval(tau, self.pace)


@dataclasses.dataclass(frozen=True)
class DeepReport:
    """What a progress callback is shown after each epoch."""

    name: str
    epochs: int
    metrics: EpochMetrics

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.metrics.epoch

    def describe(self, epochs_per_second: float) -> str:
        """Epoch, learning rate, γ, errors, distance and rate, for people."""
        m = self.metrics
        parts = [f"{self.name} epoch {m.epoch}/{self.epochs}", f"η {m.eta:.3g}"]
        if not math.isnan(m.gamma):
            parts.append(f"γ {m.gamma:.3g} distance {m.distance:.2e}")
        parts.append(f"loss {m.train_loss:.4f} train {m.train_error:.2%}")
        if not math.isnan(m.test_error):
            parts.append(f"test {m.test_error:.2%}")
        left = (self.epochs - m.epoch) / max(epochs_per_second, 1e-12)
        return " | ".join([*parts, f"{m.images_per_second:.0f} images/s", f"{left / 60:.0f} min left"])


def begin(
    recipe: Recipe, classes: int, seed: int, device: torch.device | str, group: dist.ProcessGroup | None = None
) -> State:
    """Return networks with weights of their own, initialised from (seed, replica), and their optimizer.

    Each process of a `group` has as many of the replicas; raises as `training.deep.processes.own_replicas`.
    """
    replicas = own_replicas(recipe.y, group)
    models = []
    for a in replicas:
        torch.manual_seed(int(sequence(seed, 1, a).generate_state(1, np.uint64)[0] >> 1))
        model = make_model(recipe.model, classes, **recipe.model_options)
        models.append(model.to(device, memory_format=torch.channels_last))
    gamma0 = recipe.printed_gamma0
    gamma = 0.0 if math.isnan(gamma0) else gamma0
    if recipe.algorithm == "rsgd":
        bases = [recipe.base_optimizer(model) for model in models]
        optimizer: Optimizer = ReplicatedSGD(bases, gamma=gamma, K=recipe.K, coupling=recipe.coupling, group=group)
    elif recipe.algorithm == "esgd":
        optimizer = EntropySGD(
            recipe.base_optimizer(models[0], recipe.eta_prime),
            recipe.base_optimizer(models[0]),
            gamma=gamma,
            L=recipe.L,
            epsilon=recipe.epsilon,
            alpha=recipe.alpha,
            reset_inner=recipe.reset_inner,
            seed=sequence(seed, 2),
        )
    else:
        optimizer = recipe.base_optimizer(models[0])
    return State(recipe, replicas, models, optimizer, gamma0, group)


def require_stable_attraction(state: State) -> None:
    """Raise a ValueError if ``η K γ`` of rSGD gets so large at any time that SGD would overshoot the centre for ever.

    Nothing is cut: such a run is refused as soon as its γ₀ is known.
    """
    recipe = state.recipe
    if recipe.algorithm != "rsgd" or recipe.optimizer != "sgd" or recipe.coupling != "gradient":
        return
    for tau in np.linspace(0, recipe.epochs, 1001)[:-1]:
        pull = recipe.learning_rate(tau) * state.K(tau) * state.gamma(tau)
        limit = attraction_limit(state.K(tau), recipe.momentum, nesterov=recipe.nesterov)
        if pull > limit:
            raise ValueError(
                f"gamma gets too large from gamma0 = {state.gamma(0):.3g}: η K γ reaches {pull:.3g} at epoch {tau:.3g} "
                f"of the recipe's {recipe.epochs}, and replicas overshoot their centre beyond {limit:.3g}; take a "
                "smaller gamma0 or gamma_growth, or more steps if γ was rescaled for few (--keep-contraction)"
            )


def train(
    state: State,
    images: Images,
    augmentation: Augmentation,
    *,
    epochs: int,
    seed: int,
    evaluate_every: int = 1,
    stop_loss: float | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
    cudnn_benchmark: bool = False,
    flatness: FlatnessPlan | None = None,
    after_epoch: Callable[[State], None] = lambda state: None,
) -> None:
    """Train `state`, in place, up to `epochs`; all schedules of its recipe are stretched to that many.

    Parameters
    ----------
    state : State
    images : Images
        Images on the device of the networks.
    augmentation : Augmentation
    epochs : int
    seed : int
    evaluate_every : int
        Epochs between two evaluations of the test error; the last one is always evaluated.
    stop_loss : float, optional
        End, too, after the first epoch with a lower loss of the centre on the training images as they are. Costs a pass
        over these an epoch.
    bfloat16 : bool
        Autocast forward passes of the training to bfloat16; weights, optimizers and evaluation stay in float32.
    compiled : bool
        Run the networks of the training through `torch.compile`, not those that are evaluated.  Dropout draws others of
        its numbers; the rest changes by rounding.
    cudnn_benchmark : bool
        Let cuDNN try its algorithms and keep the fastest.  Nothing on a CPU; on a GPU results change by rounding, and
        from one run to the next.
    flatness : FlatnessPlan, optional
        Measure the local energy of the centre along the way.
    after_epoch : callable
        Called with the state after every epoch.

    Raises
    ------
    FloatingPointError
        When the loss of an epoch is not finite; the state is then past mending.
    ValueError
        See `require_stable_attraction`.
    """

    def is_over() -> bool:
        if state.epoch >= epochs or stop_loss is None:
            return state.epoch >= epochs
        with centre(state) as model:
            loss, _ = evaluate(model, images.train_images, images.train_labels, images, augmentation)
        return first_decides(loss < stop_loss, state.group)

    over = is_over()
    if not math.isnan(state.gamma0) or state.recipe.gamma_max:
        require_stable_attraction(state)
    networks = [torch.compile(model) for model in state.models] if compiled else state.models
    ended = time.perf_counter()
    while not over:
        started = time.perf_counter()
        with _cudnn(cudnn_benchmark):
            metrics = _one_epoch(state, networks, images, augmentation, epochs, seed, bfloat16)
        seconds = time.perf_counter() - started
        if not math.isfinite(metrics.train_loss):
            raise FloatingPointError(f"the loss became {metrics.train_loss} in epoch {state.epoch + 1}")
        rate = metrics.passes * len(images.train_labels) / seconds
        passes = metrics.passes * (state.epoch + 1)  # those of one epoch until here
        state.epoch += 1
        over = is_over()
        test_loss = test_error = math.nan
        is_measured = flatness is not None and (over or state.epoch % flatness.every == 0)
        if over or state.epoch % evaluate_every == 0 or is_measured:
            with centre(state) as model:
                test_loss, test_error = evaluate(model, images.test_images, images.test_labels, images, augmentation)
                if is_measured:
                    train = evaluate(model, images.train_images, images.train_labels, images, augmentation)
                    profile = measure_flatness(model, images, augmentation, flatness, seed=seed, epoch=state.epoch)
                    state.flatness.append(FlatnessPoint(state.epoch, *profile, *train, test_error))
        before, ended = ended, time.perf_counter()
        state.curves.append(
            dataclasses.replace(
                metrics,
                epoch=state.epoch,
                passes=passes,
                test_loss=test_loss,
                test_error=test_error,
                images_per_second=rate,
                seconds=ended - before,
            )
        )
        after_epoch(state)


@contextlib.contextmanager
def _cudnn(benchmark: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _one_epoch(
    state: State,
    networks: list[nn.Module],
    images: Images,
    augmentation: Augmentation,
    epochs: int,
    seed: int,
    bfloat16: bool,
) -> EpochMetrics:
    """One epoch through `networks`, which are the models or are compiled from them.

    But for the first γ, nothing waits for the device before its end.
    """
    recipe, optimizer, device = state.recipe, state.optimizer, images.train_images.device
    n_patterns = len(images.train_labels)
    orders = minibatch_orders(
        seed, 0, state.epoch, y=recipe.y, passes=recipe.L, n_patterns=n_patterns, batch=recipe.batch
    )[:, state.replicas.start : state.replicas.stop]
    streams = [augmentation_stream(seed, 0, state.epoch, a) for a in state.replicas]
    seeds = np.stack([device_seeds(seed, 0, state.epoch, a, len(orders)) for a in state.replicas], axis=1)
    total = torch.zeros(2, dtype=torch.float64, device=device)
    eta = gamma = math.nan
    balancing = recipe.algorithm != "sgd" and not recipe.gamma_max and math.isnan(state.gamma0)
    for model in state.models:
        model.train()
    for step, minibatches in enumerate(torch.as_tensor(orders, device=device)):
        tau = (state.epoch + step / len(orders)) * recipe.epochs / epochs
        eta = recipe.learning_rate(tau)
        for group in optimizer.param_groups:
            group["lr"] = eta
        optimizer.zero_grad()
        losses = []
        for model, members, rng, own in zip(networks, minibatches, streams, seeds[step], strict=True):
            torch.manual_seed(int(own))  # dropout, ShakeDrop, stochastic depth
            loss, wrong = _forward_backward(model, members, images, augmentation, rng, bfloat16)
            losses.append(loss)
            total += torch.stack([loss, wrong]).double()
        if recipe.algorithm != "sgd":
            if balancing and recipe.algorithm == "rsgd":  # at the initial weights
                state.gamma0, balancing = optimizer.balanced_gamma(losses), False
                require_stable_attraction(state)
            gamma = 0.0 if balancing else state.gamma(tau)
            optimizer.gamma = gamma
        if recipe.algorithm == "rsgd":
            optimizer.K = state.K(tau)
        if step == 0:
            first_loss = losses[0]
        optimizer.step()
        if balancing and step == recipe.L - 1:  # the loop of eSGD that was run without attraction
            state.gamma0, balancing = optimizer.balanced_gamma(first_loss), False
    n_minibatches = len(orders) * recipe.y
    train_loss, train_error = (sum_over(total, state.group) / n_minibatches).tolist()
    return EpochMetrics(
        epoch=state.epoch + 1,
        passes=n_minibatches * recipe.batch / n_patterns,
        eta=eta,
        gamma=gamma,
        train_loss=train_loss,
        train_error=train_error / recipe.batch,
        test_loss=math.nan,
        test_error=math.nan,
        distance=math.nan if recipe.algorithm == "sgd" else optimizer.distance().item(),
        images_per_second=math.nan,
    )


def _forward_backward(
    model: nn.Module,
    members: Tensor,
    images: Images,
    augmentation: Augmentation,
    rng: np.random.Generator,
    bfloat16: bool,
) -> tuple[Tensor, Tensor]:
    """Loss of one minibatch, whose gradients are left in the model, and its number of errors."""
    labels = images.train_labels[members]
    inputs = augmentation(images.train_images[members], images.mean, images.std, rng)
    # One context a pass: autocast keeps the weights that it has cast until its context ends.
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bfloat16):
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels)
    loss.backward()
    return loss.detach(), (logits.detach().argmax(1) != labels).sum()


@contextlib.contextmanager
def centre(state: State) -> Iterator[nn.Module]:
    """Give the block the network of the centre, w or w̄, in evaluation mode; then its weights are as before.

    All processes of a group must enter, and each has the whole centre.

    Statistics of BatchNorm are for all algorithms the running ones of the minibatches that were trained on, augmented
    as they were: of the baseline, along the w' of eSGD, and their mean over the replicas of rSGD.
    """
    exchange = {
        "sgd": contextlib.nullcontext,
        "esgd": lambda: state.optimizer.centre(),
        "rsgd": lambda: state.optimizer.centre(state.models),
    }[state.recipe.algorithm]
    with exchange():
        yield state.models[0].eval()


@torch.no_grad()
def evaluate(
    model: nn.Module, inputs: Tensor, labels: Tensor, images: Images, augmentation: Augmentation
) -> tuple[float, float]:
    """Mean loss and error, a fraction, of uint8 images (P, C, H, W) that are only resized and normalised."""
    total = torch.zeros(2, dtype=torch.float64, device=inputs.device)
    batch = EVALUATION_BATCH[inputs.device.type]
    for part, targets in zip(inputs.split(batch), labels.split(batch), strict=True):
        logits = model(augmentation.plain(part, images.mean, images.std)).float()
        loss = F.cross_entropy(logits, targets, reduction="sum")
        total += torch.stack([loss, (logits.argmax(1) != targets).sum()]).double()
    loss, error = (total / len(labels)).tolist()
    return loss, error
