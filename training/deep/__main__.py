"""Train a deep network by a recipe of Table 1: ``python -m training.deep resnet18-cifar10 --algorithm rsgd``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path

import torch

from bpflat.arguments import check_threads
from bpflat.programs import run_command
from training.deep.flatness import add_flatness_options, flatness_plan
from training.deep.processes import is_first, process_group
from training.deep.recipes import (
    COLUMNS,
    GAMMA_CONVENTIONS,
    LOSS_CONVENTIONS,
    RECIPES,
    find_recipe,
    with_printed_growth,
)
from training.deep.training import BFLOAT16, KEEP_CONTRACTION, DeepTraining, run
from training.progress import StatusLine


def parser() -> argparse.ArgumentParser:
    """Command line of ``python -m training.deep``."""
    p = argparse.ArgumentParser(
        prog="python -m training.deep",
        description="Train a network by a recipe of Table 1 (Appendix C). A run that was cut off goes on where it was "
        "when the same command is given again. Replicas of rSGD train in processes of their own, a GPU each, under "
        "torchrun --nproc-per-node 3 -m training.deep ...",
    )
    p.add_argument("recipe", help=", ".join(RECIPES))
    p.add_argument("--algorithm", default="baseline", help=f"column of the table: {', '.join(COLUMNS)}")
    p.add_argument("--out", type=Path, help="folder of the results (default: runs/deep)", default=Path("runs/deep"))
    p.add_argument("--data", type=Path, metavar="PATH", help=".npz or folder of the images (default: download them)")
    p.add_argument(
        "--seed", type=int, default=0, help="seed of weights, minibatches, augmentation and noise (default: 0)"
    )
    p.add_argument("--epochs-scale", type=float, default=1.0, help="shortens all schedules together (default: 1)")
    p.add_argument("--n-train", type=int, help="training images to draw (default: all)")
    p.add_argument("--model", help="another network than the recipe's, such as resnet18 with a 3×3 stem")
    p.add_argument("--policies", metavar="FILE", help='sub-policies (JSON) instead of the recipe\'s, or "none"')
    p.add_argument("--evaluate-every", type=int, default=1, metavar="EPOCHS", help="test error this often (default: 1)")
    p.add_argument("--no-augmentation", action="store_false", dest="augment", help="train on the images as they are")
    p.add_argument("--keep-contraction", action="store_true", help=KEEP_CONTRACTION)
    p.add_argument(
        "--gamma-convention", choices=GAMMA_CONVENTIONS, default="eq6", help="what rSGD's printed γ₀, γ_max mean"
    )
    p.add_argument(
        "--loss-convention",
        choices=LOSS_CONVENTIONS,
        default="eq6",
        help="what rSGD's η and weight decay belong to: the sum of eq. 6, the mean over replicas, or the mean with yη",
    )
    p.add_argument("--printed-growth", action="store_true", help="eSGD: γ₁ as printed, per outer step, instead of × 10")
    add_flatness_options(p)
    p.add_argument("--stop-loss", type=float, metavar="NATS", help="end when the training loss is lower")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    p.add_argument("--bfloat16", action="store_true", help=BFLOAT16)
    p.add_argument(
        "--compile",
        action="store_true",
        dest="compiled",
        help="torch.compile the networks: minutes at first, then faster",
    )
    p.add_argument("--cudnn-benchmark", action="store_true", help="GPU: let cuDNN choose the fastest of its algorithms")
    p.add_argument("--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help="(default: 60)")
    p.add_argument("--tensorboard", action="store_true", help="write the curves as TensorBoard's event files too")
    p.add_argument("--threads", type=int, help="threads of torch on the CPU")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    expected = (ImportError, FloatingPointError)
    return run_command(parser(), _train, argv, expected=expected, resume="give the same command again to go on")


def _train(arguments: argparse.Namespace) -> None:
    """Train what the arguments ask for, store it and print its summary."""
    if arguments.threads is not None:
        torch.set_num_threads(check_threads(arguments.threads))
    names = {field.name for field in dataclasses.fields(DeepTraining)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    recipe = find_recipe(arguments.recipe, arguments.algorithm)
    if arguments.printed_growth:
        recipe = with_printed_growth(recipe)
    model = arguments.model or recipe.model
    conventions = {name: getattr(arguments, name) for name in ("gamma_convention", "loss_convention")}
    recipe = dataclasses.replace(recipe, model=model, **conventions)
    with contextlib.closing(StatusLine()) as status_line, process_group(arguments.device) as (group, device):
        options = given | {"recipe": recipe, "device": device, "flatness": flatness_plan(arguments)}
        result = run(**options, group=group, progress=status_line)
        is_speaker = is_first(group)
    if is_speaker:
        print(result.summary())
        print(f"stored in {arguments.out}")


if __name__ == "__main__":
    sys.exit(main())
