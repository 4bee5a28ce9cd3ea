"""Numbers and tables as people read them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from figures.measure.statistics import Correlation, Interval, paired_difference

MOST_DIGITS = 9  # after the point
FLATTER = {"phi_far": 1, "delta_error": -1}  # signs of the differences that say so


def markdown(rows: Sequence[Sequence[object]]) -> str:
    """Table in Markdown, the first row its head."""
    head, *body = (f"| {' | '.join(map(str, row))} |" for row in rows)
    rule = "| " + " | ".join(["---"] * len(rows[0])) + " |"
    return "\n".join([head, rule, *body]) + "\n"


def with_note(rows: Sequence[Sequence[object]], note: str) -> str:
    """Table in Markdown, and below it a paragraph of what it rests on."""
    return f"{markdown(rows)}\n{textwrap.fill(' '.join(note.split()), 120)}\n"


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


def signed(value: float) -> str:
    """Coefficient with its sign, to two digits; a dash where there is none."""
    return "—" if np.isnan(value) else f"{value:+.2f}".replace("-", "−")


def correlation_text(correlation: Correlation) -> str:
    """Coefficient, interval and p-value; a dash where there is none."""
    if np.isnan(correlation.value):
        return "—"
    p = f"p = {correlation.p_value:.2g}" if correlation.p_value >= 1e-4 else "p < 10⁻⁴"
    return f"{signed(correlation.value)} [{signed(correlation.low)}, {signed(correlation.high)}], {p}".replace("-", "−")


def interval_text(interval: Interval, form: str = ".3g") -> str:
    """Mean and interval, numbers in the format `form`; a dash where they are not known."""
    if np.isnan(interval.low):
        return "—"
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]".replace("-", "−")


def comparison_cells(values: Mapping[str, NDArray], others: Mapping[str, NDArray], form: str = ".3g") -> Iterator[str]:
    """Cells of a comparison over draws: in how many of them minima are flatter than others, and their excess of errors.

    Parameters
    ----------
    values, others : mapping
        Arrays (draws, restarts) by quantity: both of `FLATTER`, ``test_error`` and ``test_error_balanced``.
    form : str
        Format of the differences of the test errors.
    """
    for quantity, sign in FLATTER.items():
        change = values[quantity].mean(axis=1) - others[quantity].mean(axis=1)
        yield f"{np.count_nonzero(sign * change > 0)} of {len(change)} draws"
    for quantity in ("test_error", "test_error_balanced"):
        yield interval_text(paired_difference(values[quantity], others[quantity]), form)


def counted(n: int, what: str) -> str:
    """Number of things, in words: "1 seed", "3 seeds"."""
    return f"{n:,} {what}{'s' * (n != 1)}"
