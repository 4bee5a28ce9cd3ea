"""Training of the networks whose minima bpflat measures.

Two wings that never import one another: `training.committee` trains committee machines, `training.deep` deep networks.
What both need is here beside them; `training.published` reads minima that others trained.
"""

import os

# Torch's worker threads spin between two products.  When anything else runs on the machine they then wait for each
# other's time slices, and training becomes tens of times slower; a worker that soon falls asleep costs next to
# nothing.  libgomp reads this when torch is first imported; a choice of the user's is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
