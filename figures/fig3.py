"""Fig. 3: flatness along the training of different algorithms, from saved runs; `python -m figures.fig3`.

ResNet-18 on CIFAR-10 in the paper; any row of Table 1 here.  A panel for each algorithm has its local energy profile
after several epochs; the last panel compares the final configurations.
"""

import sys
from functools import partial

from figures.program import evolution

main = partial(evolution, "fig3", __doc__, "resnet18-cifar10")

if __name__ == "__main__":
    sys.exit(main())
