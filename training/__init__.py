"""Training of the networks whose minima bpflat measures."""

import os

# Torch's worker threads spin between two products.  When anything else runs on the machine, they then wait for
# each other's time slices, and training becomes tens of times slower; sleeping costs next to nothing.
# The setting is read when torch is first imported, and a choice of the user's is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
