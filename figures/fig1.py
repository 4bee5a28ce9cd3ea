"""Fig. 1: local entropy, local energy and test error of the minima of five algorithms.

``python -m figures.fig1`` trains what is not there yet, measures it and draws; a second call only draws.
"""

import sys
from dataclasses import replace

from figures.measure.experiment import PAPER, Preset
from figures.program import Experiment, main
from training.committee.protocols import PROTOCOLS

FIG1 = Experiment(
    name="fig1",
    description=__doc__,
    protocols=tuple(PROTOCOLS.values()),
    presets={
        "quick": Preset(restarts=3),
        "long": Preset(restarts=10),
        "paper": replace(PAPER, ep=True),
    },
)

if __name__ == "__main__":
    sys.exit(main(FIG1))
