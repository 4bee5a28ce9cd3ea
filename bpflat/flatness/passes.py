"""Energies of many states of the noise: passes over the patterns, left where they are rejected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bpflat.flatness.batches import Batch
from bpflat.flatness.evaluation import Evaluation
from bpflat.flatness.objective import Objective

_TOGETHER_BYTES = 64 << 20  # most that states take whose passes are made together, by default
_TOGETHER_WEIGHTS = 300_000  # more than these keep two cores busy on their own
_TOGETHER = 128
_FEW = 3  # states that are sooner through one after the other
_ASTRAY = 0.02  # fraction of patterns whose energies may change with the order of sums, as at ties


class Passes:
    """Energies of states z, at the weights w + σ s⊙z: errors, or losses less those of w where there is no error.

    A pass over the patterns for each state, or passes of many states together (torch.func.vmap over functional_call).
    Errors only add up, and a pass is left as soon as there are more than its state is allowed.

    Memory: w, s and the copy of the model, one number each for each perturbed parameter, and with zeros among s one
    byte; with passes together, half as much again as the states that are passed in.

    Parameters
    ----------
    evaluation : Evaluation
    w : iterable of Tensor
        Perturbed parameters at the reference.
    scales : iterable of Tensor
        Scales s ≥ 0, of the same shapes.
    copies : mapping of str to Parameter
        The parameters of the evaluation's model that are set, by name.
    at_w : float
        Energy of w.
    together : int, optional
        States whose passes are made together; 1 for one after the other, None for what seems to pay.

    Attributes
    ----------
    sigma : float
        Noise amplitude σ.
    n_weights : int
        Parameters with s > 0.
    allowed : float
        Energy that a state may have which makes no more errors than w.
    seen : int
        Patterns that went through the model.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        w: Iterable[Tensor],
        scales: Iterable[Tensor],
        copies: Mapping[str, Tensor],
        at_w: float,
        together: int | None,
    ):
        self.evaluation, self.copies, self.sigma, self.seen = evaluation, dict(copies), 1.0, 0
        self.counts = evaluation.objective.has_error
        self.offset = 0.0 if self.counts else at_w
        self.allowed = at_w + 1e-6 * max(at_w, 1.0)  # fractions of errors agree to six digits
        parameters = list(copies.values())
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in parameters) else torch.float32
        self.w, self.scales = (
            torch.cat([part.detach().to(parameters[0].device, dtype).flatten() for part in parts])
            for parts in (w, scales)
        )
        self.fixed = self.scales == 0
        self.n_weights = len(self.w) - int(self.fixed.sum())
        self.has_fixed = self.n_weights < len(self.w)
        self.energies_of = _Energies(evaluation.objective, evaluation.model)
        self.together = self._how_many(together)

    def draw(self, out: Tensor, generator: torch.Generator) -> None:
        """Fill a row (n,) with standard normal numbers, 0 where there is no noise."""
        out.normal_(generator=generator)
        if self.has_fixed:
            out.masked_fill_(self.fixed, 0.0)

    def __call__(self, states: Tensor, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Energies (G,) of states z (G, n), which are overwritten; infinite where they exceed the limits (G,)."""
        torch.addcmul(self.w, self.scales, states, value=self.sigma, out=states)
        with self.evaluation.settings():
            if self.together == 1 or len(states) <= _FEW:
                energies = np.array([self._alone(*each) for each in zip(states, limits, strict=True)])
            else:
                energies = self._of_all(states, limits)
        energies = energies - self.offset
        return np.where(energies <= limits, energies, math.inf)  # what is not a number too

    def _alone(self, weights: Tensor, limit: float) -> float:
        self._set(weights)
        total = 0.0
        for energies in self.evaluation.energies():
            self.seen += len(energies)
            total += energies.sum(dtype=self.evaluation.zero.dtype).item()
            if self.counts and total > limit:
                break
        return total

    def _set(self, weights: Tensor) -> None:
        torch._foreach_copy_(list(self.copies.values()), list(self._named(weights).values()))
        torch.clear_autocast_cache()

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        """Views of flat weights (..., n) by name."""
        parts = weights.split([p.numel() for p in self.copies.values()], dim=-1)
        return {
            name: part.view(*part.shape[:-1], *p.shape)
            for (name, p), part in zip(self.copies.items(), parts, strict=True)
        }

    def _of_all(self, weights: Tensor, limits: NDArray[np.float64]) -> NDArray[np.float64]:
        totals, alive = np.zeros(len(weights)), np.arange(len(weights))

        def of_batch(batch: Batch) -> Tensor | None:
            return self._of_batch(weights, batch)  # those that are left

        for _, energies in self.evaluation.over_batches(of_batch):
            self.seen += energies.numel()
            totals[alive] += energies.sum(dim=1, dtype=self.evaluation.zero.dtype).cpu().numpy()
            inside = totals[alive] <= limits[alive]
            if self.counts and not inside.any():
                break
            if self.counts and inside.mean() <= 0.5:  # not at once: it copies
                alive, weights = alive[inside], weights[torch.from_numpy(inside).to(weights.device)]
        return totals

    def _of_batch(self, weights: Tensor, batch: Batch) -> Tensor | None:
        """Energies (G, N) of a batch for weights (G, n)."""
        types = {name: p.dtype for name, p in self.copies.items()}

        def energies(weights: Tensor) -> Tensor:
            parameters = {f"model.{name}": part.to(types[name]) for name, part in self._named(weights).items()}
            return torch.func.functional_call(self.energies_of, parameters, (batch,))

        try:
            return torch.func.vmap(energies)(weights)
        except torch.cuda.OutOfMemoryError:
            return None

    def _how_many(self, together: int | None) -> int:
        """States whose passes are made together, where model and functions allow it."""
        wanted = together
        if wanted is None:
            fitting = _TOGETHER_BYTES // (len(self.w) * self.w.element_size())
            pays = len(self.w) <= _TOGETHER_WEIGHTS or self.w.device.type == "cuda"
            wanted = max(1, min(_TOGETHER, fitting)) if pays else 1
        if wanted == 1:
            return 1
        reason = self._misfit()
        if reason is None:
            return wanted
        if together is None:
            return 1
        raise ValueError(f"passes of this model cannot be made together ({reason}); set together=1")

    def _misfit(self) -> str | None:
        """Why passes together do not give what single ones give, at w and beside it; None where they do."""
        if self.evaluation.normed:
            return "BatchNorm statistics are estimated for each state"
        if self.evaluation.writes_data:
            return "it works in place on the data"
        beside = self.w.roll(1)  # of the same sizes
        weights, first = torch.stack([self.w, beside]), self.evaluation.first
        with self.evaluation.settings():
            try:
                together = self._of_batch(weights, first)
            except Exception as error:  # whatever vmap, or code that it does not suit, raises
                return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            alone = []
            for row in weights:
                self._set(row)
                alone.append(self.evaluation.objective.energies(self.evaluation.model, first))
        self._set(self.w)
        off = ~torch.isclose(together, torch.stack(alone), rtol=1e-2, atol=1e-4, equal_nan=True)
        return "they give other results" if off.float().mean() > _ASTRAY else None

    def sort_patterns(self, states: Iterable[Tensor]) -> None:
        """Put the patterns first that are most often wrong at some states z (n,), so that passes are left sooner."""
        patterns = self.evaluation.patterns
        if not self.counts or patterns.n_rows is None or self.evaluation.normed:
            return
        wrong = torch.zeros(patterns.n_rows, dtype=self.evaluation.zero.dtype, device=patterns.device)
        with self.evaluation.settings():
            for z in states:
                self._set(torch.addcmul(self.w, self.scales, z, value=self.sigma))
                found = torch.cat(list(self.evaluation.energies()))
                self.seen += len(found)
                if len(found) != patterns.n_rows:
                    return  # `error` gives other rows than those of the data
                wrong += found
        patterns.reorder(wrong.argsort(descending=True, stable=True))


class _Energies(nn.Module):
    """A model as a function from a batch to energies (N,)."""

    def __init__(self, objective: Objective, model: nn.Module):
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, batch: Batch) -> Tensor:
        return self.objective.energies(self.model, batch)
