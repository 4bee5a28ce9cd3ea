"""Train committee machines on the reduced Fashion-MNIST: ``python -m training.committee rsgd-fast --out DIR``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path

from bpflat.programs import run_command
from training.committee.protocols import CHOICES, PROTOCOLS, Protocol
from training.committee.sweep import run
from training.progress import StatusLine
from training.workers import SweepError, add_worker_options, workers_from


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
    p.add_argument("--seed", type=int, default=0, help="seed of initial weights, minibatches and noise (default: 0)")
    p.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    p.add_argument("--n-train", type=int, default=500, help="training patterns to draw (default: 500)")
    p.add_argument("--data-seed", type=int, default=0, help="seed of the draw of the training patterns (default: 0)")
    p.add_argument("--balanced", action="store_true", help="draw equally many patterns of both classes")
    p.add_argument(
        "--schedule-speed", type=float, help="let β, ω, γ grow this many times faster than in the paper (default: 1)"
    )
    p.add_argument("--max-epochs", type=int, help="cap on the epochs (default: the protocol's own)")
    p.add_argument("--dropout", type=float, help="probability of dropping an input (default: 0)")
    p.add_argument(
        "--reduction", choices=CHOICES["reduction"], help="how gradients of a minibatch are combined (default: sum)"
    )
    p.add_argument(
        "--start",
        choices=CHOICES["start"],
        help="where replicas of rSGD start: each drawn on its own, or all from the first (default: equal)",
    )
    p.add_argument(
        "--pull",
        choices=CHOICES["pull"],
        help="part of the way to what attracts it that a minibatch pulls a machine: γ, ηγ or ηBγ "
        '(default: "eta B gamma" for rSGD, "eta gamma" for eSGD, where η is η\')',
    )
    p.add_argument(
        "--outer-step",
        choices=CHOICES["outer_step"],
        help='part of the way to μ that u goes in an outer step of eSGD (default: "eta gamma")',
    )
    p.add_argument(
        "--checkpoint-every", type=float, default=30.0, metavar="SECONDS", help="time between checkpoints (default: 30)"
    )
    p.add_argument("--threads", type=int, help="threads of torch on the CPU (default: one for fewer than 8 machines)")
    add_worker_options(p, jobs=1)
    return p


def protocol_from(arguments: argparse.Namespace) -> Protocol:
    """Return the named protocol with the options given on the command line put in."""
    if arguments.protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}; got {arguments.protocol!r}")
    names = ("schedule_speed", "max_epochs", "dropout", "reduction", "start", "pull", "outer_step")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return dataclasses.replace(PROTOCOLS[arguments.protocol], **given)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    resume = "give the same command again to go on from the last checkpoint"
    return run_command(parser(), _train, argv, expected=(SweepError,), resume=resume)


def _train(arguments: argparse.Namespace) -> None:
    """Train what the arguments ask for, store it and print its summary."""
    alone = arguments.jobs == 1 and arguments.scheduler is None
    protocol = protocol_from(arguments)
    with contextlib.closing(StatusLine() if alone else StatusLine(interval=5.0, rewrite=False)) as status_line:
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
            **workers_from(arguments),
        )
    print(result.summary())
    print(f"stored in {arguments.out / (protocol.name + '.npz')}")


if __name__ == "__main__":
    sys.exit(main())
