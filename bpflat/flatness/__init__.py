"""The local energy (eq. 4) of any torch model, on CPU or GPU."""

from bpflat.flatness.energy import fingerprint, local_energy

__all__ = ["fingerprint", "local_energy"]
