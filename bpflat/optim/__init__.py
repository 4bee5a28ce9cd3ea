"""Entropy-SGD and Replicated-SGD (Section 4 of the paper) around any torch optimizer, for any torch model.

`EntropySGD` is Algorithm 1, `ReplicatedSGD` Algorithm 2 (in one process or over several), `focusing` the schedules of
their coupling γ, `attraction_limit` how large γ may get, `batchnorm_statistics` what BatchNorm needs at weights that
were never trained, such as a centre.
"""

from bpflat.batchnorm import batchnorm_statistics
from bpflat.optim import focusing
from bpflat.optim.entropy_sgd import EntropySGD
from bpflat.optim.replicated_sgd import ReplicatedSGD
from bpflat.optim.stability import attraction_limit

__all__ = ["EntropySGD", "ReplicatedSGD", "attraction_limit", "batchnorm_statistics", "focusing"]
