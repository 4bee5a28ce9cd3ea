"""Fig. 6: SGD fast with dropout: local entropy, local energy and test error of its minima.

``python -m figures.fig6`` trains what is not there yet, measures it and draws; a second call only draws.
"""

import sys

from figures.measure.experiment import PAPER, WITH_DROPOUT, Preset
from figures.program import Experiment, main

FIG6 = Experiment(
    name="fig6",
    description=__doc__,
    protocols=WITH_DROPOUT,
    presets={"quick": Preset(restarts=5), "paper": PAPER},
)

if __name__ == "__main__":
    sys.exit(main(FIG6))
