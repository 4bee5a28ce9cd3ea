"""Replicated-SGD, Algorithm 2 of the paper, around any torch optimizers, in one process or over several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from bpflat.arguments import check_choice, check_count, check_scalar
from bpflat.optim.replicas import check_group, check_replicas, check_sequence, count_replicas, coupled_parameters, mean_
from bpflat.optim.stability import require_stability
from bpflat.optim.wrapper import (
    Wrapper,
    add_scaled_,
    check_state,
    evaluate,
    flat_views,
    half_squared_distance,
    make_base,
    parameter_groups,
    parameters,
    shapes,
    unscale_,
)


class ReplicatedSGD(Wrapper):
    """Replicated-SGD (Algorithm 2): y replicas of one model descend together, attracted by their centre.

    The objective is ``Σ_a L(w^a) + γ Σ_a d(w^a, w̄)`` (eq. 6), with ``w̄ = Σ_a w^a / y`` and the distance of eq. 2,
    ``d(w, w') = ½ |w − w'|²``::

        for t = 1, 2, ...:                                      one call of step() each
            for a = 1, ..., y:
                dw^a ← ∇L(w^a; its own minibatch)
            if t ≡ 0 mod K:
                w̄    ← Σ_a w^a / y                              the only communication
                dw^a ← dw^a + K γ (w^a − w̄)
            for a = 1, ..., y:
                w^a ← base_a(w^a, dw^a)

    So the attraction goes through the base optimizer, its momentum and its scaling of gradients, as the loss does.

    Parameters
    ----------
    replicas : sequence of torch.optim.Optimizer
        One base optimizer for each replica in this process, over the parameters of its own model; groups and shapes
        alike.  Give the models different initial weights.
    gamma : float
        Coupling γ; at least 0.  A property, to be set as focusing asks (`bpflat.optim.focusing`).
    K : int
        Steps between interactions.
    coupling : {"gradient", "decoupled"}
        Attraction as above; or beside the base optimizer, as decoupled weight decay is,
        ``w^a ← base_a(w^a, dw^a) − η K γ (w^a − w̄)`` with ``η K γ`` held at 1, where the replicas meet, and both terms
        taken at the weights before the step.
        "decoupled" is for an attraction that must be known and cannot overshoot: to hold replicas together however
        large γ is, or to scale γ by η under an adaptive optimizer.  It is another algorithm: with momentum μ the same
        γ attracts 1 − μ times as strongly, and under RMSprop or Adam the strength of the attraction has nothing to do
        with the gradients'.
    group : torch.distributed.ProcessGroup, optional
        Processes whose replicas are coupled, such as ``torch.distributed.group.WORLD``; any number of replicas in each.
        By default those of this process alone.
    project : callable, optional
        Called without arguments after every update of the parameters: for constraints, such as rows of norm 1.

    Attributes
    ----------
    param_groups, defaults
        Those of all replicas of this process, and of the first: a learning-rate scheduler on this optimizer schedules
        them all.
    replicas, gamma, K, coupling
        Arguments as given; may be changed between steps, in all processes alike.
    y : int
        Replicas in all processes.

    Raises
    ------
    ValueError
        Bad parameters; replicas of different shapes, here or in another process, or sharded; a state_dict of
        another model; a step of `torch.optim.SGD` with ``η K γ`` beyond `attraction_limit`.

    Notes
    -----
    γ is that of eq. 6.  Code that leaves the ½ of eq. 2 out of its coupling attracts twice as strongly for the same γ:
    give 2γ here for its γ.

    Frozen parameters (``requires_grad=False``) and those with sparse gradients are left to the base optimizers: they
    are not coupled, and in the centre they are those of the first replica.

    Running statistics of BatchNorm are each replica's own and not coupled; ``centre(models)`` averages them over the
    replicas, as the paper's authors do, and `bpflat.optim.batchnorm_statistics` recomputes them from data.

    The attraction is added to ``.grad`` in place: so clipping before the step clips the gradient of the loss alone.
    With ``coupling="decoupled"`` gradients are left as they are.

    γ growing by 10⁴ (`bpflat.optim.focusing`) is for large networks.  SGD overshoots the centre, farther each time,
    when ``η K γ`` exceeds `attraction_limit`; rather than diverge, such a step is refused before anything is changed.
    Let γ grow less, or meet more often.

    With torch.amp.GradScaler, use one scaler for all replicas of a process: ``scaler.scale(loss).backward()`` for each,
    then ``scaler.step(optimizer)`` once.  Over several processes a step with infinite gradients is skipped by the
    process that met them, which still takes part in the interaction: so processes stay in step.

    Over several processes, `step`, `centre`, `distance` and `balanced_gamma` are to be called in all of them.  If one
    dies, the others get an error from torch.distributed at their next interaction, at the latest after the timeout
    given to ``init_process_group``.  Let that end them, and resume each from its own checkpoint.

    References
    ----------
    Pittorino et al., ICLR 2021, Section 4 and Appendix A.

    Examples
    --------
    In one process:

    >>> import torch
    >>> from bpflat.optim import ReplicatedSGD, focusing
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(256, 10)
    >>> y = (x[:, 0] * x[:, 1] > 0).long()
    >>> def network():
    ...     return torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    >>> def loss(model, batch):
    ...     return torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
    >>> models = [network() for _ in range(3)]
    >>> bases = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True) for m in models]
    >>> optimizer = ReplicatedSGD(bases, gamma=0.0, K=3)
    >>> scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[90])
    >>> epochs = 120
    >>> with torch.no_grad():
    ...     gamma0 = optimizer.balanced_gamma([loss(model, slice(None)) for model in models])
    >>> schedule = focusing.Exponential.over(gamma0, epochs, factor=100)
    >>> for epoch in range(epochs):
    ...     optimizer.gamma = schedule(epoch)
    ...     for batches in zip(*(torch.randperm(256).split(32) for _ in models)):
    ...         optimizer.zero_grad()
    ...         for model, batch in zip(models, batches):
    ...             loss(model, batch).backward()
    ...         optimizer.step()
    ...     scheduler.step()
    >>> with optimizer.centre(models), torch.no_grad():
    ...     error = (models[0](x).argmax(1) != y).float().mean().item()
    >>> error < 0.05, optimizer.distance().item() < 0.01
    (True, True)

    One replica in each process of ``torchrun --nproc-per-node 3 program.py``: call
    ``torch.distributed.init_process_group()`` first, make one model and ``ReplicatedSGD([base], ...,
    group=torch.distributed.group.WORLD)``; the rest stays the same.
    """

    def __init__(
        self,
        replicas: Sequence[Optimizer],
        *,
        gamma: float,
        K: int = 10,
        coupling: str = "gradient",
        group: dist.ProcessGroup | None = None,
        project: Callable[[], object] | None = None,
    ):
        self.replicas = check_sequence(replicas)
        super().__init__(self.replicas, gamma, project)
        self.K, self.coupling = K, check_choice("coupling", coupling, ("gradient", "decoupled"))
        self.group = check_group(group)
        check_replicas(self.replicas)
        self.y = count_replicas(self.replicas, self.group, (self.K, self.gamma, self.coupling))
        self._steps = 0
        self._buffers_key: tuple[int, ...] | None = None
        self._buffers: tuple[list[Tensor], list[Tensor]] = ([], [])

    @classmethod
    def from_base(
        cls,
        replicas: Sequence[Iterable[Tensor] | Iterable[dict[str, Any]]],
        base: Callable[..., Optimizer],
        *,
        gamma: float,
        K: int = 10,
        coupling: str = "gradient",
        group: dist.ProcessGroup | None = None,
        project: Callable[[], object] | None = None,
        **options: Any,
    ) -> ReplicatedSGD:
        """Return a `ReplicatedSGD` whose replicas are all under `base` with the same `options`.

        Parameters
        ----------
        replicas : sequence
            Parameters of each replica in this process, or groups of them, as any torch optimizer takes.
        base : callable
            Class of optimizers, such as ``torch.optim.SGD``.
        gamma, K, coupling, group, project
            Arguments of the class.
        **options
            Options of `base`, such as ``lr=0.05, momentum=0.9``.
        """
        bases = [make_base(base, parameter_groups(params), options) for params in check_sequence(replicas)]
        return cls(bases, gamma=gamma, K=K, coupling=coupling, group=group, project=project)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of all replicas of this process, replica by replica."""
        return [group for base in self.replicas for group in base.param_groups]

    @property
    def defaults(self) -> dict[str, Any]:
        """Default options of the first replica's optimizer."""
        return self.replicas[0].defaults

    @property
    def K(self) -> int:
        """Steps between interactions."""
        return self._K

    @K.setter
    def K(self, value: int) -> None:
        self._K = check_count("K", value)

    @torch.compiler.disable
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every replica, and at every K-th call their interaction.

        Parameters
        ----------
        closure : callable, optional
            Clears the gradients, computes losses and gradients of all replicas, and returns their loss; evaluated once.
            If it returns None and no parameter has a gradient, the step is skipped: weights, optimizers and the count
            of steps stay.  In a `group` such a process skips its base optimizers only, and stays in step with others.

        Returns
        -------
        What the closure returned, or None.
        """
        self._require_outside_centre("step()")
        interacts = (self._steps + 1) % self.K == 0 and self.gamma > 0
        if interacts and self.coupling == "gradient":
            for base in self.replicas:
                require_stability(base, self.K, self.gamma)
        loss, taken = evaluate(self, closure)
        if not taken and self.group is None:
            return None
        finite = taken and unscale_(self)
        self._steps += 1
        if interacts:
            coupled = coupled_parameters(self.replicas)
            centre = self._centre(coupled)
            for base, params in zip(self.replicas, coupled, strict=True):
                self._step_attracted(base, params, centre, finite)
        elif finite:
            for base in self.replicas:
                base.step()
        self._constrain()
        return loss

    @contextlib.contextmanager
    def centre(self, models: Sequence[nn.Module] | None = None) -> Iterator[None]:
        """Let the first replica of this process hold w̄ within the block; afterwards its own weights, bit for bit.

        This is for evaluating or saving the centre.  No step may be taken inside.  All processes must enter.

        Parameters
        ----------
        models : sequence of Module, optional
            The models of the replicas of this process, in order.  With them, the floating-point buffers of
            ``models[0]`` (statistics of BatchNorm) hold the mean over all replicas; else they stay its own.
        """
        self._require_outside_centre("centre()")
        coupled = coupled_parameters(self.replicas)
        tensors = parameters(self.replicas[0])
        with torch.no_grad():
            values = dict(zip(_flatten(coupled[0]), self._centre(coupled), strict=True))
            if models is not None:
                if len(models) != len(self.replicas):
                    raise ValueError(f"models are {len(models)}, but this process has {len(self.replicas)} replicas")
                buffers = [[b for b in model.buffers() if b.is_floating_point()] for model in models]
                tensors += buffers[0]
                values |= zip(buffers[0], mean_(*flat_views(buffers[0]), buffers, self.y, self.group), strict=True)
        with self._exchanged(tensors, values):
            yield

    @torch.no_grad()
    def distance(self) -> Tensor:
        """Mean over the replicas of d(w^a, w̄), d being ``½ Σ_i (w^a_i − w̄_i)²`` (eq. 2).

        All processes of the group must call it.

        Returns
        -------
        Tensor, 0-d
            Distance, on the device of the parameters.
        """
        self._require_outside_centre("distance()")
        coupled = coupled_parameters(self.replicas)
        centre = self._centre(coupled)
        total = torch.stack([half_squared_distance(_flatten(params), centre) for params in coupled]).sum()
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        return total / self.y

    @torch.no_grad()
    def balanced_gamma(self, losses: Sequence[float | Tensor]) -> float:
        """Return ``γ₀ = Σ_a L(w^a) / Σ_a d(w^a, w̄)`` (Section 4, "Focusing"), to be called before training.

        All processes of the group must call it.

        Parameters
        ----------
        losses : sequence of float or 0-d Tensor
            Loss of each replica of this process.

        Raises
        ------
        ValueError
            Replicas that all have the same weights, or losses that are negative, not finite, or too few.
        """
        if len(losses) != len(self.replicas):
            raise ValueError(f"losses are {len(losses)}, but this process has {len(self.replicas)} replicas")
        distance = self.distance()
        total = sum(torch.as_tensor(loss).detach().to(distance) for loss in losses)
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        distances = check_scalar("the distance of the replicas", self.y * distance)
        if distances == 0:
            raise ValueError("all replicas have the same weights, so no γ balances loss and distance; initialise each")
        return check_scalar("the sum of the losses", total) / distances

    def state_dict(self) -> dict[str, Any]:
        """State of this process: of its base optimizers and the interaction, of plain containers and tensors.

        As torch's, it refers to tensors in use: save it at once, or deepcopy it.
        """
        self._require_outside_centre("state_dict()")
        return {
            "shapes": [shapes(base) for base in self.replicas],
            "replicas": [base.state_dict() for base in self.replicas],
            "coupling": {name: getattr(self, name) for name in ("gamma", "K", "coupling")},
            "steps": self._steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as the optimizer that gave `state_dict` would have.

        Raises
        ------
        ValueError
            `state_dict` is of another model or of another number of replicas; nothing was changed then.
        """
        own = {"shapes": [shapes(base) for base in self.replicas]}
        check_state(state_dict, own, ("replicas", "coupling", "steps"))
        for base, state in zip(self.replicas, state_dict["replicas"], strict=True):
            base.load_state_dict(state)
        for name, value in state_dict["coupling"].items():
            setattr(self, name, value)
        self._steps = state_dict["steps"]

    def _centre(self, coupled: list[list[list[Tensor]]]) -> list[Tensor]:
        """w̄ of the coupled parameters, in buffers that the next call overwrites."""
        columns = [_flatten(params) for params in coupled]
        key = tuple(map(id, columns[0]))
        if key != self._buffers_key:
            self._buffers, self._buffers_key = flat_views(columns[0]), key
        return mean_(*self._buffers, columns, self.y, self.group)

    def _step_attracted(self, base: Optimizer, params: list[list[Tensor]], centre: list[Tensor], finite: bool) -> None:
        """One step of a replica with its attraction, both at the weights before; without the step if not `finite`."""
        strength = self.K * self.gamma
        offsets = torch._foreach_sub(_flatten(params), centre) if centre else []
        if self.coupling == "gradient" and offsets:
            coupled = _flatten(params)
            for p in coupled:
                if p.grad is None:  # the loss does not depend on it in this step, but eq. 6 does
                    p.grad = torch.zeros_like(p)
            add_scaled_([p.grad for p in coupled], offsets, strength)
        if finite:
            base.step()
        if self.coupling == "decoupled":
            for group, members in zip(base.param_groups, params, strict=True):
                attraction = group["lr"] * strength
                attraction = attraction.clamp(max=1.0) if isinstance(attraction, Tensor) else min(attraction, 1.0)
                add_scaled_(members, offsets[: len(members)], -attraction)
                offsets = offsets[len(members) :]

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplicatedSGD:
        """Copy as of the base class, in the same processes."""
        memo[id(self.group)] = self.group
        twin = super().__deepcopy__(memo)
        twin._buffers_key = None
        return twin

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Ask GradScaler to call `step` whatever the gradients: a process that skips it would fall out of step."""
        return self.group is not None


def _flatten(groups: list[list[Tensor]]) -> list[Tensor]:
    return [p for group in groups for p in group]
