"""What must hold before δE of a model means anything: outputs that repeat, and that come from the perturbed tensors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bpflat.flatness.batches import leaves
from bpflat.flatness.evaluation import Evaluation
from bpflat.flatness.noise import Perturbation

_STRENGTHS = (1.0, 10.0, 100.0, 0.1) * 4
"""Of the forced changes that are tried: a single one may leave saturated or discrete outputs as they are."""
_SHOWN = 3  # parameters that a message names


def check_model(evaluation: Evaluation, perturbation: Perturbation, chosen: dict[str, Tensor]) -> None:
    """Raise a ValueError unless the first batch shows that noise on the parameters is what will be measured.

    Four questions, a forward pass each: do two passes agree?  does the copy of the model compute with tensors of the
    original?  do its outputs change when all parameters are changed by force?  and, of parameters that no operation
    was seen to read, is there an effect after all?  Such ones (of a head that is not used, say) raise a warning only.

    Parameters
    ----------
    evaluation : Evaluation
        Evaluation that has made a checked pass.
    perturbation : Perturbation
        Noise, at w before and after.
    chosen : dict
        The parameters of the model itself whose copies it perturbs, by name.

    Warns
    -----
    UserWarning
        Some of the parameters are not used by the model.
    """
    names = list(chosen)
    before = _repeated(evaluation)
    storages = _storages_read(evaluation)
    foreign = [name for name, parameter in chosen.items() if _storage(parameter) in storages]
    if foreign:
        raise ValueError(
            f"the copy of the model still computes with parameters of the model itself ({_listed(foreign)}): they are "
            "held by a closure, a hook, a patched forward or `forward`, and noise would not reach them; use what is "
            "passed in: submodules of `self`, or the `model` that `forward` gets"
        )
    every = range(len(names))
    if not _has_effect(evaluation, perturbation, every, before):
        raise ValueError(
            f"outputs and losses do not depend on the parameters to be perturbed ({_listed(names)}): does the model "
            "compute with stored copies of them (cached, fused, quantised, frozen by a compiler), or does a function "
            "ignore the model or the outputs that it gets?"
        )
    unread = [i for i in every if _storage(perturbation.parameters[i]) not in storages]
    if unread and not _has_effect(evaluation, perturbation, unread, before):
        warnings.warn(
            f"{len(unread)} of {len(names)} parameters are not used by the model, and noise on them changes nothing: "
            f"{_listed([names[i] for i in unread])}; name those to perturb by `parameters`",
            stacklevel=3,
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _repeated(evaluation: Evaluation) -> tuple[list[Tensor], Tensor]:
    """Outputs and scores of the first batch, which two passes agree on."""
    first, second = (evaluation.observe(evaluation.first) for _ in range(2))
    own = slice(0 if evaluation.objective.error is not None else 1, 2)  # classes may turn at ties
    if _differ(evaluation, (*first[0], first[1][own]), (*second[0], second[1][own])):
        raise ValueError(
            "two passes over the same batch do not agree: the model draws random numbers in eval mode (dropout called "
            "with training=True, say), keeps a state between calls, or `loss` or `error` does; make them deterministic"
        )
    return first


def _differ(evaluation: Evaluation, before: Iterable[Tensor], after: Iterable[Tensor]) -> bool:
    """Whether tensors differ by more than a GPU's sums in another order make them.

    That is √ε of their largest entry, ε being the resolution of the coarsest arithmetic at work.
    """
    coarsest = {"tf32": 2.0**-10, "bfloat16": 2.0**-7, "float16": 2.0**-10}.get(evaluation.precision or "", 0.0)
    types = {p.dtype for p in evaluation.model.parameters() if p.is_floating_point()}
    for a, b in zip(before, after, strict=True):
        if a.shape != b.shape:
            return True
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return True
            continue
        resolution = max(coarsest, *(torch.finfo(dtype).eps for dtype in (a.dtype, *types)))
        size = a[a.isfinite()].abs().max().item() if a.isfinite().any() else 0.0
        if not torch.isclose(a, b, rtol=0.0, atol=math.sqrt(resolution) * size, equal_nan=True).all():
            return True
    return False


class _Notes:
    """Notes where the tensors lie that torch's operations take as arguments."""

    storages: set[int]

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.storages |= {_storage(leaf) for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return operation(*args, **kwargs)


class _Reads(_Notes, TorchDispatchMode):  # inherited: torch loads its compiler, seconds, for methods defined in a mode
    def __init__(self):
        super().__init__()
        self.storages = set()


def _storage(tensor: Tensor) -> int:
    """Address of the numbers; 0 where there is none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors, and what wraps others
        return 0


def _storages_read(evaluation: Evaluation) -> set[int]:
    torch.clear_autocast_cache()
    with _Reads() as reads:
        evaluation.run_uncompiled(evaluation.first)
    return reads.storages - {0}


def _has_effect(
    evaluation: Evaluation, perturbation: Perturbation, places: Iterable[int], before: tuple[list[Tensor], Tensor]
) -> bool:
    """Whether forced changes of some parameters ever change the outputs; or, with a loss of one's own, the scores."""
    try:
        for number, strength in enumerate(_STRENGTHS):
            perturbation.force(strength, places, number)
            after = evaluation.observe(evaluation.first)
            own = evaluation.objective.loss is not None
            if _differ(evaluation, [before[1]] if own else before[0], [after[1]] if own else after[0]):
                return True
        return False
    finally:
        perturbation.set(0.0)
