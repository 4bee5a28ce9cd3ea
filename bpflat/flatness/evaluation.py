"""Error and loss of a model over all patterns: one pass, in batches, nothing read back from the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from bpflat.batchnorm import gather_statistics, layers_with_statistics
from bpflat.flatness.batches import Batch, clone, form, row_count, take, tensors
from bpflat.flatness.objective import Objective, Values, check_outputs, scores, total_weights
from bpflat.flatness.patterns import Patterns

Augmentation = Callable[[Batch], Batch]
Result = TypeVar("Result")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
_PROBED = 32
"""Patterns that questions to the model itself are put to."""
_MISFITS = (RuntimeError, TypeError, LookupError, AttributeError)  # of a model or function that does not suit the data


@contextlib.contextmanager
def arithmetic(precision: str | None, device: torch.device) -> Iterator[None]:
    """Compute matrix products and convolutions in this precision; None leaves torch's settings alone."""
    if precision is None:
        yield
    elif precision in ("bfloat16", "float16"):
        with torch.autocast(device.type, getattr(torch, precision)):
            yield
    else:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        try:
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]


class Evaluation:
    """Totals of errors and losses over all patterns.

    Parameters
    ----------
    model : Module
        The model on the device, in eval mode; its BatchNorm statistics are changed where they are re-estimated.
    patterns : Patterns
    objective : Objective
    batch_size : int
        Most patterns at once; halved when memory runs out.
    block_size : int, optional
        Patterns that `augment` and BatchNorm see at once.
    recompute : bool
        Estimate the BatchNorm statistics before every pass.
    order : Tensor of int, optional
        Order of the patterns for the BatchNorm statistics.
    augment : callable, optional
        Inputs to inputs, or batches to batches where these are no pairs, with torch's global random numbers.
    precision : str, optional
    compiled : callable, optional
        The model as it is called (compiled, say); itself by default.

    Attributes
    ----------
    scores : Tensor, shape (2, P)
        Errors and losses pattern by pattern, of the last checked pass.
    mean_weight : Tensor, shape (2,)
        Weight of a pattern in the mean error and in the mean loss, the average over patterns of that pass: 1 unless
        the objective gives several values, or weights, for each.
    first : batch
        The first patterns of that pass.
    """

    def __init__(
        self,
        model: nn.Module,
        patterns: Patterns,
        objective: Objective,
        *,
        batch_size: int,
        block_size: int,
        recompute: bool = False,
        order: Tensor | None = None,
        augment: Augmentation | None = None,
        precision: str | None = None,
        compiled: nn.Module | None = None,
    ):
        self.model, self.patterns, self.objective = model, patterns, objective
        self.batch_size, self.block_size, self.order = batch_size, block_size, order
        self.augment, self.precision = augment, precision
        self.called = model if compiled is None else compiled
        self.normed = layers_with_statistics(model) if recompute else []
        self.scores = torch.empty(2, 0)
        self.first: Batch = None
        self.writes_data = False  # a model whose first layer works in place would change the data
        double = torch.float32 if patterns.device.type == "mps" else torch.float64
        self.zero = torch.zeros(2, dtype=double, device=patterns.device)
        self.mean_weight = torch.ones(2, dtype=double)

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Compute without gradients, in the precision that is asked for."""
        # functions of the user's may switch gradients on, for forces or residuals, which inference mode forbids
        guard = torch.inference_mode if self.objective.is_torch_only else torch.no_grad
        with guard(), arithmetic(self.precision, self.patterns.device):
            yield

    def totals(self, seed: int = 0, *, rows: Tensor | None = None, check: bool = False) -> Tensor:
        """Sums of errors and of losses, shape (2,), on the device.

        Parameters
        ----------
        seed : int
            Seed of the augmentation.
        rows : Tensor, optional
            Indices of the patterns; all by default.
        check : bool
            Check data, outputs and losses, which waits for the device, and keep `scores`, `mean_weight` and `first`.

        Raises
        ------
        ValueError
            When data, model and functions do not fit together, or something is not a number; only with `check`.
        MemoryError
            When memory runs out for a single pattern, or for a block of those that must stay together.
        """
        total, weights = self.zero.clone(), torch.zeros(2, dtype=torch.float64)
        kept: list[Tensor] = []

        def measure(batch: Batch) -> tuple[Values, Values | None] | None:
            return self._of_batch(batch, sum(part.shape[1] for part in kept) if check else None)

        with self.settings():
            if self.normed:
                self._estimate_statistics(seed, check)
            for batch, values in self.over_batches(measure, self._blocks(seed, rows)):
                batch_scores = scores(*values)
                total += batch_scores.sum(dim=1, dtype=total.dtype)
                if check:
                    self.first = self.first if kept else self._sample(batch)
                    kept.append(batch_scores)
                    weights += total_weights(*values)
        if check:
            if not kept:
                raise ValueError("the data set is empty")
            self.scores = torch.cat(kept, dim=1)
            if not (weights > 0).all():
                raise ValueError("all weights that loss or error returned are 0: nothing to average")
            self.mean_weight = (weights / self.scores.shape[1]).to(self.mean_weight)
        return total

    def over_batches(
        self, function: Callable[[Batch], Result | None], blocks: Iterable[Batch] | None = None
    ) -> Iterator[tuple[Batch, Result]]:
        """Batches on the device and what a function makes of them: None where memory runs out, and they are halved.

        All patterns by default.
        """
        for block in self._blocks(0) if blocks is None else blocks:
            n_rows = row_count(block)
            start, end = 0, 1 if n_rows is None else n_rows
            while start < end:
                stop = min(start + self.batch_size, end)
                batch = self.patterns.slices(block, *(() if n_rows is None else (start, stop)))
                result = function(batch)
                if result is None:
                    self._halve(n_rows is not None)
                else:
                    start = stop
                    yield batch, result

    def energies(self) -> Iterator[Tensor]:
        """Energies (N,) of all patterns, batch by batch: errors, or losses where there are none; within `settings`."""
        if self.normed:
            self._estimate_statistics(0, check=False)
        for _, energies in self.over_batches(self._energies_of):
            yield energies

    def _energies_of(self, batch: Batch) -> Tensor | None:
        try:
            return self.objective.energies(self.called, clone(batch) if self.writes_data else batch)
        except torch.cuda.OutOfMemoryError:
            return None

    def observe(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Tensors among the outputs, and scores (2, N), of a batch, which is left as it is."""
        with self.settings():
            given = clone(batch)
            outputs = self.objective.outputs(self.called, given)
            seen = [t.clone() for t in tensors(outputs)]  # CUDA graphs and functions of the user's may write over them
            return seen, scores(*self.objective.values(outputs, given))

    def run_uncompiled(self, batch: Batch) -> None:
        """Send a batch through the model as torch's own operations, one by one."""
        with self.settings():
            self.objective.outputs(self.model, clone(batch))

    def _sample(self, batch: Batch) -> Batch:
        """A few patterns of a batch; all where other sizes would be compiled anew."""
        whole = self.called is not self.model or row_count(batch) is None
        return batch if whole else take(batch, slice(_PROBED))

    def _of_batch(self, batch: Batch, n_before: int | None = None) -> tuple[Values, Values | None] | None:
        """Losses and errors of one batch; None when memory runs out.  Checked where `n_before` patterns are known."""
        check = n_before is not None
        given = clone(batch) if check or self.writes_data else batch
        stage = "forward"
        try:
            outputs = self.objective.outputs(self.called, given)
            if check and self.objective.loss is None:
                check_outputs(outputs, given[1])
            stage = "loss or error"
            values = self.objective.values(outputs, given)
        except torch.cuda.OutOfMemoryError:  # also what torch.OutOfMemoryError is, which older versions lack
            return None  # halved outside of this clause, where the exception does not hold on to the batch
        except _MISFITS as error:
            if not check:
                raise
            raise ValueError(self._misfit(batch, stage, error)) from error
        if n_before is not None:
            self._check(*values, batch, n_before)
            self.writes_data |= not all(map(_same, tensors(given), tensors(batch)))
        return values

    def _misfit(self, batch: Batch, stage: str, error: Exception) -> str:
        what = f"{type(error).__name__}: {error}"
        if self.objective.forward is None and stage == "forward":
            inputs = batch[0]
            return (
                f"the model cannot be applied to inputs of shape {tuple(inputs.shape)} and {inputs.dtype} ({what}); "
                "if it is called in another way, wrap the model: forward=lambda model, batch: model(...)"
            )
        return f"{stage} cannot be applied to a batch {form(batch, shapes=True)} ({what})"

    def _check(self, losses: Values, errors: Values | None, batch: Batch, n_before: int) -> None:
        """Raise a ValueError unless there are numbers for each pattern of a batch; `n_before` came before it."""
        if self.objective.forward is None:
            _refuse(_rows_with_nan(batch[0]), n_before, "data: the inputs of pattern {} have NaN entries")
        n_rows = row_count(batch)
        for name, part in (("loss", losses), ("error", errors)):
            if part is not None:
                part.check(name, n_rows)
                of_rows = part.of_rows()
                of_data = of_rows.isnan().any() and any(_rows_with_nan(t).any() for t in tensors(batch))
                cause = "the data have NaN entries" if of_data else "do the outputs overflow?"
                message = f"{name} of pattern {{}} of the data is not a number, without any noise: {cause}"
                _refuse(of_rows.isnan(), n_before, message)
                n_rows = len(of_rows)
        if errors is not None and ((counted := errors.counted()) < 0).any() | (counted > 1).any():
            raise ValueError(f"error must lie between 0 and 1; found values from {counted.min()} to {counted.max()}")

    def _halve(self, can_be_cut: bool) -> None:
        if not can_be_cut:
            raise MemoryError(
                f"{self.patterns.device} has not enough memory for a batch, which is of a form that cannot be cut; "
                "make batches smaller, or set resident=False, precision='bfloat16' or another device"
            )
        if self.batch_size == 1:
            raise MemoryError(
                f"{self.patterns.device} has not enough memory for the model on a single pattern; "
                "set resident=False, precision='bfloat16' or another device"
            )
        self.batch_size = -(-self.batch_size // 2)
        if self.patterns.device.type == "cuda":
            torch.cuda.empty_cache()

    def _blocks(self, seed: int, rows: Tensor | None = None) -> Iterator[Batch]:
        """Blocks of patterns, augmented; the same for the same seed, whatever the batch size."""
        if self.augment is None:
            yield from self.patterns.blocks(order=rows)
            return
        device = self.patterns.device
        devices = [device] if device.type == "cuda" else []
        for i, block in enumerate(self.patterns.blocks(self.block_size, rows)):
            block = self.patterns.slices(block)
            with torch.random.fork_rng(devices):
                torch.default_generator.manual_seed(seed + i)
                if devices:
                    with torch.cuda.device(device):
                        torch.cuda.manual_seed(seed + i)
                block = self._augmented(block, self.augment)
            yield block

    def _augmented(self, block: Batch, augment: Augmentation) -> Batch:
        given = clone(block)  # augment may work in place
        augmented = (augment(given[0]), block[1]) if self.patterns.reader.pairs else augment(given)
        if form(augmented) != form(block) or row_count(augmented) != row_count(block):
            raise ValueError("augment must return one input for each that it gets")
        return augmented

    def _estimate_statistics(self, seed: int, check: bool) -> None:
        """Set the BatchNorm statistics to the mean over blocks, everything else being in eval mode."""

        def apply(block: Batch) -> None:
            try:
                self.objective.outputs(self.model, block)
            except torch.cuda.OutOfMemoryError as error:
                raise MemoryError(
                    f"{self.patterns.device} has not enough memory to re-estimate BatchNorm on blocks of "
                    f"{self.block_size} patterns; set a smaller block_size (the statistics depend on it) or "
                    "resident=False"
                ) from error
            except _MISFITS as error:
                if not check:
                    raise
                raise ValueError(self._misfit(block, "forward", error)) from error

        in_blocks = self.patterns.blocks(self.block_size, self.order)
        blocks = self._blocks(seed, self.order) if self.augment else map(self.patterns.slices, in_blocks)
        gather_statistics(self.normed, blocks, apply)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _rows_with_nan(t: Tensor) -> Tensor:
    return t.isnan().flatten(1).any(dim=1) if t.ndim > 1 else t.isnan()


def _refuse(bad: Tensor, n_before: int, message: str) -> None:
    """Raise a ValueError that names the first pattern that is bad (N,)."""
    if bad.any():
        raise ValueError(message.format(n_before + int(bad.nonzero()[0])))
