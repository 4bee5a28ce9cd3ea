"""What several minima, restarts and draws of the patterns say, with the uncertainty of each statement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

N_RESAMPLES = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient over minima.

    Attributes
    ----------
    value : float
    p_value : float
        Two-sided, as if the minima were independent.
    low, high : float
        Percentile bootstrap interval (95 %).
    """

    value: float
    p_value: float
    low: float
    high: float


@dataclass(frozen=True)
class Components:
    """Variance of one quantity split by a one-way random-effects model, value = mean + draw + restart.

    Attributes
    ----------
    mean : float
    std_error : float
        Of the mean, draws being the independent units.
    between, within : float
        Standard deviations between draws and between the restarts of a draw.
    """

    mean: float
    std_error: float
    between: float
    within: float


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
    kind : {"spearman", "pearson"}
    rng : Generator
    n_resamples : int
    """
    x, y, groups = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(groups)
    function = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[kind]
    value, p_value = function(x, y)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    chosen = np.concatenate([rng.choice(m, size=(n_resamples, len(m))) for m in members], axis=1)
    a, b = x[chosen], y[chosen]
    if kind == "spearman":
        a, b = stats.rankdata(a, axis=1), stats.rankdata(b, axis=1)
    low, high = np.nanquantile(_row_correlations(a, b), _tails())
    return Correlation(float(value), float(p_value), float(low), float(high))


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
    With R restarts a draw, the mean square within draws estimates ``within²`` and that between draws ``within² + R
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


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, rng: np.random.Generator, n_resamples: int = N_RESAMPLES
) -> tuple[float, float, float]:
    """Mean of ``first - second`` (draws, restarts) and its bootstrap interval (95 %).

    Draws are resampled together for both, restarts within each draw separately: what both share in a draw cancels.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    draws = rng.integers(len(first), size=(n_resamples, len(first)))
    means = [_resampled_restarts(values, draws, rng) for values in (first, second)]
    low, high = np.quantile(means[0] - means[1], _tails())
    return float(first.mean() - second.mean()), float(low), float(high)


def _resampled_restarts(values: NDArray, draws: NDArray, rng: np.random.Generator) -> NDArray:
    """Means of resampled restarts of the resampled draws (n, D), shape (n,)."""
    restarts = rng.integers(values.shape[1], size=(*draws.shape, values.shape[1]))
    return values[draws[..., None], restarts].mean(axis=(1, 2))


def _row_correlations(a: NDArray, b: NDArray) -> NDArray:
    """Pearson's r of each row; NaN where a row is constant."""
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


def _tails() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2
