"""Error and loss of a model over all patterns: one pass, in batches, nothing read back from the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bpflat.flatness.patterns import Patterns

Augmentation = Callable[[Tensor], Tensor]
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")


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


def score(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Which patterns are wrong (N,), and the loss of each (N,): cross-entropy or, of one output, logistic.

    Outputs that are not a number are wrong.  One output says class 1 where it is ≥ 0, as sign(0) = +1.
    """
    if _single(outputs):
        outputs = outputs.reshape(-1).float()
        positive = targets > 0
        wrong = ((outputs >= 0) != positive) | outputs.isnan()
        return wrong, F.softplus(torch.where(positive, -outputs, outputs))
    best, answer = outputs.max(dim=1)
    return (answer != targets) | best.isnan(), F.cross_entropy(outputs.float(), targets, reduction="none")


def _single(outputs: Tensor) -> bool:
    return outputs.ndim == 1 or outputs.shape[1] == 1


def check_outputs(outputs: object, targets: Tensor) -> None:
    """Raise a ValueError unless the outputs can be scored against the targets; reads both back from the device."""
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    n = len(targets)
    if not isinstance(outputs, Tensor) or outputs.ndim not in (1, 2) or len(outputs) != n or not outputs.numel():
        raise ValueError(
            f"the model must give outputs of shape ({n}, C), or ({n},) for two classes, for {n} inputs, not {shape}"
        )
    if not outputs.is_floating_point():
        raise ValueError(f"the model must give floating-point outputs, not {outputs.dtype}")
    if _single(outputs):
        values = set(targets.unique().tolist())
        if not (values <= {0, 1} or values <= {-1, 1}):
            raise ValueError(f"with one output, targets must be 0 and 1 or -1 and 1, not {sorted(values)[:5]}")
        return
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be class indices (integers), not {targets.dtype}")
    least, most = targets.min().item(), targets.max().item()
    if least < 0 or most >= outputs.shape[1]:
        bad = least if least < 0 else most
        raise ValueError(f"targets must be class indices from 0 to {outputs.shape[1] - 1}; found {bad}")


class Evaluation:
    """Totals of errors and losses over all patterns.

    Parameters
    ----------
    model : Module
        On the device, in eval mode; its BatchNorm statistics are changed where they are re-estimated.
    patterns : Patterns
    batch_size : int
        Most patterns at once; halved when memory runs out.
    block_size : int, optional
        Patterns that `augment` and BatchNorm see at once.
    recompute : bool
        Estimate the BatchNorm statistics before every pass.
    augment : callable, optional
        Inputs to inputs, with torch's global random numbers.
    precision : str, optional
    forward : callable, optional
        The model as it is called (compiled, say); itself by default.

    Attributes
    ----------
    scores : Tensor, shape (2, P)
        Errors and losses pattern by pattern, of the last checked pass.
    """

    def __init__(
        self,
        model: nn.Module,
        patterns: Patterns,
        *,
        batch_size: int,
        block_size: int,
        recompute: bool,
        augment: Augmentation | None,
        precision: str | None,
        forward: Callable[[Tensor], Tensor] | None = None,
    ):
        self.model, self.patterns, self.batch_size, self.block_size = model, patterns, batch_size, block_size
        self.augment, self.precision = augment, precision
        self.forward = model if forward is None else forward
        is_normed = (m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None)
        self.normed = list(is_normed) if recompute else []
        self.scores = torch.empty(2, 0)
        self.writes_inputs = False  # a model whose first layer works in place would change the data
        double = torch.float32 if patterns.device.type == "mps" else torch.float64
        self.zero = torch.zeros(2, dtype=double, device=patterns.device)

    def totals(self, seed: int = 0, *, rows: Tensor | None = None, check: bool = False) -> Tensor:
        """Number of errors and sum of losses, shape (2,), on the device.

        Parameters
        ----------
        seed : int
            Of the augmentation.
        rows : Tensor, optional
            Indices of the patterns; all by default.
        check : bool
            Check outputs and targets, which waits for the device, and keep `scores`.

        Raises
        ------
        ValueError
            With `check`, when outputs and targets do not fit together.
        MemoryError
            When memory runs out for a single pattern, or for a block of those that must stay together.
        """
        total, kept = self.zero.clone(), []
        with torch.inference_mode(), arithmetic(self.precision, self.patterns.device):
            if self.normed:
                self._estimate_statistics(seed)
            for block in self._blocks(seed, rows):
                start, n_rows = 0, len(block[0])
                while start < n_rows:
                    stop = min(start + self.batch_size, n_rows)
                    scores = self._of_batch(*self.patterns.slices(block, start, stop), check)
                    if scores is None:
                        self._halve()
                        continue
                    total += scores.sum(dim=1, dtype=total.dtype)
                    start = stop
                    if check:
                        kept.append(scores)
        if check:
            if not kept:
                raise ValueError("the data set is empty")
            self.scores = torch.cat(kept, dim=1)
        return total

    def _of_batch(self, inputs: Tensor, targets: Tensor, check: bool) -> Tensor | None:
        """Errors (0 or 1) and losses of one batch, shape (2, N); None when memory runs out."""
        try:
            given = inputs.clone() if check or self.writes_inputs else inputs
            outputs = self.forward(given)
            if check:
                check_outputs(outputs, targets)
                self.writes_inputs |= not torch.equal(given, inputs)
            wrong, losses = score(outputs, targets)
            return torch.stack([wrong.to(losses.dtype), losses])
        except torch.cuda.OutOfMemoryError:  # also what torch.OutOfMemoryError is, which older versions lack
            return None  # halved outside of this clause, where the exception does not hold on to the batch
        except RuntimeError as error:
            if not check:
                raise
            what = f"inputs of shape {tuple(inputs.shape)} and {inputs.dtype}"
            raise ValueError(f"the model cannot be applied to {what} ({error})") from error

    def _halve(self) -> None:
        if self.batch_size == 1:
            raise MemoryError(
                f"{self.patterns.device} has not enough memory for the model on a single pattern; "
                "set resident=False, precision='bfloat16' or another device"
            )
        self.batch_size = -(-self.batch_size // 2)
        if self.patterns.device.type == "cuda":
            torch.cuda.empty_cache()

    def _blocks(self, seed: int, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of patterns, augmented; the same for the same seed, whatever the batch size."""
        if self.augment is None:
            yield from self.patterns.blocks(rows=rows)
            return
        device = self.patterns.device
        devices = [device] if device.type == "cuda" else []
        for i, block in enumerate(self.patterns.blocks(self.block_size, rows)):
            inputs, targets = self.patterns.slices(block, 0, len(block[0]))
            with torch.random.fork_rng(devices):
                torch.default_generator.manual_seed(seed + i)
                if devices:
                    with torch.cuda.device(device):
                        torch.cuda.manual_seed(seed + i)
                inputs = self.augment(inputs.clone())  # which may work in place
            if not isinstance(inputs, Tensor) or len(inputs) != len(targets):
                raise ValueError("augment must return one input for each that it gets")
            yield inputs, targets

    def _estimate_statistics(self, seed: int) -> None:
        """Set the BatchNorm statistics to the mean over blocks, everything else being in eval mode."""
        for layer in self.normed:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative average
            layer.train()
        blocks = self._blocks(seed) if self.augment else self.patterns.blocks(self.block_size)
        try:
            for block in blocks:
                self.model(self.patterns.slices(block, 0, len(block[0]))[0])
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryError(
                f"{self.patterns.device} has not enough memory to re-estimate BatchNorm on blocks of "
                f"{self.block_size} patterns; set a smaller block_size (the statistics depend on it) or resident=False"
            ) from error
        for layer in self.normed:
            layer.eval()
