"""Fig. 5: as Fig. 3, of ResNet-110 on CIFAR-10; `python -m figures.fig5`."""

import sys
from functools import partial

from figures.program import evolution

main = partial(evolution, "fig5", __doc__, "resnet110-cifar10")

if __name__ == "__main__":
    sys.exit(main())
