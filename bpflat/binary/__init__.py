"""Committee machines with weights ±1: local entropy and local energy, and solvers.

Distances are Hamming's, fractions of the weights, so that nothing depends on the scale of a row.
"""

from bpflat.binary.energy import local_energy
from bpflat.binary.entropy import local_entropy, volume
from bpflat.binary.results import BinaryEntropyCurve, FlipEnergyProfile
from bpflat.binary.solvers import Solution, decimated_bp, focusing_bp, rounded_sgd
from bpflat.estimators.binary import BinaryPoint

__all__ = [
    "BinaryEntropyCurve",
    "BinaryPoint",
    "FlipEnergyProfile",
    "Solution",
    "decimated_bp",
    "focusing_bp",
    "local_energy",
    "local_entropy",
    "rounded_sgd",
    "volume",
]
