"""What several minima, restarts and draws of the patterns say, with the uncertainty of each statement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

N_RESAMPLES = 4000
LEVEL = 0.95
INTERVAL = "nominally 95 %, 84 to 97 % in simulations"  # of `correlate`: what it covers


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient over minima.

    Attributes
    ----------
    value : float
    p_value : float
        Two-sided, as if the minima were independent.
    low, high : float
        Percentile bootstrap interval, nominally 95 %; see `correlate` for what it covers.
    """

    value: float
    p_value: float
    low: float
    high: float


UNKNOWN = Correlation(np.nan, np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Components:
    """Variance of one quantity split by a one-way random-effects model, value = mean + draw + restart.

    Attributes
    ----------
    mean : float
    std_error : float
        Standard error of the mean, draws being the independent units.
    between, within : float
        Standard deviations between draws and between the restarts of a draw.
    """

    mean: float
    std_error: float
    between: float
    within: float


@dataclass(frozen=True)
class Interval:
    """A mean over independent units and its 95 % interval, see `mean_interval`.

    Attributes
    ----------
    mean, low, high : float
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """Moments of independent values, such as the test errors of several seeds.

    Attributes
    ----------
    mean : float
    std : float or None
        Standard deviation, with n − 1; None for one value.
    n : int
    """

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: ArrayLike) -> Sample:
        """Moments of values (n,)."""
        values = np.asarray(values, dtype=float)
        std = float(values.std(ddof=1)) if len(values) > 1 else None
        return cls(float(values.mean()), std, len(values))


def correlate(
    x: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    kind: str,
    rng: np.random.Generator,
    n_resamples: int = N_RESAMPLES,
) -> Correlation:
    """Correlate x and y (n,) over minima; the bootstrap resamples within groups, whose sizes are by design.

    Parameters
    ----------
    x, y : array_like, shape (n,)
    groups : array_like, shape (n,)
        Which minima are alike (of one algorithm).
    kind : {"spearman", "pearson", "kendall"}
    rng : Generator
    n_resamples : int

    Returns
    -------
    Correlation
        `UNKNOWN` for fewer than 3 minima, or where all have the same x or y.

    Notes
    -----
    In simulations of normal minima the nominal 95 % interval covers the coefficient of the population 92 to 97 % of the
    time over 25 minima without groups, 93 to 94 % over five groups of 50 and 88 to 90 % over five groups of 5; between
    `centred_ranks` in groups of 8 to 50, 90 to 94 % at ρ = 0.2 and 84 to 88 % at ρ = 0.9: ranks in small groups
    understate a strong correlation.
    """
    x, y, groups = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(groups)
    if not _comparable(x, y):
        return UNKNOWN
    value, p_value = {"spearman": stats.spearmanr, "pearson": stats.pearsonr, "kendall": stats.kendalltau}[kind](x, y)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    chosen = np.concatenate([rng.choice(m, size=(n_resamples, len(m))) for m in members], axis=1)
    if kind == "kendall":
        resampled = _kendall_of_rows(x, y, chosen)
    else:
        a, b = x[chosen], y[chosen]
        if kind == "spearman":
            a, b = stats.rankdata(a, axis=1), stats.rankdata(b, axis=1)
        resampled = _row_correlations(a, b)
    low, high = np.nanquantile(resampled, _tails())
    return Correlation(float(value), float(p_value), float(low), float(high))


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's ρ of x and y (n,); NaN for fewer than 3 points, or where all have the same x or y."""
    return float(stats.spearmanr(x, y).statistic) if _comparable(x, y) else np.nan


def centred_ranks(values: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Ranks within each group, scaled to (-1/2, 1/2): what remains of an order when groups are not compared.

    Parameters
    ----------
    values, groups : array_like, shape (n,)
    """
    values, groups = np.asarray(values, dtype=float), np.asarray(groups)
    ranks = np.empty(len(values))
    for group in np.unique(groups):
        here = groups == group
        ranks[here] = (stats.rankdata(values[here]) - 0.5) / np.count_nonzero(here) - 0.5
    return ranks


def variance_components(values: ArrayLike) -> Components:
    """Split the variance of values (draws, restarts) by the analysis of variance, exact for balanced designs.

    Notes
    -----
    With R restarts per draw, the mean square within draws estimates ``within²`` and that between draws ``within² + R
    between²``; a negative difference is reported as 0.  For a balanced design this is the restricted-likelihood
    estimate.
    """
    values = np.asarray(values, dtype=float)
    n_draws, n_restarts = values.shape
    if n_draws < 2 or n_restarts < 2:
        raise ValueError(f"values must hold at least 2 draws of at least 2 restarts each; its shape is {values.shape}")
    within = values.var(axis=1, ddof=1).mean()
    of_means = values.mean(axis=1).var(ddof=1)
    between = max(of_means - within / n_restarts, 0.0)
    return Components(
        float(values.mean()), float(np.sqrt(of_means / n_draws)), float(np.sqrt(between)), float(np.sqrt(within))
    )


def mean_interval(values: ArrayLike) -> Interval:
    """Mean of independent values and its interval by Student's t.

    Parameters
    ----------
    values : array_like, shape (n,)
        One number per unit (a draw of the patterns), such as the mean over its restarts.

    Returns
    -------
    Interval
        ``mean ± t s/√n`` with the quantile t of n − 1 degrees of freedom; bounds are NaN for n < 2.  Exact where values
        are normal, whatever they consist of; for few skewed ones the coverage is less, see the tests.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()) if n else np.nan, np.nan, np.nan)
    mean, half = values.mean(), quantile(n) * values.std(ddof=1) / np.sqrt(n)
    return Interval(float(mean), float(mean - half), float(mean + half))


def difference(first: Sample, second: Sample) -> Interval:
    """Mean of `first` minus that of `second`, and its 95 % interval.

    Notes
    -----
    Welch's interval where both have a standard deviation.  Where one is a single value, Student's with the variance of
    the other, as if both had the same.  Where both are, no interval: its bounds are NaN.
    """
    mean = first.mean - second.mean
    samples = [sample for sample in (first, second) if sample.std is not None]
    if not samples:
        return Interval(mean, np.nan, np.nan)
    degrees = np.array([sample.n - 1 for sample in samples])
    if len(samples) == 2:
        squares = np.array([sample.std**2 / sample.n for sample in samples])
        freedom = squares.sum() ** 2 / (squares**2 / degrees).sum() if squares.sum() else degrees.sum()
    else:
        squares, freedom = samples[0].std ** 2 * np.array([1 / first.n, 1 / second.n]), degrees.sum()
    half = stats.t.ppf(_tails()[1], freedom) * np.sqrt(squares.sum())
    return Interval(mean, float(mean - half), float(mean + half))


def paired_difference(first: ArrayLike, second: ArrayLike) -> Interval:
    """Mean of ``first - second`` over draws, arrays of shape (draws, restarts): what both share in a draw cancels.

    The interval takes draws as the independent units; the means over restarts carry their own share of the variance.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    return mean_interval(first.mean(axis=1) - second.mean(axis=1))


def _comparable(x: ArrayLike, y: ArrayLike) -> bool:
    """Whether x and y (n,) have a correlation."""
    return len(x) >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0


def _row_correlations(a: NDArray, b: NDArray) -> NDArray:
    """Pearson's r of each row; NaN where a row is constant."""
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


def _kendall_of_rows(x: NDArray, y: NDArray, chosen: NDArray[np.int64]) -> NDArray:
    """Kendall's τ of each row of chosen members (B, n), among pairs of different ones; ties count as 0."""
    concordant = np.sign(np.subtract.outer(x, x) * np.subtract.outer(y, y))
    times = np.array([np.bincount(row, minlength=len(x)) for row in chosen], dtype=float)
    pairs = times.sum(axis=1) ** 2 - (times**2).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return ((times @ concordant) * times).sum(axis=1) / pairs


def normal_correlation(value: float, std_error: float) -> Correlation:
    """Correlation with a normal interval, cut at ±1, and the p-value that goes with it."""
    if np.isnan(value):
        return UNKNOWN
    half = stats.norm.ppf(_tails()[1]) * std_error
    p_value = 2 * stats.norm.sf(abs(value) / std_error) if std_error else float(value == 0)
    return Correlation(float(value), float(p_value), max(float(value - half), -1.0), min(float(value + half), 1.0))


def quantile(n: int) -> float:
    """Standard errors in half of a 95 % interval of the mean of n values, by Student's t."""
    return float(stats.t.ppf(_tails()[1], n - 1))


def _tails() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2
