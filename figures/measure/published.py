"""Numbers that the paper prints, to set ours beside."""

from __future__ import annotations

from figures.measure.statistics import Sample

N_RUNS = 5
"""Runs of a cell of Table 1: not said there; Fig. 2 averages over as many."""


def _sample(mean: float, std: float | None = None) -> Sample:
    return Sample(mean, std, 1 if std is None else N_RUNS)


# Test errors of Table 1 in percent, with standard deviations where there are some.
TABLE1: dict[str, dict[str, Sample]] = {
    row: {column: _sample(*numbers) for column, numbers in columns.items()}
    for row, columns in {
        "smallconvnet-cifar10": {
            "baseline": (16.5, 0.2),
            "rsgd": (15.6, 0.3),
            "esgd": (14.7, 0.3),
            "rsgd-y": (14.9, 0.2),
        },
        "resnet18-cifar10": {"baseline": (13.1, 0.3), "rsgd": (12.4, 0.3), "esgd": (12.1, 0.3), "rsgd-y": (11.8, 0.1)},
        "resnet110-cifar10": {"baseline": (6.4, 0.1), "rsgd": (6.2, 0.2), "esgd": (6.2, 0.1), "rsgd-y": (5.3, 0.1)},
        "pyramidnet-cifar10": {"baseline": (2.1, 0.2), "rsgd": (2.2, 0.1), "rsgd-y": (1.8,)},
        "pyramidnet-cifar100": {"baseline": (13.8, 0.1), "rsgd": (13.5, 0.1), "rsgd-y": (12.7,)},
        "efficientnet-b0-cifar100": {"baseline": (20.5,), "rsgd": (20.6,), "esgd": (20.1, 0.2), "rsgd-y": (19.5,)},
        "resnet50-tiny-imagenet": {
            "baseline": (45.2, 1.2),
            "rsgd": (41.5, 0.3),
            "esgd": (41.7, 1.0),
            "rsgd-y": (39.2, 0.3),
        },
        "densenet121-tiny-imagenet": {
            "baseline": (41.4, 0.3),
            "rsgd": (39.8, 0.2),
            "esgd": (38.6, 0.4),
            "rsgd-y": (38.9, 0.3),
        },
    }.items()
}
