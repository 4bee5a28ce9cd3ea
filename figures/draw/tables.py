"""Numbers and tables as people read them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures.measure.deep_runs import Comparison
from figures.measure.statistics import Correlation, Interval, Sample, paired_difference

MOST_DIGITS = 9  # after the point
WRAP, LINE = 44, 0.12  # characters of a line in a drawn table, and its height in inches
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


def plus_minus(sample: Sample) -> str:
    """Mean ± standard deviation of errors in percent, as the paper prints them."""
    return f"{sample.mean:.1f}" if sample.std is None else f"{sample.mean:.1f} ± {sample.std:.1f}"


def verdict(interval: Interval) -> str:
    """What a 95 % interval of a difference says of its sign."""
    if interval.high < 0:
        return "lower"
    return "higher" if interval.low > 0 else "cannot be told at this number of seeds"


def difference_text(interval: Interval) -> str:
    """Difference with its sign, and its interval if there is one."""
    known = np.isfinite(interval.low)
    return interval_text(interval, "+.2f") if known else f"{interval.mean:+.2f}".replace("-", "−")


def comparison_rows(comparisons: Sequence[Comparison]) -> list[tuple]:
    """Differences of test errors and what they say, after the names of the columns."""
    rows: list[tuple] = [("network", "difference", "test error, points [95 %]", "seeds", "verdict")]
    for comparison in comparisons:
        cell, interval = comparison.of, comparison.interval
        what = f"{cell.row}, {cell.n_train:,} images, {100 * cell.scale:.3g} % of the epochs, {cell.precision}"
        seeds = " and ".join(map(str, comparison.n))
        pair = f"{comparison.first} − {comparison.second}"
        rows.append((what, pair, difference_text(interval), seeds, verdict(interval)))
    return rows


def draw_tables(tables: Sequence[Sequence[Sequence[object]]], note: str) -> Figure:
    """Tables below one another, the first row of each its head, and small print under them."""
    texts = [[[textwrap.fill(str(value), WRAP) for value in row] for row in table] for table in tables]
    heights = [[LINE * (0.8 + max(text.count("\n") + 1 for text in row)) for row in table] for table in texts]
    small_print = textwrap.wrap(" ".join(note.split()), 190)
    below = 0.3 + 0.13 * len(small_print)  # inches
    total = sum(map(sum, heights)) + 0.25 * len(tables)
    figure = plt.figure(figsize=(13, total + below))
    figure.set_layout_engine("none")  # the tables know their places
    top = total + below
    for rows, inches in zip(texts, heights, strict=True):
        height = sum(inches)
        axes = figure.add_axes((0.01, (top - height) / (total + below), 0.98, height / (total + below)))
        axes.axis("off")
        columns = zip(*rows, strict=True)
        widths = np.array([2 + max(len(line) for text in column for line in text.split("\n")) for column in columns])
        grid = axes.table(rows[1:], colLabels=rows[0], colWidths=widths / widths.sum(), bbox=(0, 0, 1, 1))
        grid.auto_set_font_size(False)
        grid.set_fontsize(7)
        for (line, _), box in grid.get_celld().items():
            box.set_height(inches[line] / height)
            box.set_linewidth(0.4)
            box.set_text_props(ha="left")
            box.PAD = 0.02
            if line == 0:
                box.set_facecolor("#dddddd")
        top -= height + 0.25
    figure.text(0.01, (below - 0.1) / (total + below), "\n".join(small_print), va="top", fontsize=7)
    return figure


def signed(value: float) -> str:
    """Number with its sign, to two decimals; a dash where there is none."""
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
