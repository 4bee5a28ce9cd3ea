"""bpflat: the geometry of neural-network minima."""

from bpflat import binary, bp, committee, nodes
from bpflat.datasets import ReducedFashionMNIST, load_reduced_fashion_mnist
from bpflat.energy import local_energy
from bpflat.entropy import local_entropy
from bpflat.provenance import Provenance
from bpflat.results import Cumulants, LocalEnergyProfile, LocalEntropyCurve

__version__ = "0.1.0"

__all__ = [
    "Cumulants",
    "LocalEnergyProfile",
    "LocalEntropyCurve",
    "Provenance",
    "ReducedFashionMNIST",
    "binary",
    "bp",
    "committee",
    "load_reduced_fashion_mnist",
    "local_energy",
    "local_entropy",
    "nodes",
]
