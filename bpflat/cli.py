"""The ``bpflat`` command: flatness of one's own weights and models without writing Python."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpflat import LocalEnergyProfile, LocalEntropyCurve, __version__, local_energy, local_entropy
from bpflat.arguments import check_weights
from bpflat.datasets import load_reduced_fashion_mnist
from bpflat.display import table_of
from bpflat.entropy import METHODS
from bpflat.programs import run_command
from bpflat.provenance import Provenance
from bpflat.reading import parse_json
from bpflat.storage import atomic_write, read_npz, target

WEIGHTS_HELP = """\
WEIGHTS.npz holds an array `weights` of shape (K, N) or (R, K, N), K odd; made for instance by
numpy.savez("mine.npz", weights=w, patterns=x, labels=y), or by `python -m training.committee`.
Patterns (P, N) and labels (P,) of ±1 are taken from it, or from --data FILE.npz; without either, weights with N = 784
are measured on the bundled Fashion-MNIST patterns that `--n-train` and `--data-seed` draw.
"""
EXAMPLES = """\
examples:
  bpflat entropy mine.npz                                    12 points of Φ by belief propagation
  bpflat entropy mine.npz --distances 0.05 0.25 --method ep  Φ at two distances, the better estimator
  bpflat energy mine.npz --sigmas 0.1 0.5 1.0 --json         machine-readable
  bpflat entropy mine.npz --out curve.npz --plot curve.png   keep the numbers and the picture
  bpflat info curve.npz                                      what a stored result holds
"""
FLATNESS_HELP = """\
MODULE:FACTORY makes the model when it is called, with --model-options if there are any.  Installed modules are found,
and, behind them, those in the folder --path ("." is this one).  --weights is a file of torch.save(model.state_dict()),
or a checkpoint with `state_dict` or `model` in it.  --data is an .npz or torch file of `inputs` (N, ...), as the model
takes them (uint8 becomes 0 to 1), and `targets` (N,), class indices; or a folder of such files; or one with a folder of
images for each class (needs torchvision).  What is no classifier of single inputs is measured by functions in Python,
named by --forward (model, batch), --loss (outputs, batch) and --error (outputs, batch): see
bpflat.flatness.local_energy.  With both --forward and --loss a batch is what a file holds, whatever its names.
"""
FLATNESS_EXAMPLES = """\
examples:
  bpflat flatness torchvision.models:resnet18 --model-options '{"num_classes": 10}' --weights mine.pt --data train.npz
  bpflat flatness mymodels:Net --path . --weights mine.pt --data train.npz --tolerance 0.002 --subset 1000
  bpflat flatness mymodels:Net --path . --weights mine.pt --data images/train --transform mymodels:preprocess
  bpflat flatness mymodels:GPT --path . --weights mine.pt --data texts/ --forward mymodels:run --loss mymodels:losses
  bpflat flatness mymodels:Net --path . --weights mine.pt --data train.npz --entropy --scale filter
"""

SCALES = ("multiplicative", "isotropic", "filter")  # as in `bpflat.flatness`, which takes seconds to import
ENERGY_OPTIONS = ["tolerance", "subset", "antithetic", "compile"]  # of `bpflat flatness` without --entropy, and with it
ENTROPY_OPTIONS = ["scale", "beta", "n_chains", "max_passes"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="bpflat",
        description="How flat are the minima of committee machines, and of any torch model?",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"bpflat {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def measuring(name: str, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary}\n\n{WEIGHTS_HELP}",
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("weights", type=Path, metavar="WEIGHTS.npz")
        command.add_argument("--data", type=Path, metavar="FILE.npz", help="arrays `patterns` and `labels`")
        command.add_argument("--n-train", type=int, help="bundled patterns to draw (default: as trained on, or 500)")
        command.add_argument("--data-seed", type=int, help="seed of that draw (default: as trained on, or 0)")
        command.add_argument("--seed", type=int, default=0, help="seed of all samples (default: 0)")
        command.add_argument("--jobs", type=int, default=1, help="processes over references (-1: one per core)")
        _output_options(command)
        command.add_argument("--out", type=Path, metavar="RESULT.npz", help="store the result")
        return command

    entropy = measuring("entropy", "Local entropy Φ_LE(w, d) (eq. 3), nats per weight.")
    grid = entropy.add_mutually_exclusive_group()
    grid.add_argument("--deltas", type=float, nargs="+", metavar="Δ", help="prior variances (default: 1e-3 to 4)")
    grid.add_argument("--distances", type=float, nargs="+", metavar="d", help="distances |w' - w|²/(2KN)")
    entropy.add_argument("--method", choices=METHODS, default="bp", help="estimator (default: bp)")
    entropy.add_argument(
        "--beta", type=float, help="cost of a training error (default: those of the reference are allowed)"
    )
    entropy.add_argument("--n-samples", type=int, default=4000, help="samples per chain of mcmc (default: 4000)")
    entropy.add_argument("--device", help="cuda or cpu: bp and ep solve references together (default: one by one)")
    energy = measuring("energy", "Local energy δE(w, σ) (eq. 4), a fraction of the patterns.")
    energy.add_argument("--sigmas", type=float, nargs="+", metavar="σ", default=[0.1 * i for i in range(1, 11)])
    energy.add_argument("--method", choices=("sampling", "exact"), default="exact", help="(default: exact)")
    energy.add_argument("--n-samples", type=int, default=1000, help="draws of sampling (default: 1000)")
    _flatness_options(commands)
    info = commands.add_parser("info", help="Say what a stored result holds.", description="Say what a result holds.")
    info.add_argument("result", type=Path, metavar="RESULT.npz")
    _output_options(info)
    return top


def _flatness_options(commands) -> None:
    summary = "Local energy δE(w, σ) (eq. 4), or local entropy Φ_LE(w, d) (eq. 3), of any torch model."
    flatness = commands.add_parser(
        "flatness",
        help=summary,
        description=f"{summary}\n\n{FLATNESS_HELP}",
        epilog=FLATNESS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flatness.add_argument("factory", metavar="MODULE:FACTORY")
    flatness.add_argument("--path", type=Path, metavar="FOLDER", help="where modules are that are not installed")
    flatness.add_argument("--model-options", type=parse_json, default={}, metavar="JSON", help="keyword arguments")
    flatness.add_argument("--weights", type=Path, metavar="FILE", help="(default: as the factory makes them)")
    flatness.add_argument("--data", type=Path, required=True, metavar="FILE_OR_DIR")
    flatness.add_argument("--transform", metavar="MODULE:NAME", help="maps PIL images (default: to a tensor in [0, 1])")
    flatness.add_argument("--forward", metavar="MODULE:NAME", help="calls the model (default: with the inputs)")
    flatness.add_argument("--loss", metavar="MODULE:NAME", help="loss of each pattern (default: cross-entropy)")
    flatness.add_argument("--error", metavar="MODULE:NAME", help="error of each pattern (default: a wrong class)")
    flatness.add_argument("--sigmas", type=float, nargs="+", metavar="σ", default=[0.05 * i for i in range(1, 7)])
    flatness.add_argument("--entropy", action="store_true", help="measure the local entropy instead of the energy")
    flatness.add_argument("--scale", choices=SCALES, help="scales of the noise of --entropy (default: multiplicative)")
    flatness.add_argument("--beta", type=float, help="cost of an error, or of a unit of a loss, for --entropy")
    flatness.add_argument("--n-chains", type=int, help="chains of --entropy (default: 4)")
    flatness.add_argument("--max-passes", type=int, help="most passes of --entropy at one σ (default: 200,000)")
    flatness.add_argument(
        "--n-samples", type=int, help="draws at each σ (default: 100), or sweeps per chain of --entropy (400)"
    )
    flatness.add_argument("--tolerance", type=float, help="stop at this standard error")
    flatness.add_argument("--subset", type=int, help="patterns that each draw sees (default: all)")
    flatness.add_argument("--parameters", choices=("all", "weights"), default="all", help="(default: all trainable)")
    flatness.add_argument("--batch-norm", choices=("frozen", "recompute"), default="frozen")
    flatness.add_argument("--antithetic", action="store_true", help="draws in pairs z, -z")
    flatness.add_argument("--batch-size", type=int)
    flatness.add_argument("--device", help="cpu, cuda, cuda:1, … (default: the GPU if there is one)")
    flatness.add_argument("--precision", choices=("float32", "tf32", "bfloat16", "float16"))
    flatness.add_argument("--compile", action="store_true", help="compile the model by torch.compile")
    flatness.add_argument("--seed", type=int, default=0, help="(default: 0)")
    _output_options(flatness)
    flatness.add_argument("--out", type=Path, metavar="RESULT.npz", help="store the result")


def _output_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--plot", type=Path, metavar="PICTURE", help="draw to .png, .pdf or .svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, or 2 after a message that says what to mend."""
    return run_command(parser(), _answer, argv, prefix="bpflat: error")


def _answer(arguments: argparse.Namespace) -> None:
    """Measure or read what the arguments ask for; store, draw and print it."""
    actions = {"info": lambda a: _read(a.result), "flatness": _measure_model}
    for path in filter(None, (getattr(arguments, "out", None), arguments.plot)):
        target(path)  # before hours of work
    result = actions.get(arguments.command, _measure)(arguments)
    if getattr(arguments, "out", None):
        result.save(arguments.out)
    if arguments.plot:
        _plot(result, arguments.plot)
    print(json.dumps(as_record(result)) if arguments.json else table_of(result))


def _measure(arguments: argparse.Namespace) -> LocalEntropyCurve | LocalEnergyProfile:
    weights, patterns, labels = _problem(arguments)
    if arguments.command == "energy":
        return local_energy(
            weights,
            patterns,
            labels,
            arguments.sigmas,
            method=arguments.method,
            n_samples=arguments.n_samples,
            seed=arguments.seed,
            n_jobs=arguments.jobs,
        )
    return local_entropy(
        weights,
        patterns,
        labels,
        arguments.deltas,
        distances=arguments.distances,
        method=arguments.method,
        beta=arguments.beta,
        seed=arguments.seed,
        n_samples=arguments.n_samples,
        n_jobs=arguments.jobs,
        device=arguments.device,
        progress=sys.stderr.isatty(),
    )


def _measure_model(arguments: argparse.Namespace) -> LocalEntropyCurve | LocalEnergyProfile:
    import torch  # seconds that the other commands need not wait for

    from bpflat import flatness
    from bpflat.flatness.files import find, make_model, read_data, search_too

    measure: Any = flatness.local_entropy if arguments.entropy else flatness.local_energy
    own, others = (ENTROPY_OPTIONS, ENERGY_OPTIONS)[:: 1 if arguments.entropy else -1]
    if useless := [name for name in others if (value := getattr(arguments, name)) is not None and value is not False]:
        flag, mend = useless[0].replace("_", "-"), "leave out" if arguments.entropy else "give"
        raise ValueError(f"--{flag} is not of what is measured: leave it out, or {mend} --entropy")
    names = ("n_samples", "batch_norm", "batch_size", "precision", "seed", *own)
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if not isinstance(arguments.model_options, dict):
        raise ValueError(f"--model-options must be a JSON object, not {arguments.model_options!r}")
    if arguments.path is not None:
        search_too(arguments.path)
    given = {name: getattr(arguments, name) for name in ("forward", "loss", "error")}
    functions: dict[str, Any] = {name: find(function) for name, function in given.items() if function is not None}
    as_stored = {"forward", "loss"} <= functions.keys()
    return measure(
        make_model(arguments.factory, arguments.weights, arguments.model_options),
        read_data(arguments.data, arguments.transform, arguments.batch_size, as_stored=as_stored),
        arguments.sigmas,
        device=arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        parameters=None if arguments.parameters == "all" else arguments.parameters,
        progress=sys.stderr.isatty(),
        **functions,
        **options,
    )


def _problem(arguments: argparse.Namespace):
    """Weights, patterns and labels that the command line names."""
    stored = read_npz(arguments.weights)
    if "weights" not in stored:
        raise ValueError(f"{arguments.weights} lacks an array `weights`; it has {', '.join(stored) or 'nothing'}")
    data = read_npz(arguments.data) if arguments.data else stored
    if "patterns" in data and "labels" in data:
        return stored["weights"], data["patterns"], data["labels"]
    if arguments.data or check_weights(stored["weights"]).shape[-1] != 784:
        raise ValueError(f"{arguments.data or arguments.weights} lacks `patterns` and `labels`; name them by --data")
    drawn = _draw_of(stored)
    bundled = load_reduced_fashion_mnist(
        drawn.get("n_train", 500) if arguments.n_train is None else arguments.n_train,
        seed=drawn.get("data_seed", 0) if arguments.data_seed is None else arguments.data_seed,
        balanced=drawn.get("balanced", False),
    )
    return stored["weights"], bundled.train_patterns, bundled.train_labels


def _draw_of(stored: dict[str, np.ndarray]) -> dict:
    """What minima know of the patterns that they were trained on; nothing where `data` is something else."""
    try:
        drawn = parse_json(str(stored.get("data", "")))
    except ValueError:
        return {}
    return drawn if isinstance(drawn, dict) else {}


def _read(path: Path) -> LocalEntropyCurve | LocalEnergyProfile:
    kind = str(read_npz(path).get("kind", "unmarked"))
    for result in (LocalEntropyCurve, LocalEnergyProfile):
        if kind == result.kind:
            return result.load(path)
    raise ValueError(
        f"{path} is of kind {kind!r}; `bpflat info` reads {LocalEntropyCurve.kind} and {LocalEnergyProfile.kind}"
    )


def as_record(result: LocalEntropyCurve | LocalEnergyProfile) -> dict:
    """Fields of a result in the types of JSON; NaN and infinity become null."""

    def plain(value):
        if isinstance(value, Provenance):
            return dataclasses.asdict(value)
        if isinstance(value, np.ndarray):
            return [plain(v) for v in value.tolist()] if value.ndim else plain(value.item())
        if isinstance(value, list):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    derived = {"measure": result.measure} if isinstance(result, LocalEntropyCurve) else {}
    return {name: plain(value) for name, value in vars(result).items()} | derived


def _plot(result, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")

    axes = result.plot()
    with atomic_write(path) as file:
        axes.figure.savefig(file, format=path.suffix[1:] or "png", bbox_inches="tight")


if __name__ == "__main__":
    sys.exit(main())
