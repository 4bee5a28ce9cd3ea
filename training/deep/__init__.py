"""Training of deep networks by the recipes of Table 1: `run` trains one of them and stores what it leaves.

On the command line: ``python -m training.deep RECIPE --algorithm rsgd``.
"""

from training.deep.training import run

__all__ = ["run"]
