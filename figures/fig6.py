"""Fig. 6: SGD fast with dropout: local entropy, local energy and test error of its minima.

``python -m figures.fig6`` trains what is not there yet, measures it and draws; a second call only draws.
"""

import sys
from dataclasses import replace

from figures.draw.style import LOOKS
from figures.measure.experiment import Experiment, Preset, main
from training.protocols import PROTOCOLS

DROPOUT = (0.0, 0.1, 0.3, 0.5, 0.7)  # the paper does not name its probabilities

FIG6 = Experiment(
    name="fig6",
    description=__doc__,
    protocols=tuple(
        replace(PROTOCOLS["sgd-fast"], name=f"dropout-{p:g}", label=f"p = {p:g}", dropout=p) for p in DROPOUT
    ),
    looks={f"dropout-{p:g}": look for p, look in zip(DROPOUT, LOOKS.values(), strict=True)},
    presets={"quick": Preset(restarts=5), "paper": Preset(restarts=50)},
)

if __name__ == "__main__":
    sys.exit(main(FIG6))
