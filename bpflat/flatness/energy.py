"""The local energy δE(w, σ) of a torch model: from what is asked for to what comes of the draws."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from tqdm import tqdm

from bpflat.arguments import (
    check_count,
    check_device,
    check_flag,
    check_grid,
    check_n_samples,
    check_scalar,
    shown,
)
from bpflat.flatness.evaluation import Augmentation
from bpflat.flatness.models import Choice, choose, fingerprint, unwrap
from bpflat.flatness.noise import Perturbation
from bpflat.flatness.objective import Forward, Measure, Objective
from bpflat.flatness.patterns import Data, Patterns
from bpflat.flatness.preparation import prepare
from bpflat.flatness.probe import check_model
from bpflat.flatness.processes import Processes
from bpflat.flatness.sampling import NOISE, Sampling, mean_and_error
from bpflat.provenance import Provenance
from bpflat.randomness import stream
from bpflat.results import LocalEnergyProfile


def local_energy(
    model: nn.Module,
    data: Data,
    sigmas: ArrayLike,
    *,
    n_samples: int = 100,
    seed: int | np.random.SeedSequence | None = None,
    device: str | torch.device | None = None,
    forward: Forward | None = None,
    loss: Measure | None = None,
    error: Measure | None = None,
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
    """Local energy of any torch model (eq. 4): ``δE(w, σ) = E_z E_train(w + σ z⊙w) − E_train(w)``.

    Dropout is off, the model is worked on as a copy and never touched, and the global random numbers are left alone.
    E_train is the fraction of training patterns that a classifier gets wrong; the same rise of the mean loss comes with
    it.  What is no classifier of single inputs is measured by `forward`, `loss` and `error`.

    Parameters
    ----------
    model : torch.nn.Module
        Takes inputs (B, ...) and gives logits (B, C), or one output a pattern, (B,) or (B, 1), which says class 1
        where it is ≥ 0; or anything, with `forward`.
    data : tuple of Tensor, or iterable of them
        (inputs, targets), or batches of such (a DataLoader).  Targets (N,) are class indices; with one output, 0 and 1
        or −1 and 1; with `loss`, anything with a row for each input.  With both `forward` and `loss`, a batch is a
        tensor, or a tuple, dict or dataclass that holds tensors (nested too), and the data one batch, or a list or
        other iterable of batches, all of the same form.  The first axes of tensors count patterns; a batch where they
        differ, or that holds other things, is never cut.  A loader that shuffles or augments is read once if its data
        stay on the device (`resident`).
    sigmas : array_like, shape (S,)
        Noise amplitudes σ ≥ 0, strictly rising.
    n_samples : int
        Draws of the standard normal z at each σ, at least 2; with `antithetic` even and at least 4.
    seed : int or SeedSequence, optional
        z is a function of it, of σ's place in the grid (unless `common`), of the number of the draw and of the chosen
        parameters: neither of the batch size nor of the number of processes.  The CPU and CUDA draw different
        numbers.  None takes fresh entropy.
    device : str or torch.device, optional
        Device to compute on; by default that of the model.
    forward : callable, optional
        ``forward(model, batch)`` gives the outputs, of any type.  It must call the model that it gets: a copy.  Tensors
        keep their types; without `forward` the inputs take that of the model.
    loss : callable, optional
        ``loss(outputs, batch)`` gives a value for each pattern, (B,), or several, (B, ...): a pixel or a position of a
        text each.  Or a tuple of such values and their weights ≥ 0, of the same shape: 0 for what does not count, such
        as padding.  The mean is over all values, by weight.  By default cross-entropy or, of one output, the logistic
        loss, in nats.
    error : callable, optional
        ``error(outputs, batch)`` gives what is to be E_train in eq. 4, as `loss` gives losses: 0 or 1, or a fraction
        between.  By default whether the class is wrong; but with `loss` alone there is no error: `delta_error`,
        `std_error` and `train_error` are then NaN, and `delta_loss` is the measure.
    parameters : None, "weights", list of str, or callable, optional
        What is perturbed: every trainable parameter (None), those of two dimensions or more ("weights": no biases, no
        BatchNorm scales), those named, or those trainable ones for which ``parameters(name)`` is true.  Shared
        parameters are perturbed once.
    tolerance : float, optional
        Stop each σ as soon as the standard error of δE (of δL where there is no error) is no larger, looked at after
        every 16 draws; `n_samples` is then the most.  Standard errors from so few draws are themselves uncertain (by a
        fifth after 16).
    batch_norm : {"frozen", "recompute"}
        Keep the running statistics, or estimate them anew for every draw, and for w itself, as the mean over blocks of
        `block_size` patterns, which doubles the cost.  Blocks are of shuffled patterns, the same for every draw, and
        augmented as those that are measured; of streamed data they are the loader's batches, which should be shuffled.
        Running statistics are those of the images of the training: give its `augment` with them.
    augment : callable, optional
        Inputs (B, ...) to inputs (batch to batch, with `forward` and `loss`), drawing on torch's global random numbers,
        which are seeded for it and put back.
        Draw i sees its own augmentation, the same for all σ, and δE is the rise over w under that very augmentation;
        `train_error` is the mean over them.  Costs one more pass per draw.
    subset : int, optional
        Measure each draw on as many patterns, drawn for it at random without repetition, against w on the same ones.
        No bias, and the standard error holds both.  Where draws of z differ by more than the patterns do, which is the
        rule with thousands of patterns, the same standard error takes many times fewer evaluations.
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
        Arithmetic of matrix products and convolutions: torch's present settings, full single precision, TF32 where
        the GPU has it, or autocast.  See Notes.
    channels_last : bool
        Keep images and convolutions in this memory format.
    compile : bool or str
        Pass the model through torch.compile; a string is its `mode`, and "reduce-overhead" uses CUDA graphs.  Pays off
        where a GPU waits for Python: small networks or batches, many draws.
    split : bool
        Share the draws among the processes where torch.distributed is initialised (torchrun), all of which must call
        and have the whole data; each gets the result.  False: this process does all.
    progress : bool
        Show a bar over the draws on stderr.

    Returns
    -------
    LocalEnergyProfile
        Errors, and losses in `train_loss`, `delta_loss` and `loss_std_error`.  `n_samples` is an array (S,) with
        `tolerance`; `reference` is `bpflat.flatness.fingerprint` of the model.

    Raises
    ------
    ValueError
        Nothing to perturb, parameters that are not finite, an empty data set, targets out of range, σ < 0, outputs of
        the wrong shape, a device that is not there, an unknown option or too few draws; a loss that is a mean over
        patterns, or batches of different forms; data or losses at w with NaN entries.  A model that cannot be copied or
        perturbed: of torch.jit, sharded, held by a closure or a patched forward, computing with stored copies of its
        weights.  A model that does not repeat itself, see Notes.
    MemoryError
        When the device has no room for the model and one pattern, or for one block that must stay together.

    Warns
    -----
    UserWarning
        Some of the parameters to perturb are not used by the model, a head for training only, say.

    Notes
    -----
    E_train(w) and E_train(w + σ z⊙w) are measured alike, so δE(w, 0) = 0 exactly; no draw is spent on σ = 0.

    Before any draw, two passes over the first patterns must agree up to √ε of their largest output, ε being the
    resolution of the arithmetic (3·10⁻⁴ in float32: sums in another order on a GPU pass, dropout does not); the copy of
    the model must not read the parameters of the model itself; and a forced change of the parameters must change the
    outputs or, with `loss`, the losses.

    Losses that are not a number under the noise make `delta_loss` NaN at that σ; outputs that are not count as errors.

    Memory beyond data and activations: twice the weights, for the copy and the noise; once more on the device where the
    model lies on another.  The noise takes 4 bytes for each perturbed parameter, 8 where one of them is of float64.

    Lower precision turns round outputs near ties, at w and at w + σ z⊙w alike, and leaves δE an error of second order.

    Errors are counted exactly; losses are added in float64, so they are the same for every batch size to rounding.
    A single pattern whose two best outputs are equal to rounding may still flip with the batch size.

    Examples
    --------
    >>> import torch
    >>> from bpflat.flatness import local_energy
    >>> model = torch.nn.Linear(20, 3)
    >>> inputs = torch.randn(200, 20)
    >>> profile = local_energy(model, (inputs, model(inputs).argmax(1)), [0.1, 0.5], n_samples=20, seed=0)
    >>> bool(profile.delta_error[0] < profile.delta_error[1])
    True

    A language model, of batches padded with labels of −100 (E_train: the fraction of tokens that are not guessed):

    >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50))
    >>> def tokens(n):
    ...     return torch.randint(50, (4, n))
    >>> texts = [{"tokens": tokens(n), "labels": tokens(n)} for n in (12, 20)]
    >>> texts[1]["labels"][0, 15:] = -100
    >>> def loss(logits, batch):
    ...     losses = torch.nn.functional.cross_entropy(logits.mT, batch["labels"], reduction="none")
    ...     return losses, batch["labels"] != -100
    >>> def error(logits, batch):
    ...     return logits.argmax(-1) != batch["labels"], batch["labels"] != -100
    >>> functions = {"forward": lambda model, batch: model(batch["tokens"]), "loss": loss, "error": error}
    >>> profile = local_energy(model, texts, [0.1, 0.5], n_samples=20, seed=0, **functions)
    >>> profile.delta_loss.shape
    (2,)
    """
    sigmas = check_grid("sigmas", sigmas, zero=True)
    flags = {"common": common, "antithetic": antithetic, "channels_last": channels_last, "split": split}
    for name, flag in (flags | {"progress": progress}).items():
        check_flag(name, flag)
    n_samples = _check_draws(n_samples, antithetic)
    if augment is not None and not callable(augment):
        raise ValueError(f"augment must be a function of a batch of inputs, not {shown(augment)}")
    if not isinstance(compile, str):
        check_flag("compile", compile)
    tolerance = None if tolerance is None else check_scalar("tolerance", tolerance, above=0)
    objective = Objective(forward, loss, error)
    model = unwrap(model)
    chosen = choose(model, parameters)
    where = check_device(next(iter(chosen.values())).device if device is None else device)
    processes = Processes.of(split, where)
    seed = processes.same_seed(seed)

    evaluation, copies = prepare(
        model,
        chosen,
        data,
        where,
        objective,
        seed=seed,
        batch_size=batch_size,
        block_size=block_size,
        batch_norm=batch_norm,
        resident=resident,
        precision=precision,
        channels_last=channels_last,
        augment=augment,
        compile=compile,
    )
    subset = _check_subset(subset, evaluation.patterns, batch_norm)
    perturbation = Perturbation(chosen.values(), copies, stream(seed, NOISE))
    with torch.random.fork_rng([where] if where.type == "cuda" else []):  # a model that draws is refused
        sampling = Sampling(perturbation, evaluation, seed, n_samples, subset, common, antithetic, processes)
        check_model(evaluation, perturbation, chosen)
    decides = 0 if objective.has_error else 1  # what `tolerance` is of
    with tqdm(total=n_samples * np.count_nonzero(sigmas), desc="δE", unit="draw", disable=not progress) as bar:
        rises = [sampling.at(s, sigma, tolerance, decides, bar) for s, sigma in enumerate(sigmas)]
    mean, deviation = np.transpose([mean_and_error(rise, antithetic) for rise in rises], (1, 2, 0))
    train_error, train_loss = sampling.means_of_w()
    if not objective.has_error:
        mean[0], deviation[0], train_error = np.nan, np.nan, np.nan
    return LocalEnergyProfile(
        sigma=sigmas,
        delta_error=mean[0],
        std_error=deviation[0],
        train_error=train_error,
        n_samples=n_samples if tolerance is None else np.array([len(rise) for rise in rises]),
        reference=fingerprint(model),
        train_loss=train_loss,
        delta_loss=mean[1],
        loss_std_error=deviation[1],
        provenance=Provenance.here(),
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
    if patterns.n_rows is None:
        raise ValueError(
            "a subset cannot be drawn from data that are streamed, or whose batches cannot be joined and cut; "
            "set resident=True, give batches of the same shape, or set subset=None"
        )
    if batch_norm != "frozen":
        raise ValueError("BatchNorm statistics of a subset are not those of all patterns; set batch_norm='frozen'")
    if subset > patterns.n_rows:
        raise ValueError(f"subset is {subset}, but there are {patterns.n_rows} patterns")
    return subset if subset < patterns.n_rows else None
