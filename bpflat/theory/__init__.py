"""What the replica method knows of perceptrons and large committees, to hold measurements against.

`volume` of the solutions, `local_entropy` around a teacher or a typical solution, and `capacity`, for spherical and
binary weights.  All numbers are replica-symmetric, for n → ∞, in nats per weight.
"""

from bpflat.theory.results import TheoryCurve, Volume
from bpflat.theory.shells import local_entropy
from bpflat.theory.volumes import capacity, volume

__all__ = ["TheoryCurve", "Volume", "capacity", "local_entropy", "volume"]
