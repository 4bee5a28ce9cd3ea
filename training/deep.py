"""Train a deep network by a recipe of Table 1: ``python -m training.deep resnet18-cifar10 --algorithm rsgd``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bpflat.storage import atomic_write
from training.augment import read_policy
from training.checkpoints import require_same
from training.deep_results import DeepRun, write_csv
from training.deep_trainer import DeepReport, State, begin, centre, describe, evaluate, load_state, save_state, train
from training.images import load_images
from training.progress import StatusLine
from training.recipes import COLUMNS, RECIPES, Recipe, as_plain, find_recipe
from training.results import git_revision, library_versions


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
    device: str = "cpu",
    checkpoint_every: float = 60.0,
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
        Where the images are, see `training.images.load_images`; downloaded by default.
    seed : int
        Of initial weights, minibatches, augmentation and noise.
    epochs_scale : float
        Shortens (or stretches) all schedules together: learning rate, γ and K are functions of the fraction done.
    n_train : int, optional
        Draw so many training images, the same for every seed.
    policies : Path or "none", optional
        Sub-policies of Fast AutoAugment, for recipes that want those.
    evaluate_every : int
        Epochs between evaluations of the test error.
    stop_loss : float, optional
        End before the last epoch when the training loss is lower, see `training.deep_trainer.train`.
    bfloat16 : bool
        Autocast to bfloat16.
    device : str
    checkpoint_every : float
        Seconds between checkpoints, which are written after an epoch.
    progress : callable
        Called after every epoch.

    Raises
    ------
    ValueError
        Bad arguments or data; files in `out` that are damaged or of another configuration.
    OSError
        Missing data, or a folder that cannot be written.
    FloatingPointError
        When the loss is not finite any more; the message names the last good checkpoint.
    """
    if not 0 < epochs_scale < math.inf:
        raise ValueError(f"epochs-scale must be positive and finite; got {epochs_scale}")
    if evaluate_every < 1:
        raise ValueError(f"evaluate-every must be at least 1; got {evaluate_every}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0; got {seed}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch finds no GPU here; use --device cpu")
    policy = None if policies is None else (() if str(policies) == "none" else read_policy(policies))
    augmentation = recipe.augmentation(policy)
    epochs = max(1, round(recipe.epochs * epochs_scale))
    configuration = {
        "recipe": as_plain(recipe),
        "seed": seed,
        "epochs": epochs,
        "epochs_scale": epochs_scale,
        "n_train": n_train,
        "policy": [[list(step) for step in steps] for steps in policy or ()],
        "evaluate_every": evaluate_every,
        "bfloat16": bfloat16,
    } | ({} if stop_loss is None else {"stop_loss": stop_loss})
    base = Path(out) / f"{recipe.name}-seed{seed}"
    result, checkpoint = base.with_name(base.name + ".npz"), base.with_name(base.name + ".checkpoint.pt")
    if result.exists():
        done = DeepRun.load(result)
        require_same(result, done.configuration, configuration)
        return done
    images = load_images(recipe.data, data, n_train=n_train, device=device)
    if len(images.train_labels) < recipe.batch:
        raise ValueError(
            f"n-train must be at least the {recipe.batch} of one minibatch; got {len(images.train_labels)}"
        )
    state = begin(recipe, images.classes, seed, device)
    if checkpoint.exists():
        load_state(checkpoint, configuration, state)
    saved_at = time.monotonic()
    saved = checkpoint.exists()

    def after_epoch(state: State) -> None:
        nonlocal saved_at, saved
        write_csv(base.with_name(base.name + ".csv"), state.curves)
        if time.monotonic() - saved_at >= checkpoint_every:
            save_state(checkpoint, configuration, state)
            saved_at, saved = time.monotonic(), True
        progress(DeepReport(f"{recipe.name} seed {seed}", epochs, state.curves[-1]))

    try:
        train(
            state,
            images,
            augmentation,
            epochs=epochs,
            seed=seed,
            evaluate_every=evaluate_every,
            stop_loss=stop_loss,
            bfloat16=bfloat16,
            after_epoch=after_epoch,
        )
    except FloatingPointError as error:
        last = f"the last good checkpoint is {checkpoint}" if saved else "there is no checkpoint yet"
        raise FloatingPointError(f"{recipe.name}: {error}; {last}. Lower the learning rate") from error
    except KeyboardInterrupt:
        last = f"the last checkpoint is {checkpoint}" if saved else "there was no checkpoint yet"
        raise KeyboardInterrupt(last) from None
    with centre(state, images, augmentation) as model:
        train_loss, train_error = evaluate(model, images.train_images, images.train_labels, images, augmentation)
        test_loss, test_error = evaluate(model, images.test_images, images.test_labels, images, augmentation)
        with atomic_write(base.with_name(base.name + ".pt")) as file:
            torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)
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
        gamma0=state.gamma0,
        curves=np.array([dataclasses.astuple(row) for row in state.curves]),
        configuration=configuration,
        device=device if device == "cpu" else torch.cuda.get_device_name(device),
        versions=library_versions(),
        git_revision=git_revision(),
    )
    done.save(result)
    checkpoint.unlink(missing_ok=True)
    return done


def parser() -> argparse.ArgumentParser:
    """Command line of ``python -m training.deep``."""
    p = argparse.ArgumentParser(
        prog="python -m training.deep",
        description="Train a network by a recipe of Table 1 (Appendix C). A run that was cut off goes on where it was "
        "when the same command is given again.",
    )
    p.add_argument("recipe", help=", ".join(RECIPES))
    p.add_argument("--algorithm", default="baseline", help=f"column of the table: {', '.join(COLUMNS)}")
    p.add_argument("--out", type=Path, help="folder of the results (default: runs/deep)", default=Path("runs/deep"))
    p.add_argument("--data", type=Path, metavar="PATH", help=".npz or folder of the images (default: download them)")
    p.add_argument("--seed", type=int, default=0, help="of weights, minibatches, augmentation, noise (default: 0)")
    p.add_argument("--epochs-scale", type=float, default=1.0, help="shortens all schedules together (default: 1)")
    p.add_argument("--n-train", type=int, help="training images to draw (default: all)")
    p.add_argument("--model", help="another network than the recipe's, such as resnet18-imagenet-stem")
    p.add_argument("--policies", metavar="FILE", help='sub-policies of Fast AutoAugment (JSON), or "none"')
    p.add_argument("--evaluate-every", type=int, default=1, metavar="EPOCHS", help="test error this often (default: 1)")
    p.add_argument("--stop-loss", type=float, metavar="NATS", help="end when the training loss is lower")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    p.add_argument("--bfloat16", action="store_true", help="autocast to bfloat16")
    p.add_argument("--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help="(default: 60)")
    p.add_argument("--threads", type=int, help="of torch on the CPU")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    status_line = StatusLine(describe=describe)
    try:
        recipe = find_recipe(arguments.recipe, arguments.algorithm)
        if arguments.model:
            recipe = dataclasses.replace(recipe, model=arguments.model)
        result = run(
            recipe,
            arguments.out,
            data=arguments.data,
            seed=arguments.seed,
            epochs_scale=arguments.epochs_scale,
            n_train=arguments.n_train,
            policies=arguments.policies,
            evaluate_every=arguments.evaluate_every,
            stop_loss=arguments.stop_loss,
            bfloat16=arguments.bfloat16,
            device=arguments.device,
            checkpoint_every=arguments.checkpoint_every,
            progress=status_line,
        )
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        status_line.close()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        status_line.close()
        print(f"interrupted; {interruption}. Give the same command again to go on from there", file=sys.stderr)
        return 130
    status_line.close()
    print(result.summary())
    print(f"stored in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
