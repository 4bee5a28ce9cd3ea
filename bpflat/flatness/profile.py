"""The profile δE(w, σ) of a torch model: which draws are measured, where, and what comes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, distributed, nn
from tqdm import tqdm

from bpflat.arguments import check_count, check_device, check_grid, check_scalar, check_seed, stream
from bpflat.energy import LocalEnergyProfile, check_n_samples
from bpflat.flatness.evaluation import PRECISIONS, Augmentation, Evaluation
from bpflat.flatness.patterns import Data, Patterns
from bpflat.flatness.perturbation import Choice, Perturbation, check_parameters, choose, copy_to, fingerprint, unwrap

_CHECK_EVERY = 16
"""Draws between two looks at the standard error; not a matter of the number of processes, so that all stop alike."""
_NOISE, _AUGMENTATION, _SUBSET = 0, 1, 2  # first keys of the seed's streams


def local_energy(
    model: nn.Module,
    data: Data,
    sigmas: ArrayLike,
    *,
    n_samples: int = 100,
    seed: int | np.random.SeedSequence | None = None,
    device: str | torch.device | None = None,
    parameters: Choice = None,
    tolerance: float | None = None,
    batch_norm: str = "frozen",
    augment: Augmentation | None = None,
    subset: int | None = None,
    common: bool = True,
    antithetic: bool = False,
    batch_size: int | None = None,
    block_size: int = 256,
    resident: bool | None = None,
    precision: str | None = None,
    channels_last: bool = False,
    compile: bool | str = False,
    split: bool = True,
    progress: bool = False,
) -> LocalEnergyProfile:
    """Local energy of any torch classifier (eq. 4): ``δE(w, σ) = E_z E_train(w + σ z⊙w) − E_train(w)``.

    Dropout is off, the model is worked on as a copy and never touched, and the global random numbers are left alone.

    Parameters
    ----------
    model : torch.nn.Module
        Takes inputs (B, ...) and gives logits (B, C), or one output a pattern, (B,) or (B, 1), which says class 1
        where it is ≥ 0.
    data : tuple of Tensor, or iterable of them
        (inputs, targets), or batches of such (a DataLoader).  Targets (N,) are class indices; with one output, 0 and 1
        or −1 and 1.  A loader that shuffles or augments is read once if its data stay on the device (`resident`).
    sigmas : array_like, shape (S,)
        Noise amplitudes σ ≥ 0, strictly rising.
    n_samples : int
        Draws of the standard normal z at each σ, at least 2; with `antithetic` even and at least 4.
    seed : int or SeedSequence, optional
        z is a function of it, of σ's place in the grid (unless `common`), of the number of the draw and of the chosen
        parameters: neither of the batch size nor of the number of processes.  The CPU and CUDA draw different
        numbers.  None takes fresh entropy.
    device : str or torch.device, optional
        Where to compute; by default where the model is.
    parameters : None, "weights", list of str, or callable, optional
        What is perturbed: every trainable parameter (None), those of two dimensions or more ("weights": no biases, no
        BatchNorm scales), those named, or those trainable ones for which ``parameters(name)`` is true.  Shared
        parameters are perturbed once.
    tolerance : float, optional
        Stop each σ as soon as the standard error of δE is no larger, looked at after every 16 draws; `n_samples` is
        then the most.  Standard errors from so few draws are themselves uncertain (by a fifth after 16).
    batch_norm : {"frozen", "recompute"}
        Keep the running statistics, or estimate them anew for every draw, and for w itself, as the mean over blocks of
        `block_size` patterns.  Doubles the cost.
    augment : callable, optional
        Inputs (B, ...) to inputs, drawing on torch's global random numbers, which are seeded for it and put back.
        Draw i sees its own augmentation, the same for all σ, and δE is the rise over w under that very augmentation;
        `train_error` is the mean over them.  Costs one more pass a draw.
    subset : int, optional
        Measure each draw on as many patterns, drawn for it at random without repetition, against w on the same ones.
        No bias, and the standard error holds both.  Where draws of z differ by more than the patterns do, which is the
        rule with thousands of patterns, the same standard error takes many times fewer evaluations: see the README.
        Data that are streamed cannot be drawn from.
    common : bool
        Use the same draws z for every σ.  The points are then correlated, the curve is smooth, differences between
        two σ have smaller errors, and further σ in the grid do not change the others.
    antithetic : bool
        Take the draws in pairs z, −z; standard errors are over pairs.  Cuts the variance of the mean as far as E is odd
        in z: manyfold for the loss at small σ away from its minima, little for the error, where it can even cost some.
    batch_size : int, optional
        Patterns at once; by default the batches of an iterable, or 512, and 128 on the CPU, where larger ones leave the
        caches.  Halved when the GPU's memory runs out.
    block_size : int
        Patterns that `augment` and the BatchNorm estimates see at once; they depend on it (on the loader's own batches
        where these are streamed), and not on `batch_size`.
    resident : bool, optional
        Keep the data on the device (True), stream them at every pass (False), or do what fits (None: a third of a
        GPU's free memory, 4 GiB on the CPU).
    precision : {None, "float32", "tf32", "bfloat16", "float16"}
        Of matrix products and convolutions: torch's present settings, full single precision, TF32 where the GPU has
        it, or autocast.  See Notes.
    channels_last : bool
        Keep images and convolutions in this memory format.
    compile : bool or str
        Pass the model through torch.compile; a string is its `mode`, and "reduce-overhead" uses CUDA graphs.  Pays off
        where a GPU waits for Python: small networks or batches, many draws.
    split : bool
        Where torch.distributed is initialised (torchrun), share the draws among the processes, all of which must call
        and have the whole data; each gets the result.  False: this process does all.
    progress : bool
        Show a bar over the draws on stderr.

    Returns
    -------
    LocalEnergyProfile
        With `train_loss`, `delta_loss` and `loss_std_error`: cross-entropy, or for one output the logistic loss, in
        nats.  `n_samples` is an array (S,) with `tolerance`; `reference` is `bpflat.flatness.fingerprint` of the model.

    Raises
    ------
    ValueError
        Nothing to perturb, parameters that are not finite, an empty data set, targets out of range, σ < 0, outputs of
        the wrong shape, a device that is not there, a model that cannot be copied, an unknown option or too few draws.
    MemoryError
        When the device has no room for the model and one pattern, or for one block that must stay together.

    Notes
    -----
    E_train(w) and E_train(w + σ z⊙w) are measured alike, so δE(w, 0) = 0 exactly; no draw is spent on σ = 0.

    Lower precision turns round outputs near ties, at w and at w + σ z⊙w alike, and leaves δE an error of second order:
    see the README for a measurement.

    Errors are counted exactly; losses are added in float64, so they are the same for every batch size to rounding.
    A single pattern whose two best outputs are equal to rounding may still flip with the batch size.

    Examples
    --------
    >>> model = torch.nn.Linear(20, 3)
    >>> inputs = torch.randn(200, 20)
    >>> profile = local_energy(model, (inputs, model(inputs).argmax(1)), [0.1, 0.5], n_samples=20, seed=0)
    >>> profile.delta_error[0] < profile.delta_error[1]
    True
    """
    sigmas = check_grid("sigmas", sigmas, zero=True)
    n_samples = _check_draws(n_samples, antithetic)
    if batch_norm not in ("frozen", "recompute"):
        raise ValueError(f"batch_norm must be 'frozen' or 'recompute', not {batch_norm!r}")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be None or one of {', '.join(PRECISIONS)}, not {precision!r}")
    tolerance = None if tolerance is None else check_scalar("tolerance", tolerance, above=0)
    batch_size = None if batch_size is None else check_count("batch_size", batch_size)
    block_size = check_count("block_size", block_size)
    model = unwrap(model)
    check_parameters(model)
    chosen = choose(model, parameters)
    device = check_device(next(iter(chosen.values())).device if device is None else device)
    processes = _Processes.of(split, device)
    seed = processes.same_seed(seed)

    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    patterns = Patterns(data, device, dtype=dtype, resident=resident, channels_last=channels_last)
    subset = _check_subset(subset, patterns, batch_norm)
    twin, tensors = copy_to(model, device)
    copies = [tensors[id(p)] for p in chosen.values()]
    if channels_last:
        twin.to(memory_format=torch.channels_last)
    evaluation = Evaluation(
        twin,
        patterns,
        batch_size=batch_size or patterns.largest or (128 if device.type == "cpu" else 512),
        block_size=block_size,
        recompute=batch_norm == "recompute",
        augment=augment,
        precision=precision,
        forward=torch.compile(twin, mode=None if compile is True else compile) if compile else None,
    )
    sampling = _Sampling(
        Perturbation(copies, stream(seed, _NOISE)), evaluation, seed, n_samples, subset, common, antithetic, processes
    )
    with tqdm(total=n_samples * np.count_nonzero(sigmas), desc="δE", unit="draw", disable=not progress) as bar:
        rises = [sampling.at(s, sigma, tolerance, bar) for s, sigma in enumerate(sigmas)]
    mean, error = np.transpose([_mean_and_error(rise, antithetic) for rise in rises], (1, 2, 0))
    train_error, train_loss = sampling.means_of_w()
    return LocalEnergyProfile(
        sigma=sigmas,
        delta_error=mean[0],
        std_error=error[0],
        train_error=train_error,
        n_samples=n_samples if tolerance is None else np.array([len(rise) for rise in rises]),
        reference=fingerprint(model),
        train_loss=train_loss,
        delta_loss=mean[1],
        loss_std_error=error[1],
    )


def _check_draws(n_samples: int, antithetic: bool) -> int:
    n_samples = check_n_samples(n_samples)
    if antithetic and (n_samples % 2 or n_samples < 4):
        raise ValueError(f"n_samples must be even and at least 4 for antithetic pairs, not {n_samples}")
    return n_samples


def _check_subset(subset: int | None, patterns: Patterns, batch_norm: str) -> int | None:
    if subset is None:
        return None
    subset = check_count("subset", subset)
    if patterns.whole is None:
        raise ValueError("a subset cannot be drawn from data that are streamed; set resident=True, or subset=None")
    if batch_norm != "frozen":
        raise ValueError("BatchNorm statistics of a subset are not those of all patterns; set batch_norm='frozen'")
    n_patterns = len(patterns.whole[0])
    if subset > n_patterns:
        raise ValueError(f"subset is {subset}, but there are {n_patterns} patterns")
    return subset if subset < n_patterns else None


def _mean_and_error(rises: NDArray, antithetic: bool) -> tuple[NDArray, NDArray]:
    """Mean and its standard error, (2,) each, of the rises (n, 2) of error and loss; over pairs if antithetic."""
    if not len(rises):
        return np.zeros(2), np.zeros(2)
    independent = rises.reshape(-1, 2, 2).mean(axis=1) if antithetic else rises
    return rises.mean(axis=0), independent.std(axis=0, ddof=1) / np.sqrt(len(independent))


@dataclass
class _Processes:
    """The processes that share the draws: draw i belongs to rank i mod `size`."""

    rank: int
    size: int
    device: torch.device  # where they exchange tensors

    @classmethod
    def of(cls, split: bool, device: torch.device) -> _Processes:
        if not (split and distributed.is_available() and distributed.is_initialized()):
            return cls(0, 1, device)
        where = device if distributed.get_backend() == "nccl" else torch.device("cpu")
        return cls(distributed.get_rank(), distributed.get_world_size(), where)

    def same_seed(self, seed: int | np.random.SeedSequence | None) -> np.random.SeedSequence:
        """The seed; where it is None, fresh entropy that all processes have."""
        if seed is not None or self.size == 1:
            return check_seed(seed)
        entropy = np.random.SeedSequence().generate_state(2, np.uint64) >> 1
        shared = torch.from_numpy(entropy.astype(np.int64)).to(self.device)
        distributed.broadcast(shared, 0)
        return np.random.SeedSequence(shared.tolist())

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes, on the CPU."""
        if self.size > 1:
            values = values.to(self.device)
            distributed.all_reduce(values)
        return values.cpu()


@dataclass
class _Sampling:
    """Rises of error and loss over those of w, draw by draw."""

    perturbation: Perturbation
    evaluation: Evaluation
    seed: np.random.SeedSequence
    n_samples: int
    subset: int | None
    common: bool
    antithetic: bool
    processes: _Processes
    n_patterns: int = field(init=False)
    at_w: Tensor = field(init=False)  # totals of w on the patterns of each draw, (n_samples, 2)
    known: NDArray[np.bool_] = field(init=False)

    def __post_init__(self):
        self.perturbation.set(0.0)
        first = self.evaluation.totals(self._augmentation(0), check=True)
        self.n_patterns = self.evaluation.scores.shape[1]
        self.at_w = first.expand(self.n_samples, 2).clone()
        self.known = np.full(self.n_samples, self.evaluation.augment is None and self.subset is None)
        self.known[0] |= self.subset is None

    def at(self, place: int, sigma: float, tolerance: float | None, bar: tqdm) -> NDArray:
        """Rises of mean error and mean loss at one σ, shape (n, 2), n ≤ n_samples; none at σ = 0."""
        rises = np.empty((0, 2))
        if sigma == 0:
            return rises
        step = self.n_samples if tolerance is None else _CHECK_EVERY
        while (start := len(rises)) < self.n_samples:
            stop = min(start + step, self.n_samples)
            if self.n_samples - stop < 2:  # no single one left over
                stop = self.n_samples
            rises = np.concatenate([rises, self._measure(place, sigma, range(start, stop), bar)])
            if tolerance is not None and _mean_and_error(rises, self.antithetic)[1][0] <= tolerance:
                bar.total -= self.n_samples - stop
                break
        return rises

    def _measure(self, place: int, sigma: float, draws: range, bar: tqdm) -> NDArray:
        rises = self.at_w.new_zeros(len(draws), 2)
        for i in draws:
            if i % self.processes.size != self.processes.rank:
                continue
            number, sign = (i // 2, (1, -1)[i % 2]) if self.antithetic else (i, 1)
            rows = self._rows(number)
            self._measure_w(i, number, rows)
            self.perturbation.set(sign * sigma, 0 if self.common else 1 + place, number)
            rises[i - draws.start] = self.evaluation.totals(self._augmentation(number), rows=rows) - self.at_w[i]
            bar.update(self.processes.size)
        return self.processes.sum(rises).numpy().astype(np.float64) / (self.subset or self.n_patterns)

    def _measure_w(self, i: int, number: int, rows: Tensor | None) -> None:
        """See to it that the totals of w are known as draw i sees it."""
        if self.known[i]:
            return
        if self.evaluation.augment is None:
            scores = self.evaluation.scores
            self.at_w[i] = scores[:, rows.to(scores.device)].sum(dim=1, dtype=self.at_w.dtype)
        else:
            self.perturbation.set(0.0)
            self.at_w[i] = self.evaluation.totals(self._augmentation(number), rows=rows)
        self.known[i] = True

    def _rows(self, number: int) -> Tensor | None:
        """Patterns of one draw, or of both of a pair; None for all."""
        if self.subset is None:
            return None
        rng = np.random.default_rng(stream(self.seed, _SUBSET, number))
        return torch.from_numpy(np.sort(rng.choice(self.n_patterns, self.subset, replace=False, shuffle=False)))

    def _augmentation(self, number: int) -> int:
        """Seed of the augmentation of one draw, or of both of a pair."""
        return int(stream(self.seed, _AUGMENTATION, number).generate_state(1, np.uint64)[0] >> 2)

    def means_of_w(self) -> tuple[float, float]:
        """Mean error and mean loss of w: over all patterns, or over the augmentations that were seen."""
        if self.evaluation.augment is None:
            totals = self.evaluation.scores.sum(dim=1, dtype=self.at_w.dtype)
            return tuple((totals / self.n_patterns).tolist())
        mine = self.known & (np.arange(self.n_samples) % self.processes.size == self.processes.rank)
        seen = torch.from_numpy(mine).to(self.at_w)
        totals = self.processes.sum(seen @ self.at_w) / self.processes.sum(seen.sum())
        return tuple((totals / (self.subset or self.n_patterns)).tolist())
