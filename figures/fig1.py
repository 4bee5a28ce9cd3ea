"""Fig. 1: local entropy, local energy and test error of the minima of five algorithms.

``python -m figures.fig1`` trains what is not there yet, measures it and draws; a second call only draws.
"""

import sys

from figures.experiment import Experiment, Preset, main
from figures.style import LOOKS
from training.protocols import PROTOCOLS

FIG1 = Experiment(
    name="fig1",
    description=__doc__,
    protocols=tuple(PROTOCOLS.values()),
    looks=LOOKS,
    presets={
        "quick": Preset(restarts=3),
        "long": Preset(restarts=10),
        "paper": Preset(restarts=50, ep=True),
    },
)

if __name__ == "__main__":
    sys.exit(main(FIG1))
