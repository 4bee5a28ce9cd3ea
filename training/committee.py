"""Train committee machines on the reduced Fashion-MNIST: ``python -m training.committee rsgd-fast --out DIR``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from bpflat.datasets import load_reduced_fashion_mnist
from training.checkpoints import require_same
from training.progress import StatusLine
from training.protocols import PROTOCOLS, Protocol
from training.results import TrainedMinima
from training.trainer import EpochReport, train


def run(
    protocol: Protocol,
    out: Path,
    *,
    restarts: int = 10,
    seed: int = 0,
    device: str = "cpu",
    n_train: int | None = 500,
    data_seed: int = 0,
    balanced: bool = False,
    checkpoint_every: float = 30.0,
    progress: Callable[[EpochReport], None] | None = None,
    threads: int | None = None,
) -> TrainedMinima:
    """Train on the reduced Fashion-MNIST and store the result in ``out/<protocol name>.npz``.

    A result that is already there is read instead; a checkpoint that is there is gone on from.  For the parameters
    see `training.trainer.train` and `bpflat.load_reduced_fashion_mnist`.

    Raises
    ------
    ValueError
        Bad input, or `out` holds a result or a checkpoint of another configuration.
    OSError
        `out` cannot be written.
    """
    path = Path(out) / f"{protocol.name}.npz"
    draw = {"data_seed": data_seed, "balanced": balanced}
    wanted = {"protocol": dataclasses.asdict(protocol), "restarts": restarts, "seed": seed, "device": device}
    if path.exists():
        result = TrainedMinima.load(path)
        found = {
            "protocol": dataclasses.asdict(result.protocol),
            "restarts": len(result.restart),
            "seed": result.seed,
            "device": result.device,
        } | {name: result.data.get(name) for name in (*draw, "n_train")}
        require_same(path, found, wanted | draw | {"n_train": n_train or result.data.get("n_train")})
        return result
    data = load_reduced_fashion_mnist(n_train, seed=data_seed, balanced=balanced)
    checkpoint = path.with_suffix(".checkpoint.npz")
    result = train(
        protocol,
        data.train_patterns,
        data.train_labels,
        restarts=restarts,
        seed=seed,
        device=device,
        test_patterns=data.test_patterns,
        test_labels=data.test_labels,
        data=draw | {"train_indices": data.train_indices.tolist()},
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        progress=progress,
        threads=threads,
    )
    result.save(path)
    checkpoint.unlink(missing_ok=True)
    return result


def parser() -> argparse.ArgumentParser:
    """Command line of ``python -m training.committee``."""
    p = argparse.ArgumentParser(
        prog="python -m training.committee",
        description="Train committee machines on the reduced Fashion-MNIST by a protocol of Appendix B.1. "
        "A run that was cut off goes on where it was when the same command is given again.",
    )
    p.add_argument("protocol", help=", ".join(PROTOCOLS))
    p.add_argument("--out", type=Path, required=True, help="folder of the result, PROTOCOL.npz")
    p.add_argument("--restarts", type=int, default=10, help="independent runs, trained side by side (default: 10)")
    p.add_argument("--seed", type=int, default=0, help="of initial weights, minibatches and noise (default: 0)")
    p.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    p.add_argument("--n-train", type=int, default=500, help="training patterns to draw (default: 500)")
    p.add_argument("--data-seed", type=int, default=0, help="of the draw of the training patterns (default: 0)")
    p.add_argument("--balanced", action="store_true", help="draw equally many patterns of both classes")
    p.add_argument(
        "--schedule-speed", type=float, help="let β, ω, γ grow this many times faster than in the paper (default: 1)"
    )
    p.add_argument("--max-epochs", type=int, help="cap on the epochs (default: the protocol's own)")
    p.add_argument("--dropout", type=float, help="probability of dropping an input (default: 0)")
    p.add_argument("--reduction", choices=("sum", "mean"), help="of a minibatch's gradients (default: sum)")
    p.add_argument("--coupling", choices=("plain", "batch"), help="γ or Bγ (default: the protocol's own)")
    p.add_argument(
        "--checkpoint-every", type=float, default=30.0, metavar="SECONDS", help="time between checkpoints (default: 30)"
    )
    p.add_argument("--threads", type=int, help="of torch on the CPU (default: one for fewer than 8 machines)")
    return p


def protocol_from(arguments: argparse.Namespace) -> Protocol:
    """Return the named protocol with the options given on the command line put in."""
    if arguments.protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {arguments.protocol!r}")
    names = ("schedule_speed", "max_epochs", "dropout", "reduction", "coupling")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return dataclasses.replace(PROTOCOLS[arguments.protocol], **given)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    status_line = StatusLine()
    try:
        protocol = protocol_from(arguments)
        result = run(
            protocol,
            arguments.out,
            restarts=arguments.restarts,
            seed=arguments.seed,
            device=arguments.device,
            n_train=arguments.n_train,
            data_seed=arguments.data_seed,
            balanced=arguments.balanced,
            checkpoint_every=arguments.checkpoint_every,
            progress=status_line,
            threads=arguments.threads,
        )
    except (ValueError, OSError) as error:
        status_line.close()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        status_line.close()
        print("interrupted; give the same command again to go on from the last checkpoint", file=sys.stderr)
        return 130
    status_line.close()
    print(result.summary())
    print(f"stored in {arguments.out / (protocol.name + '.npz')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
