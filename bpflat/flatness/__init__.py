"""The local energy (eq. 4) and the local entropy (eq. 3) of any torch model, on CPU or GPU."""

from bpflat.flatness.energy import local_energy
from bpflat.flatness.entropy import local_entropy
from bpflat.flatness.models import fingerprint

__all__ = ["fingerprint", "local_energy", "local_entropy"]
