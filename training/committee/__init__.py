"""Training of committee machines: `run` stores the minima of one protocol.

On the command line: ``python -m training.committee PROTOCOL --out DIR``.
"""

from training.committee.sweep import run

__all__ = ["run"]
