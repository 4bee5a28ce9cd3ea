"""One training of a deep network: its options, its files, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from bpflat.arguments import check_device
from bpflat.locks import disclaim
from bpflat.provenance import Provenance
from bpflat.storage import discard_temporaries
from bpflat.tensor_files import save_tensors
from training.deep.augment import Augmentation, resize_whole
from training.deep.checkpoints import load_state, save_state
from training.deep.events import event_writer
from training.deep.flatness import FlatnessPlan, as_history
from training.deep.images import SOURCES, Images, load_images
from training.deep.processes import first_alone, first_claims, first_decides, is_first, own_replicas
from training.deep.recipes import Recipe, as_plain
from training.deep.results import METRICS, DeepRun, EpochMetrics, write_csv
from training.deep.sub_policies import Policy, read_policy
from training.deep.trainer import DeepReport, State, begin, centre, evaluate, train
from training.result_file import require_same

BFLOAT16 = (
    "autocast forward passes of the training to bfloat16, 8 bits of precision instead of 24; weights, optimizers and "
    "evaluation stay in float32. For GPUs and processors with avx512_bf16 or amx_bf16 (lscpu), where a step of "
    "SmallConvNet takes 0.6 times as long; others emulate it, at a ninth of the speed"
)
KEEP_CONTRACTION = "rSGD in fewer steps than the recipe's: rescale γ and K so that replicas come together as in it"


@dataclass(frozen=True)
class DeepTraining:
    """One training by a recipe: everything that decides its result, and where that is stored.

    Attributes
    ----------
    recipe : Recipe
    out : Path
        Folder, made if it is missing.
    data : Path, optional
        Where the images are, see `training.deep.images.load_images`; downloaded by default.
    seed : int
        Decides initial weights, minibatches, augmentation and noise.
    epochs_scale : float
        Shortens (or stretches) all schedules together: learning rate, γ and K are functions of the fraction done.
        Replicas of rSGD are then pulled together for fewer steps by the same γ, see `keep_contraction`.
    n_train : int, optional
        Draw so many training images, the same for every seed.
    policies : Path or "none", optional
        Sub-policies instead of the recipe's: a file for `training.deep.sub_policies.read_policy`; "none" for none.
    evaluate_every : int
        Epochs between evaluations of the test error.
    stop_loss : float, optional
        End before the last epoch when the training loss is lower, see `training.deep.trainer.train`.
    bfloat16 : bool
        Autocast forward passes of the training to bfloat16: 8 bits of precision in convolutions and products.  Training
        losses of SmallConvNet's first epochs change by less than 0.001, those of another seed by 0.1.  Faster on GPUs
        and on processors with instructions for it, many times slower on others.
    compiled, cudnn_benchmark : bool
        See `training.deep.trainer.train`; a compiler is needed for the first.
    augment : bool
        False trains on the images as they are, only resized and normalised.
    keep_contraction : bool
        Rescale rSGD to fewer steps than the recipe's (or more).  Without a loss, distances from the centre shrink by
        ``exp(−Σ η γ / (1 − momentum))`` over the steps of a run.  So that they do as in the recipe after the same
        fraction of the run, a run of s times the steps is given ``γ/s`` and, for as many interactions of the same
        η K γ, ``K s`` (rounded, at least 1).  Steps are counted on the images of the published data, or on `n_train`.
    flatness : FlatnessPlan, optional
        Measure the local energy of the centre along the training; it changes nothing else.
    device : str
    checkpoint_every : float
        Seconds between checkpoints, which are written after an epoch.
    tensorboard : bool
        Write the curves as event files too, in the folder NAME-seedS.events.

    Raises
    ------
    ValueError
        Bad arguments, each named.
    """

    recipe: Recipe
    out: Path
    data: Path | None = None
    seed: int = 0
    epochs_scale: float = 1.0
    n_train: int | None = None
    policies: Path | str | None = None
    evaluate_every: int = 1
    stop_loss: float | None = None
    bfloat16: bool = False
    compiled: bool = False
    cudnn_benchmark: bool = False
    augment: bool = True
    keep_contraction: bool = False
    flatness: FlatnessPlan | None = None
    device: str = "cpu"
    checkpoint_every: float = 60.0
    tensorboard: bool = False

    def __post_init__(self):
        if not 0 < self.epochs_scale < math.inf:
            raise ValueError(f"epochs-scale must be positive and finite; got {self.epochs_scale}")
        if self.evaluate_every < 1:
            raise ValueError(f"evaluate-every must be at least 1; got {self.evaluate_every}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0; got {self.seed}")
        check_device(self.device)
        if str(self.policies) == "none":
            object.__setattr__(self, "recipe", dataclasses.replace(self.recipe, policy="none"))
            object.__setattr__(self, "policies", None)

    @property
    def name(self) -> str:
        """Recipe and seed: the beginning of the names of all files."""
        return f"{self.recipe.name}-seed{self.seed}"

    def file(self, suffix: str) -> Path:
        """Where the file of this kind is, such as ".npz"."""
        return Path(self.out) / (self.name + suffix)

    @property
    def epochs(self) -> int:
        """Epochs of the scaled recipe."""
        return max(1, round(self.recipe.epochs * self.epochs_scale))

    @property
    def pace(self) -> float:
        """Steps over those of the recipe, to which γ and K of rSGD are rescaled; 1 where they are kept."""
        n_train = SOURCES[self.recipe.data].n_train if self.n_train is None else self.n_train
        steps = self.epochs * (n_train // self.recipe.batch)
        return steps / self.recipe.steps if self.keep_contraction and self.recipe.y > 1 and steps else 1.0

    @cached_property
    def policy(self) -> Policy | None:
        """Sub-policies that replace the recipe's."""
        return None if self.policies is None else read_policy(self.policies)

    @cached_property
    def augmentation(self) -> Augmentation:
        """What happens to the minibatches."""
        if self.augment:
            return self.recipe.augmentation(self.policy)
        return Augmentation(size=self.recipe.size, flip=False, interpolation=self.recipe.interpolation)

    @property
    def configuration(self) -> dict:
        """What decides the result, for JSON; a run goes on only from files of the same.

        Later options are named only where they are used, so that runs stored before them are still recognised.
        """
        configuration = {
            "recipe": as_plain(self.recipe),
            "seed": self.seed,
            "epochs": self.epochs,
            "epochs_scale": self.epochs_scale,
            "n_train": self.n_train,
            "policy": [[list(step) for step in steps] for steps in self.policy or ()],
            "evaluate_every": self.evaluate_every,
            "bfloat16": self.bfloat16,
        }
        if not self.augment:
            configuration["augment"] = False
        if self.pace != 1:
            configuration["gamma_scale"] = 1 / self.pace
        if self.compiled:
            configuration["compiled"] = True
        if self.stop_loss is not None:
            configuration["stop_loss"] = self.stop_loss
        if self.flatness is not None:
            configuration["flatness"] = dataclasses.asdict(self.flatness)
        return configuration

    def stored(self) -> DeepRun | None:
        """Read the result; None where there is none, ValueError where it is of another configuration."""
        path = self.file(".npz")
        if not path.exists():
            return None
        result = DeepRun.load(path)
        require_same(path, result.configuration, self.configuration)
        return result

    def run(
        self, *, group: dist.ProcessGroup | None = None, progress: Callable[[DeepReport], None] = lambda report: None
    ) -> DeepRun:
        """Train, or read what a run of the same configuration has left; see `training.deep.run`."""
        own_replicas(self.recipe.y, group)  # or a ValueError, before anything else is done
        stored = self.stored()
        if stored is not None:
            if is_first(group):
                self._tidy()
                disclaim(self.file(".npz"))
            return stored
        images = self._load_images(group)  # or an error, before a folder is made
        with first_claims(self.file(".npz"), group):
            stored = self.stored()  # it may just have been made
            return self._make(images, group, progress) if stored is None else stored

    def _make(self, images: Images, group: dist.ProcessGroup | None, progress: Callable[[DeepReport], None]) -> DeepRun:
        state = self._begin(images, group)
        self._train(state, images, progress)
        return self._finish(state, images)

    def _load_images(self, group: dist.ProcessGroup | None) -> Images:
        """All images, of the size in which they are trained on."""
        recipe, augmentation = self.recipe, self.augmentation
        with first_alone(group):  # which may have to download them
            images = load_images(recipe.data, self.data, n_train=self.n_train, device=self.device)
        if len(images.train_labels) < recipe.batch:
            raise ValueError(
                f"n-train must be at least the {recipe.batch} of one minibatch; got {len(images.train_labels)}"
            )
        resized = {
            name: resize_whole(getattr(images, name), augmentation.size, augmentation.interpolation)
            for name in ("train_images", "test_images")
        }
        return dataclasses.replace(images, **resized)

    def _begin(self, images: Images, group: dist.ProcessGroup | None) -> State:
        """State at the beginning, or of the checkpoint."""
        state = begin(self.recipe, images.classes, self.seed, self.device, group)
        state.pace = self.pace
        checkpoint = self.file(_CHECKPOINT)
        if checkpoint.exists():
            load_state(checkpoint, self.configuration, state)
        if first_decides(state.epoch, group) != state.epoch:
            raise ValueError(f"processes find different checkpoints; they must all reach the same folder {self.out}")
        return state

    def _train(self, state: State, images: Images, progress: Callable[[DeepReport], None]) -> None:
        """Train to the end; write curves and checkpoints on the way."""
        checkpoint, configuration = self.file(_CHECKPOINT), self.configuration
        speaks = is_first(state.group)
        saved_at, saved = time.monotonic(), checkpoint.exists()

        def after_epoch(state: State) -> None:
            nonlocal saved_at, saved
            if speaks:
                write_csv(self.file(".csv"), state.curves)
                add_events(state.curves[-1])
            if first_decides(time.monotonic() - saved_at >= self.checkpoint_every, state.group):
                save_state(checkpoint, configuration, state)
                saved_at, saved = time.monotonic(), True
            if speaks:
                progress(DeepReport(f"{self.recipe.name} seed {self.seed}", self.epochs, state.curves[-1]))

        options = {name: getattr(self, name) for name in _OPTIONS_OF_TRAIN}
        try:
            with self._events(state) as add_events:
                train(state, images, self.augmentation, after_epoch=after_epoch, **options)
        except FloatingPointError as error:
            last = f"the last good checkpoint is {checkpoint}" if saved else "there is no checkpoint yet"
            raise FloatingPointError(f"{self.recipe.name}: {error}; {last}. Lower the learning rate") from error
        except KeyboardInterrupt:
            last = f"the last checkpoint is {checkpoint}" if saved else "there was no checkpoint yet"
            raise KeyboardInterrupt(last) from None

    def _events(self, state: State) -> AbstractContextManager[Callable[[EpochMetrics], None]]:
        if self.tensorboard and is_first(state.group):
            return event_writer(self.file(".events"), state.epoch)
        return nullcontext(lambda metrics: None)

    def _finish(self, state: State, images: Images) -> DeepRun:
        """Evaluate the centre and store it and the result."""
        with centre(state) as model:
            train_loss, train_error = evaluate(
                model, images.train_images, images.train_labels, images, self.augmentation
            )
            test_loss, test_error = evaluate(model, images.test_images, images.test_labels, images, self.augmentation)
            if is_first(state.group):
                weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
                save_tensors(self.file(".pt"), weights)
        result = DeepRun(
            row=self.recipe.row,
            column=self.recipe.column,
            seed=self.seed,
            epochs=state.epoch,
            epochs_scale=self.epochs_scale,
            n_train=len(images.train_labels),
            n_test=len(images.test_labels),
            train_loss=train_loss,
            train_error=train_error,
            test_loss=test_loss,
            test_error=test_error,
            n_parameters=sum(p.numel() for p in state.models[0].parameters()),
            gamma0=state.gamma0 / self.pace,
            curves=np.reshape([dataclasses.astuple(metrics) for metrics in state.curves], (-1, len(METRICS))),
            configuration=self.configuration,
            device=self.device if self.device == "cpu" else torch.cuda.get_device_name(self.device),
            flatness=None if self.flatness is None else as_history(state.flatness, self.flatness),
            provenance=Provenance.here(),
        )
        if is_first(state.group):
            result.save(self.file(".npz"))
            self._tidy()
        return result

    def _tidy(self) -> None:
        """Delete what is of no use beside a result: the checkpoint and what killed writers have left."""
        self.file(_CHECKPOINT).unlink(missing_ok=True)
        discard_temporaries(self.out, "|".join(re.escape(self.file(suffix).name) for suffix in _SUFFIXES))

    def discard(self) -> None:
        """Delete every file of this run, and its folder if nothing else is in it."""
        self._tidy()
        disclaim(self.file(".npz"))
        for suffix in _SUFFIXES:
            self.file(suffix).unlink(missing_ok=True)
        with suppress(OSError):
            Path(self.out).rmdir()


_CHECKPOINT = ".checkpoint.pt"
_SUFFIXES = (".npz", ".csv", ".pt", _CHECKPOINT)  # of all files of a run
_OPTIONS_OF_TRAIN = (
    "epochs",
    "seed",
    "evaluate_every",
    "stop_loss",
    "bfloat16",
    "compiled",
    "cudnn_benchmark",
    "flatness",
)


def run(
    recipe: Recipe,
    out: Path,
    *,
    group: dist.ProcessGroup | None = None,
    progress: Callable[[DeepReport], None] = lambda report: None,
    **options,
) -> DeepRun:
    """Train by `recipe`, or read what a run of the same configuration has left in `out`.

    Writes NAME-seedS.npz (a `DeepRun`), .csv (its curves), .pt (the state_dict of the centre) and, until it is done,
    .checkpoint.pt.  A run that was cut off goes on where it was, bit for bit.

    Parameters
    ----------
    recipe : Recipe
    out : Path
        Folder, made if it is missing.
    group : torch.distributed.ProcessGroup, optional
        Processes that share the replicas of rSGD equally, each of which calls this with the same arguments but for its
        device.  They share the folder too, in which the first one writes; a checkpoint holds all replicas, so that any
        number of processes can go on from it.
    progress : callable
        Called after every epoch.
    **options
        The other fields of `DeepTraining`.

    Raises
    ------
    ValueError
        Bad arguments or data; files in `out` that are damaged or of another configuration.
    OSError
        Missing data, or a folder that cannot be written, or in which another process makes the same result.
    ImportError
        A package that is missing: torchvision for policies, tensorboard for event files.
    FloatingPointError
        When the loss is not finite any more; the message names the last good checkpoint.
    """
    return DeepTraining(recipe, out, **options).run(group=group, progress=progress)
