"""One number a minimum: the scalars that tables and statistics are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from figures.measures import Series
from figures.statistics import INTERVAL, Correlation, Interval, centred_ranks, correlate

NEAR, FAR = 0.05, 0.25  # distances of Φ
NOISE = 0.5  # σ of δE
MOST_DIGITS = 9  # after the point


@dataclass(frozen=True)
class Minima:
    """Scalar measures of minima, one entry a minimum.

    Attributes
    ----------
    protocol : ndarray of str
        Name.
    restart, epochs : ndarray of int
    train_error, test_error, test_error_balanced : ndarray of float
        Fractions.
    phi_near, phi_far : ndarray of float
        Φ_LE by belief propagation at d = 0.05 and 0.25, nats per weight.
    phi_near_ep, phi_far_ep : ndarray of float
        The same by expectation propagation; NaN where it was not computed.
    delta_error : ndarray of float
        δE at σ = 0.5.
    """

    protocol: NDArray[np.str_]
    restart: NDArray[np.int64]
    epochs: NDArray[np.int64]
    train_error: NDArray[np.float64]
    test_error: NDArray[np.float64]
    test_error_balanced: NDArray[np.float64]
    phi_near: NDArray[np.float64]
    phi_far: NDArray[np.float64]
    phi_near_ep: NDArray[np.float64]
    phi_far_ep: NDArray[np.float64]
    delta_error: NDArray[np.float64]


def scalars(series: Sequence[Series]) -> Minima:
    """Read the scalars of all minima off their curves."""
    parts = [_scalars(one) for one in series]
    return Minima(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Minima)})


def _scalars(one: Series) -> Minima:
    minima, n = one.minima, len(one.minima.restart)

    def phi(curve, distance):
        if curve is None:
            return np.full(n, np.nan)
        return curve.phi[:, np.flatnonzero(np.isclose(np.nanmean(curve.distance, axis=0), distance, rtol=1e-6))[0]]

    return Minima(
        protocol=np.full(n, one.name),
        restart=minima.restart,
        epochs=minima.epochs,
        train_error=minima.train_error,
        test_error=minima.test_error,
        test_error_balanced=minima.test_error_balanced,
        phi_near=phi(one.entropy, NEAR),
        phi_far=phi(one.entropy, FAR),
        phi_near_ep=phi(one.entropy_ep, NEAR),
        phi_far_ep=phi(one.entropy_ep, FAR),
        delta_error=one.energy.delta_error[:, np.flatnonzero(one.energy.sigma == NOISE)[0]],
    )


def protocol_table(series: Sequence[Series]) -> str:
    """One row a protocol in Markdown: mean ± standard error over restarts."""
    head = ["algorithm", "zero errors", "epochs", "test error, %", "balanced, %"]
    head += [f"10⁵ Φ({d:g}), {method}" for d in (NEAR, FAR) for method in ("BP", "EP")]
    rows = [[*head, f"δE({NOISE:g}), %"]]
    for one in series:
        m = _scalars(one)
        entropies = m.phi_near, m.phi_near_ep, m.phi_far, m.phi_far_ep
        rows.append(
            [
                one.label,
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
            found = [
                correlate(x, y, groups, kind="spearman", rng=rng),
                correlate(x, y, groups, kind="pearson", rng=rng),
                correlate(*ranks, groups, kind="pearson", rng=rng),
            ]
            rows.append([first, second, *map(correlation_text, found)])
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


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Render a table in Markdown; the first row is its head."""

    def lines() -> Iterator[str]:
        for i, row in enumerate(rows):
            yield f"| {' | '.join(row)} |"
            if i == 0:
                yield "| " + " | ".join(["---"] * len(row)) + " |"

    return "\n".join(lines()) + "\n"


def mean_and_error(values: NDArray) -> str:
    """Mean ± standard error, to two digits of the error; NaN are left out."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return "—"
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    digits = max(0, 1 - int(np.floor(np.log10(error)))) if error > 0 else 0
    if digits > MOST_DIGITS:
        return f"{mean:.1e} ± {error:.1e}".replace("-", "−")
    return f"{mean:,.{digits}f} ± {error:,.{digits}f}".replace("-", "−")


def interval_text(found: Interval, form: str = ".3g") -> str:
    """Mean and interval for people, numbers in the format `form`; a dash where they are not known."""
    if np.isnan(found.low):
        return "—"
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]".replace("-", "−")


def correlation_text(found: Correlation) -> str:
    """Coefficient, interval and p-value for people; a dash where there is none."""
    if np.isnan(found.value):
        return "—"
    p = f"p = {found.p_value:.2g}" if found.p_value >= 1e-4 else "p < 10⁻⁴"
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}], {p}".replace("-", "−")
