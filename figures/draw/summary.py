"""The tables beside Figs. 1 and 6: what each algorithm gives, and how the measures are correlated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from figures.draw.tables import correlation_text, markdown, mean_and_error
from figures.measure.measures import Series
from figures.measure.statistics import INTERVAL, centred_ranks, correlate
from figures.measure.summary import FAR, NEAR, NOISE, scalars


def protocol_table(series: Sequence[Series]) -> str:
    """Mean ± standard error over restarts of every protocol, in Markdown."""
    head = ["algorithm", "zero errors", "epochs", "test error, %", "balanced, %"]
    head += [f"10⁵ Φ({d:g}), {method}" for d in (NEAR, FAR) for method in ("BP", "EP")]
    rows = [[*head, f"δE({NOISE:g}), %"]]
    for measured in series:
        m = scalars([measured])
        entropies = m.phi_near, m.phi_near_ep, m.phi_far, m.phi_far_ep
        rows.append(
            [
                measured.label,
                f"{np.count_nonzero(m.train_error == 0)}/{len(m.restart)}",
                mean_and_error(m.epochs),
                *(mean_and_error(100 * errors) for errors in (m.test_error, m.test_error_balanced)),
                *(mean_and_error(1e5 * phi) for phi in entropies),
                mean_and_error(100 * m.delta_error),
            ]
        )
    return markdown(rows)


def correlation_table(series: Sequence[Series], seed: int = 0) -> str:
    """Correlations between the three measures over all minima in Markdown, with p-values and bootstrap intervals."""
    m = scalars(series)
    known = ~np.isnan(m.phi_near)
    groups = m.protocol[known]
    columns = {
        f"Φ({NEAR:g})": m.phi_near,
        f"Φ({FAR:g})": m.phi_far,
        "δE": m.delta_error,
        "test error": m.test_error,
        "balanced test error": m.test_error_balanced,
    }
    columns = {name: values[known] for name, values in columns.items()}
    rows = [["between", "and", "Spearman, all", "Pearson, all", "Spearman, within an algorithm"]]
    names = list(columns)
    rng = np.random.default_rng(seed)
    for i, first in enumerate(names[:3]):
        for second in names[max(i + 1, 2) :]:
            x, y = columns[first], columns[second]
            ranks = centred_ranks(x, groups), centred_ranks(y, groups)
            all_and_within = [
                correlate(x, y, groups, kind="spearman", rng=rng),
                correlate(x, y, groups, kind="pearson", rng=rng),
                correlate(*ranks, groups, kind="pearson", rng=rng),
            ]
            rows.append([first, second, *map(correlation_text, all_and_within)])
    return markdown(rows)


def report(series: Sequence[Series]) -> str:
    """Both tables and how they are to be read, in Markdown."""
    return f"""{protocol_table(series)}
Mean ± standard error over restarts; Φ in nats per weight.  Around a minimum with training errors Φ counts the weights
that make no more.

{correlation_table(series)}
Over all minima: coefficient, bootstrap interval ({INTERVAL};
restarts resampled within each algorithm), and a p-value that takes minima as independent.  Last column: ranks taken
within each algorithm, so that algorithms are not compared.
"""
