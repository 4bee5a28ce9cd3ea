"""Local energy of weights ±1: how much the training error rises when weights flip."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import binom

from bpflat.arguments import check_choice, check_grid, check_n_samples
from bpflat.binary.problem import check_binary, check_one_size
from bpflat.binary.results import FlipEnergyProfile
from bpflat.committee import answers, fingerprints
from bpflat.energy import mean_rise
from bpflat.estimators.binary import is_one_size
from bpflat.provenance import Provenance
from bpflat.randomness import spawn_streams

_Floats = NDArray[np.float64]
_METHODS = ("exact", "sampling")
_CERTAIN = 1e3  # standard deviations from 0 at which a sign is certain


def local_energy(
    weights: ArrayLike,
    patterns: ArrayLike,
    labels: ArrayLike,
    flip_probabilities: ArrayLike,
    *,
    n_samples: int = 1000,
    seed: int | np.random.SeedSequence | None = None,
    method: str | None = None,
) -> FlipEnergyProfile:
    """Local energy of committee machines with weights ±1: ``δE(w, p) = E_flips E_train − E_train(w)``.

    Every weight flips with probability p, independently of the others, which moves the machine to the Hamming distance
    p on average.  It is the noise of eq. 4 for weights that have no amplitude.

    Parameters
    ----------
    weights : array_like, shape (K, N) or (R, K, N)
        The references w, ±1, K odd.  They may make training errors.
    patterns : array_like, shape (P, N)
        Inputs, any real numbers.
    labels : array_like, shape (P,)
        ±1.
    flip_probabilities : array_like, shape (S,)
        Probabilities p from 0 to 1, increasing.
    n_samples : int
        Draws of the flips for each reference, at least 2, for "sampling".
    seed : int or SeedSequence, optional
        Reference r draws from child r of the seed sequence.
    method : {"exact", "sampling"}, optional
        "exact" counts: where the inputs of a pattern are 0 or ±c, a hidden pre-activation is a difference of two
        binomial numbers, and the vote a Poisson-binomial sum.  Default: "exact" where that is so, else "sampling".

    Returns
    -------
    FlipEnergyProfile

    Raises
    ------
    ValueError
        Weights other than ±1, p that do not rise or lie outside 0 to 1, "exact" for inputs of different sizes, other
        bad input as in `local_entropy`.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary, committee
    >>> rng = np.random.default_rng(0)
    >>> patterns, weights = rng.choice([-1.0, 1.0], size=(20, 101)), rng.choice([-1.0, 1.0], size=(3, 101))
    >>> labels = committee.predict(weights, patterns)
    >>> binary.local_energy(weights, patterns, labels, [0.5]).delta_error.round(12)  # nothing is left of w
    array([0.5])
    """
    weights, patterns, labels = check_binary(weights, patterns, labels)
    chances = check_grid("flip_probabilities", flip_probabilities, zero=True, between=(0.0, 1.0))
    n_samples, streams = check_n_samples(n_samples), spawn_streams(seed, 1 if weights.ndim == 2 else len(weights))
    if method is None:
        method = "exact" if is_one_size(patterns).all() else "sampling"
    if check_choice("method", method, _METHODS) == "exact":
        check_one_size(patterns, method)
    references = weights.reshape(-1, *weights.shape[-2:])
    answer = np.stack([answers(w, patterns) for w in references])  # (R, P)
    wrong = np.mean(answer != labels, axis=1)
    if method == "exact":
        delta = _exact(references, patterns, answer, answer == labels, chances)
        error = np.zeros(delta.shape)
    else:
        each = zip(references, wrong, streams, strict=True)
        draws = [_errors(w, patterns, labels, chances, n_samples, s) - before for w, before, s in each]
        delta, error = (np.array([f(d) for d in draws]) for f in (_mean, _error_of_mean))
    one = weights.ndim == 2
    return FlipEnergyProfile(
        flip_probability=chances,
        delta_error=delta[0] if one else delta,
        std_error=error[0] if one else error,
        train_error=float(wrong[0]) if one else wrong,
        n_samples=0 if method == "exact" else n_samples,
        reference=fingerprints(weights),
        provenance=Provenance.here(),
    )


# --- by sampling --------------------------------------------------------------------------------


def _errors(
    weights: _Floats, patterns: _Floats, labels: _Floats, chances: _Floats, n_samples: int, seed: np.random.SeedSequence
) -> _Floats:
    """Training error in each draw, (n_samples, S): the same numbers decide about flips at every p."""
    rng = np.random.default_rng(seed)
    draws = (np.where(rng.random(weights.shape) < chances[:, None, None], -weights, weights) for _ in range(n_samples))
    return np.array([np.mean(answers(flipped, patterns) != labels, axis=1) for flipped in draws])


def _mean(rises: _Floats) -> _Floats:
    return rises.mean(axis=0)


def _error_of_mean(rises: _Floats) -> _Floats:
    return rises.std(axis=0, ddof=1) / np.sqrt(len(rises))


# --- exactly ------------------------------------------------------------------------------------


def _exact(
    references: _Floats, patterns: _Floats, answer: NDArray[np.int8], right: NDArray[np.bool_], chances: _Floats
) -> _Floats:
    """δE (R, S) averaged exactly over flips of references that give these answers (R, P), right or not."""
    signs = np.sign(patterns)
    seen = np.count_nonzero(signs, axis=1)
    # how many of the inputs that a unit sees agree in sign with its weights: (R, P, K)
    agreeing = np.rint((signs @ np.swapaxes(references, -1, -2) + seen[:, None]) / 2).astype(np.int64)
    sizes = np.broadcast_to(seen[:, None], agreeing.shape)
    kinds, which = np.unique(np.stack([agreeing.ravel(), sizes.ravel()]), axis=1, return_inverse=True)
    delta = np.zeros((len(references), len(chances)))
    for s, chance in enumerate(chances):
        signals = _signals(kinds[0], kinds[1], chance)[which].reshape(agreeing.shape)
        delta[:, s] = [mean_rise(*each) for each in zip(signals, answer, right, strict=True)]
    return delta


def _signals(agreeing: NDArray[np.int64], seen: NDArray[np.int64], chance: float) -> _Floats:
    """``Φ⁻¹`` of the probability that a unit's pre-activation is ≥ 0 after flips, to full precision in both tails.

    Of the inputs (M,) that it sees, some agree with its weights; flips turn agreement into the opposite, and back.
    """
    lost = np.arange(agreeing.max() + 1)
    weight = binom.pmf(lost, agreeing[:, None], chance)
    short = (seen[:, None] + 1) // 2 - agreeing[:, None] + lost - 1  # more than so many must be gained
    positive, negative = (
        np.sum(weight * tail(short, (seen - agreeing)[:, None], chance), axis=1) for tail in (binom.sf, binom.cdf)
    )
    return np.clip(np.where(positive < negative, ndtri(positive), -ndtri(negative)), -_CERTAIN, _CERTAIN)
