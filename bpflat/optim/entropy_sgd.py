"""Entropy-SGD, Algorithm 1 of the paper, around any two torch optimizers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from bpflat.arguments import check_count, check_flag, check_scalar
from bpflat.optim.noise import Noise
from bpflat.optim.wrapper import (
    Wrapper,
    check_state,
    evaluate,
    gradients_replaced,
    half_squared_distance,
    has_dense_gradient,
    make_base,
    parameter_groups,
    parameters,
    shapes,
)


class EntropySGD(Wrapper):
    """Entropy-SGD (Algorithm 1): descends the local entropy (eq. 1) along its gradient ``γ (w − ⟨w'⟩)`` (eq. 5).

    The mean ⟨w'⟩ is taken over L steps of Langevin dynamics around w, one minibatch each::

        for t = 1, 2, ...:
            w', μ ← w
            for l = 1, ..., L:                              one call of step() each
                dw' ← ∇L(w'; minibatch) + γ (w' − w)
                w'  ← inner(w', dw') + √η' ε N(0, I)        η' is the learning rate of `inner`
                μ   ← α μ + (1 − α) w'
            w ← outer(w, w − μ)                             η is the learning rate of `outer`

    With plain SGD inside and outside, ``inner(w', dw') = w' − η' dw'`` and ``outer(w, w − μ) = w − η (w − μ)``.  For
    ``ε = α = γ = 0`` this is Lookahead (Zhang et al., 2019) with slow learning rate η.

    Parameters
    ----------
    inner, outer : torch.optim.Optimizer
        Any two optimizers over the same parameters; groups, momentum and weight decay as each likes.
    gamma : float
        Coupling γ; at least 0.  A property, to be set as focusing asks (`bpflat.optim.focusing`).
    L : int
        Inner steps (minibatches) of one outer step.
    epsilon : float
        Noise ε.
    alpha : float
        Averaging constant α, in [0, 1).
    reset_inner : bool
        Forget the state of `inner` (its momentum) whenever w' returns to w.  The paper does not say, its authors' code
        does; kept by default, as in Lookahead.
    project : callable, optional
        Called without arguments after every update of the parameters, inner (noise included) and outer: for
        constraints, such as rows of norm 1.
    seed : int, SeedSequence or None
        Seed of the noise, which must be the same in all data-parallel processes: give them the same seed.  With None,
        where torch.distributed is initialised, process 0 tells all processes its own at their first step with noise.

    Attributes
    ----------
    param_groups, defaults
        Those of `outer`: a learning-rate scheduler on this optimizer schedules η, as in Appendix C.  For η' give the
        scheduler ``.inner``.
    inner, outer, gamma, L, epsilon, alpha, reset_inner
        Arguments as given; may be changed between steps.

    Raises
    ------
    ValueError
        Bad parameters, or sharded ones; a state_dict of another model.

    Notes
    -----
    During the loop the parameters hold w', after every L-th step w.  ``with optimizer.centre():`` puts w there at any
    time, and so do `eval` and `train`, for trainers without blocks.  Running statistics of BatchNorm are those gathered
    along w', of minibatches as they were trained on: for a comparison with networks that keep theirs, leave them.
    `bpflat.optim.batchnorm_statistics` recomputes them at w.

    Gradients: γ (w' − w) is added to ``.grad`` in place; so clipping before the step clips the gradient of the loss
    alone.  A parameter takes part in a loop from its first dense gradient on.  Frozen parameters, and those that get
    no gradient, are left alone; those with sparse gradients are moved by `inner` only.  Beyond the two optimizers' own
    state, three copies of the weights are kept (w, μ, noise).

    With torch.amp.GradScaler, ``scaler.step(optimizer)`` as with any optimizer: a skipped step is not counted.  Around
    DistributedDataParallel all processes take the same steps.  Compiled code calls `step` as it is: to compile what is
    in it, compile ``inner.step``.

    References
    ----------
    Pittorino et al., ICLR 2021, Section 4 and Appendix C; Chaudhari et al., J. Stat. Mech. (2019) 124018.

    Examples
    --------
    >>> import torch
    >>> from bpflat.optim import EntropySGD, focusing
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(256, 10)
    >>> y = (x[:, 0] * x[:, 1] > 0).long()
    >>> model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    >>> momentum = dict(momentum=0.9, nesterov=True, weight_decay=1e-4)
    >>> inner = torch.optim.SGD(model.parameters(), lr=0.1, **momentum)  # η'
    >>> outer = torch.optim.SGD(model.parameters(), lr=0.5, **momentum)  # η
    >>> optimizer = EntropySGD(inner, outer, gamma=0.1, L=5, seed=0)
    >>> epochs = 80
    >>> scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[60])  # of η
    >>> schedule = focusing.Exponential.over(0.1, epochs, factor=10)
    >>> for epoch in range(epochs):
    ...     optimizer.gamma = schedule(epoch)
    ...     for batch in torch.randperm(256).split(32):
    ...         optimizer.zero_grad()
    ...         torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
    ...         _ = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    ...         optimizer.step()
    ...     scheduler.step()
    >>> with optimizer.centre(), torch.no_grad():
    ...     error = (model(x).argmax(1) != y).float().mean().item()
    >>> error < 0.05
    True
    """

    def __init__(
        self,
        inner: Optimizer,
        outer: Optimizer,
        *,
        gamma: float,
        L: int = 5,
        epsilon: float = 1e-4,
        alpha: float = 0.75,
        reset_inner: bool = False,
        project: Callable[[], object] | None = None,
        seed: int | np.random.SeedSequence | None = None,
    ):
        self.inner, self.outer = inner, outer
        super().__init__((inner, outer), gamma, project, ("inner", "outer"))
        if {id(p) for p in parameters(inner)} != {id(p) for p in parameters(outer)}:
            raise ValueError("inner and outer must be over the same parameters: those of one model")
        self.L = L
        self.epsilon = check_scalar("epsilon", epsilon)
        self.alpha = check_scalar("alpha", alpha, below=1, why="or μ never moves")
        self.reset_inner = check_flag("reset_inner", reset_inner)
        self._noise = Noise(seed)
        self._inner_steps = 0
        self._joined: dict[Tensor, None] = {}  # parameters of the running loop, in the order they joined
        self._evaluating = False  # between eval() and train()
        self._distance = torch.tensor(math.nan)

    @classmethod
    def from_base(
        cls,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        base: Callable[..., Optimizer],
        *,
        gamma: float,
        outer_lr: float,
        L: int = 5,
        epsilon: float = 1e-4,
        alpha: float = 0.75,
        reset_inner: bool = False,
        project: Callable[[], object] | None = None,
        seed: int | np.random.SeedSequence | None = None,
        **options: Any,
    ) -> EntropySGD:
        """Return an `EntropySGD` whose inner and outer optimizers are both `base` with the same `options`.

        Parameters
        ----------
        params : iterable
            Parameters or groups of them, as any torch optimizer takes.
        base : callable
            Class of optimizers, such as ``torch.optim.SGD``; for options named as those here are,
            ``functools.partial(RMSprop, alpha=0.9)``.
        outer_lr : float
            η, for all groups; the learning rates in `options` and in the groups are η'.  1/2 is common with SGD.
        gamma, L, epsilon, alpha, reset_inner, project, seed
            Arguments of the class.
        **options
            Options of `base`, such as ``lr=0.02, momentum=0.9``.
        """
        groups = parameter_groups(params)
        inner = make_base(base, groups, options)
        eta = {"lr": check_scalar("outer_lr", outer_lr)}
        outer = make_base(base, [group | eta for group in groups], options | eta)
        loop: dict[str, Any] = {"gamma": gamma, "L": L, "epsilon": epsilon, "alpha": alpha, "reset_inner": reset_inner}
        return cls(inner, outer, **loop, project=project, seed=seed)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the outer optimizer."""
        return self.outer.param_groups

    @property
    def defaults(self) -> dict[str, Any]:
        """Default options of the outer optimizer."""
        return self.outer.defaults

    @property
    def L(self) -> int:
        """Inner steps of one outer step."""
        return self._L

    @L.setter
    def L(self, value: int) -> None:
        self._L = check_count("L", value)

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One inner step, and after every L-th the outer step.

        Parameters
        ----------
        closure : callable, optional
            Clears the gradients, computes the loss and its gradients, and returns it; evaluated once, at w'.  If it
            returns None and no parameter has a gradient, the step is skipped: weights, optimizers and the count of
            inner steps stay, no noise is drawn.

        Returns
        -------
        The loss that the closure returned, or None.

        Raises
        ------
        RuntimeError
            Between `eval` and `train`, or inside `centre`.
        """
        self._require_outside_centre("step()")
        if self._evaluating:
            raise RuntimeError("step() after eval(), where w stands in for the weights; call train() of the optimizer")
        loss, taken = evaluate(self, closure)
        if not taken:
            return None
        groups = [[p for p in group["params"] if has_dense_gradient(p)] for group in self.inner.param_groups]
        moving = [p for group in groups for p in group]
        self._join(moving)
        if self.gamma and moving:
            offsets = torch._foreach_sub(moving, self._copies("w", moving))
            torch._foreach_add_([p.grad for p in moving], offsets, alpha=self.gamma)
        self.inner.step()
        if self.epsilon:  # w' ← w' + √η' ε N(0, I)
            self._noise.add_(groups, [group["lr"] ** 0.5 * self.epsilon for group in self.inner.param_groups])
        self._constrain()
        joined = list(self._joined)
        if joined:
            torch._foreach_lerp_(self._copies("mu", joined), joined, 1.0 - self.alpha)
        self._inner_steps += 1
        if self._inner_steps >= self.L:
            self._outer_step(joined)
        return loss

    @contextlib.contextmanager
    def centre(self) -> Iterator[None]:
        """Let the parameters hold w within the block; afterwards they hold what they held before, bit for bit.

        This is for evaluating or saving w.  No step may be taken inside.  BatchNorm: see the notes of the class.
        """
        self._require_outside_centre("centre()")
        with self._exchanged(parameters(self.outer), {p: self.state[p]["w"] for p in self._joined}):
            yield

    @torch.no_grad()
    def eval(self) -> None:
        """Let the parameters hold w until `train`: `centre` for trainers that have no room for a block.

        The state of the optimizer may be saved meanwhile, along with the model that then holds w.  Called again it
        does nothing; `centre` inside finds w there already.
        """
        self._require_outside_centre("eval()")
        joined = list(self._joined)
        if joined and not self._evaluating:
            for p in joined:
                self.state[p]["w_prime"] = p.clone()
            torch._foreach_copy_(joined, self._copies("w", joined))
        self._evaluating = True

    @torch.no_grad()
    def train(self) -> None:
        """Let the parameters hold w' again, bit for bit, after `eval`; else nothing."""
        self._require_outside_centre("train()")
        joined = list(self._joined)
        if joined and self._evaluating:
            torch._foreach_copy_(joined, [self.state[p].pop("w_prime") for p in joined])
        self._evaluating = False

    def distance(self) -> Tensor:
        """d(w', w) of eq. 2, ``½ Σ_i (w'_i − w_i)²``, at the end of the last complete loop.

        Returns
        -------
        Tensor, 0-d
            Distance, on the device of the parameters; NaN before the first outer step.
        """
        return self._distance

    def balanced_gamma(self, loss: float | Tensor) -> float:
        """Return ``γ₀ = L(w)/d(w', w)`` after a loop that was run with γ = 0 (Appendix C).

        Parameters
        ----------
        loss : float or 0-d Tensor
            L(w): the loss of the first step of that loop, or of the whole training set before it.

        Raises
        ------
        ValueError
            No loop was run, w' did not move, or the loss is negative or not finite.

        Notes
        -----
        The paper calls the criterion not robust: Entropy-SGD needs the right order of magnitude only.
        """
        distance = check_scalar("the distance d(w', w) (run one loop of L steps with gamma=0 first)", self._distance)
        if distance == 0:
            raise ValueError("w' did not move in the last loop, so there is no γ that balances loss and distance")
        return check_scalar("loss", loss) / distance

    def state_dict(self) -> dict[str, Any]:
        """State of the loop, of the noise and of both optimizers, of plain containers and tensors.

        As torch's, it refers to tensors in use: save it at once, or deepcopy it.  It belongs to the weights that
        the model has at this moment (w' during a loop; w after `eval`, when it holds w' itself).
        """
        self._require_outside_centre("state_dict()")
        index = {p: i for i, p in enumerate(parameters(self.outer))}
        return {
            "shapes": shapes(self.outer),
            "inner": self.inner.state_dict(),
            "outer": self.outer.state_dict(),
            "loop": {name: getattr(self, name) for name in ("gamma", "L", "epsilon", "alpha", "reset_inner")},
            "inner_steps": self._inner_steps,
            **{name: {index[p]: self.state[p][name] for p in self._joined} for name in ("w", "mu")},
            "w_prime": {index[p]: self.state[p]["w_prime"] for p in self._joined if self._evaluating},
            "evaluating": self._evaluating,
            "generators": self._noise.state(),
            "distance": self._distance,
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as the optimizer that gave `state_dict` would have.

        Raises
        ------
        ValueError
            `state_dict` is of another model; nothing was changed then.
        """
        keys = ("inner", "outer", "loop", "inner_steps", "w", "mu", "generators", "distance")
        check_state(state_dict, {"shapes": shapes(self.outer)}, keys)
        self.inner.load_state_dict(state_dict["inner"])
        self.outer.load_state_dict(state_dict["outer"])
        for name, value in state_dict["loop"].items():
            setattr(self, name, value)
        params = parameters(self.outer)
        self._inner_steps = state_dict["inner_steps"]
        self._joined = {params[i]: None for i in state_dict["w"]}
        self._evaluating = state_dict.get("evaluating", False)
        self.state.clear()
        for name in ("w", "mu", "w_prime"):
            for i, value in state_dict.get(name, {}).items():
                self.state[params[i]][name] = value.to(params[i]).clone(memory_format=torch.preserve_format)
        self._noise.load(state_dict["generators"])
        self._distance = state_dict["distance"].clone()

    def _copies(self, name: str, params: list[Tensor]) -> list[Tensor]:
        return [self.state[p][name] for p in params]

    def _join(self, moving: list[Tensor]) -> None:
        """``w', μ ← w`` for the parameters that were not yet in this loop; until now they did not move in it."""
        new = [p for p in moving if p not in self._joined]
        if new:
            for p in new:
                if "w" not in self.state[p]:
                    self.state[p].update(w=torch.empty_like(p), mu=torch.empty_like(p))
            torch._foreach_copy_(self._copies("w", new), new)
            torch._foreach_copy_(self._copies("mu", new), new)
            self._joined.update(dict.fromkeys(new))

    def _outer_step(self, joined: list[Tensor]) -> None:
        """``w ← outer(w, w − μ)``; the loop is over."""
        if joined:
            anchors = self._copies("w", joined)
            self._distance = half_squared_distance(joined, anchors)
            gradients = torch._foreach_sub(anchors, self._copies("mu", joined))
            torch._foreach_copy_(joined, anchors)
            with gradients_replaced(parameters(self.outer), dict(zip(joined, gradients, strict=True))):
                self.outer.step()
            self._constrain()
        self._inner_steps = 0
        self._joined = {}
        if self.reset_inner:
            self.inner.state.clear()
