"""Train a deep network by a recipe of Table 1: ``python -m training.deep resnet18-cifar10 --algorithm rsgd``."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from bpflat.arguments import check_device
from bpflat.storage import atomic_write
from training.deep.augment import Augmentation, read_policy, resize_whole
from training.deep.checkpoints import load_state, save_state
from training.deep.events import event_writer
from training.deep.flatness import FlatnessPlan, as_history
from training.deep.images import SOURCES, load_images
from training.deep.processes import first_alone, first_decides, is_first, own_replicas
from training.deep.recipes import (
    Recipe,
    as_plain,
)
from training.deep.results import DeepRun, write_csv
from training.deep.trainer import DeepReport, State, begin, centre, evaluate, train
from training.provenance import git_revision, library_versions
from training.result_file import require_same

BFLOAT16 = (
    "autocast forward passes of the training to bfloat16, 8 bits of precision instead of 24; weights, optimizers and "
    "evaluation stay in float32. For GPUs and processors with avx512_bf16 or amx_bf16 (lscpu), where a step of "
    "SmallConvNet takes 0.6 times as long; others emulate it, at a ninth of the speed"
)
KEEP_CONTRACTION = "rSGD in fewer steps than the recipe's: rescale γ and K so that replicas come together as in it"


def run(
    recipe: Recipe,
    out: Path,
    *,
    data: Path | None = None,
    seed: int = 0,
    epochs_scale: float = 1.0,
    n_train: int | None = None,
    policies: Path | str | None = None,
    evaluate_every: int = 1,
    stop_loss: float | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
    cudnn_benchmark: bool = False,
    augment: bool = True,
    keep_contraction: bool = False,
    flatness: FlatnessPlan | None = None,
    device: str = "cpu",
    checkpoint_every: float = 60.0,
    tensorboard: bool = False,
    group: dist.ProcessGroup | None = None,
    progress: Callable[[DeepReport], None] = lambda report: None,
) -> DeepRun:
    """Train by `recipe`, or read what a run of the same configuration has left in `out`.

    Writes NAME-seedS.npz (a `DeepRun`), .csv (its curves), .pt (the state_dict of the centre) and, until it is done,
    .checkpoint.pt.  A run that was cut off goes on where it was, bit for bit.

    Parameters
    ----------
    recipe : Recipe
    out : Path
        Folder, made if it is missing.
    data : Path, optional
        Where the images are, see `training.deep.images.load_images`; downloaded by default.
    seed : int
        Of initial weights, minibatches, augmentation and noise.
    epochs_scale : float
        Shortens (or stretches) all schedules together: learning rate, γ and K are functions of the fraction done.
        Replicas of rSGD are then pulled together for fewer steps by the same γ, see `keep_contraction`.
    n_train : int, optional
        Draw so many training images, the same for every seed.
    policies : Path or "none", optional
        Sub-policies instead of the recipe's: a file, see `training.deep.augment.read_policy`; "none" to do without.
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
        For rSGD with fewer steps than the recipe's (or more): without a loss, distances from the centre shrink by
        ``exp(−Σ η γ / (1 − momentum))`` over the steps of a run.  So that they do as in the recipe, after the same
        fraction of the run, a run of s times the steps is given ``γ/s`` and, for as many interactions of the same
        η K γ, ``K s`` (rounded, at least 1).  Steps are counted on the images of the published data, or on `n_train`.
    flatness : FlatnessPlan, optional
        Measure the local energy of the centre along the training; it changes nothing else.
    device : str
    checkpoint_every : float
        Seconds between checkpoints, which are written after an epoch.
    tensorboard : bool
        Write the curves as event files too, in the folder NAME-seedS.events.
    group : torch.distributed.ProcessGroup, optional
        Processes that share the replicas of rSGD equally, each of which calls this with the same arguments but for its
        device.  They share the folder too, in which the first one writes; a checkpoint holds all replicas, so that any
        number of processes can go on from it.
    progress : callable
        Called after every epoch.

    Raises
    ------
    ValueError
        Bad arguments or data; files in `out` that are damaged or of another configuration.
    OSError
        Missing data, or a folder that cannot be written.
    ImportError
        A package that is missing: torchvision for policies, tensorboard for event files.
    FloatingPointError
        When the loss is not finite any more; the message names the last good checkpoint.
    """
    if not 0 < epochs_scale < math.inf:
        raise ValueError(f"epochs-scale must be positive and finite; got {epochs_scale}")
    if evaluate_every < 1:
        raise ValueError(f"evaluate-every must be at least 1; got {evaluate_every}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0; got {seed}")
    check_device(device)
    own_replicas(recipe.y, group)  # or a ValueError, before anything else is done
    policy = None
    if str(policies) == "none":
        recipe = dataclasses.replace(recipe, policy="none")
    elif policies is not None:
        policy = read_policy(policies)
    augmentation = (
        recipe.augmentation(policy)
        if augment
        else Augmentation(size=recipe.size, flip=False, interpolation=recipe.interpolation)
    )
    epochs = max(1, round(recipe.epochs * epochs_scale))
    steps = epochs * ((SOURCES[recipe.data].n_train if n_train is None else n_train) // recipe.batch)
    pace = steps / recipe.steps if keep_contraction and recipe.y > 1 and steps else 1.0
    configuration = {
        "recipe": as_plain(recipe),
        "seed": seed,
        "epochs": epochs,
        "epochs_scale": epochs_scale,
        "n_train": n_train,
        "policy": [[list(step) for step in steps] for steps in policy or ()],
        "evaluate_every": evaluate_every,
        "bfloat16": bfloat16,
    }
    # Named only where they are used: runs of before these options stay what they are.
    if not augment:
        configuration["augment"] = False
    if pace != 1:
        configuration["gamma_scale"] = 1 / pace
    if compiled:
        configuration["compiled"] = True
    if stop_loss is not None:
        configuration["stop_loss"] = stop_loss
    if flatness is not None:
        configuration["flatness"] = dataclasses.asdict(flatness)
    base = Path(out) / f"{recipe.name}-seed{seed}"
    result, checkpoint = base.with_name(base.name + ".npz"), base.with_name(base.name + ".checkpoint.pt")
    if result.exists():
        done = DeepRun.load(result)
        require_same(result, done.configuration, configuration)
        return done
    with first_alone(group):  # which may have to download them
        images = load_images(recipe.data, data, n_train=n_train, device=device)
    if len(images.train_labels) < recipe.batch:
        raise ValueError(
            f"n-train must be at least the {recipe.batch} of one minibatch; got {len(images.train_labels)}"
        )
    resized = {
        name: resize_whole(getattr(images, name), augmentation.size, augmentation.interpolation)
        for name in ("train_images", "test_images")
    }
    images = dataclasses.replace(images, **resized)
    state = begin(recipe, images.classes, seed, device, group)
    state.pace = pace
    if checkpoint.exists():
        load_state(checkpoint, configuration, state)
    if first_decides(state.epoch, group) != state.epoch:
        raise ValueError(f"processes find different checkpoints; they must all reach the same folder {out}")
    if tensorboard and is_first(group):
        events = event_writer(base.with_name(base.name + ".events"), state.epoch)
    else:
        events = contextlib.nullcontext(lambda metrics: None)
    saved_at = time.monotonic()
    saved = checkpoint.exists()

    def after_epoch(state: State) -> None:
        nonlocal saved_at, saved
        if is_first(group):
            write_csv(base.with_name(base.name + ".csv"), state.curves)
            add_events(state.curves[-1])
        if first_decides(time.monotonic() - saved_at >= checkpoint_every, group):
            save_state(checkpoint, configuration, state)
            saved_at, saved = time.monotonic(), True
        if is_first(group):
            progress(DeepReport(f"{recipe.name} seed {seed}", epochs, state.curves[-1]))

    try:
        with events as add_events:
            train(
                state,
                images,
                augmentation,
                epochs=epochs,
                seed=seed,
                evaluate_every=evaluate_every,
                stop_loss=stop_loss,
                bfloat16=bfloat16,
                compiled=compiled,
                cudnn_benchmark=cudnn_benchmark,
                flatness=flatness,
                after_epoch=after_epoch,
            )
    except FloatingPointError as error:
        last = f"the last good checkpoint is {checkpoint}" if saved else "there is no checkpoint yet"
        raise FloatingPointError(f"{recipe.name}: {error}; {last}. Lower the learning rate") from error
    except KeyboardInterrupt:
        last = f"the last checkpoint is {checkpoint}" if saved else "there was no checkpoint yet"
        raise KeyboardInterrupt(last) from None
    with centre(state) as model:
        train_loss, train_error = evaluate(model, images.train_images, images.train_labels, images, augmentation)
        test_loss, test_error = evaluate(model, images.test_images, images.test_labels, images, augmentation)
        if is_first(group):
            with atomic_write(base.with_name(base.name + ".pt")) as file:
                torch.save({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}, file)
    done = DeepRun(
        row=recipe.row,
        column=recipe.column,
        seed=seed,
        epochs=state.epoch,
        epochs_scale=epochs_scale,
        n_train=len(images.train_labels),
        n_test=len(images.test_labels),
        train_loss=train_loss,
        train_error=train_error,
        test_loss=test_loss,
        test_error=test_error,
        n_parameters=sum(p.numel() for p in state.models[0].parameters()),
        gamma0=state.gamma0 / pace,
        curves=np.array([dataclasses.astuple(row) for row in state.curves]),
        configuration=configuration,
        device=device if device == "cpu" else torch.cuda.get_device_name(device),
        versions=library_versions(),
        git_revision=git_revision(),
        flatness=None if flatness is None else as_history(state.flatness, flatness),
    )
    if is_first(group):
        done.save(result)
        checkpoint.unlink(missing_ok=True)
    return done
