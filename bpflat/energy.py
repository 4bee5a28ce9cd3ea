"""The local energy (eq. 4): how much the training error rises when the weights are multiplied by noise."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bpflat.arguments import check_choice, check_grid, check_jobs, check_n_samples, check_problem
from bpflat.committee import fingerprints, in_unit_range, normalised, preactivations, vote
from bpflat.estimators.tables import majority_vote
from bpflat.parallel import over_processes
from bpflat.provenance import Provenance
from bpflat.randomness import spawn_streams
from bpflat.results import LocalEnergyProfile

_Floats = NDArray[np.float64]
_METHODS = ("sampling", "exact")
_SCRATCH_BYTES = 16 << 20
"""Most memory for the noise and its pre-activations at once (but always room for one draw)."""


def local_energy(
    weights: ArrayLike,
    patterns: ArrayLike,
    labels: ArrayLike,
    sigmas: ArrayLike,
    *,
    n_samples: int = 1000,
    seed: int | np.random.SeedSequence | None = None,
    method: str = "sampling",
    n_jobs: int = 1,
) -> LocalEnergyProfile:
    """Local energy of committee machines (eq. 4): ``δE(w, σ) = E_z E_train(w + σ z⊙w) − E_train(w)``.

    Parameters
    ----------
    weights : array_like, shape (K, N) or (R, K, N)
        The references w, K odd; rows of any finite scale, which does not matter.  They may make training errors.
    patterns : array_like, shape (P, N)
        Inputs x, ±1 or any real numbers; the largest of a pattern from 1e-70 to 1e70, or 0.
    labels : array_like, shape (P,)
        ±1.
    sigmas : array_like, shape (S,)
        Noise amplitudes σ from 0 to 1e70, strictly rising.
    n_samples : int
        Draws of the standard normal z (K, N) for each reference, 2 to 1e9.
    seed : int or SeedSequence, optional
        Reference r draws from child r of the seed sequence, so its numbers depend neither on the other
        references nor on `n_jobs`.  None takes fresh entropy.
    method : {"sampling", "exact"}
        "sampling" averages over `n_samples` draws.  "exact" does the average over z in closed form, which is
        much faster unless K is large: given a pattern the ``h_k`` are independent Gaussians of variance
        ``σ² Σ_i w_ki² x_i² / N``, and their majority is a Poisson-binomial sum.  It needs neither `n_samples`
        nor `seed`; `std_error` and `n_samples` of its result are 0.
    n_jobs : int
        Processes over which the references are spread, as in joblib (−1: one per core).

    Returns
    -------
    LocalEnergyProfile
        Arrays with a leading axis R where `weights` have one.

    Raises
    ------
    ValueError
        Even K, shapes that do not match, empty arrays, arrays of anything but finite real numbers (see
        `bpflat.committee.predict`), labels other than ±1, sigmas that are negative, unsorted or repeated, an argument
        of another type or out of range, an unknown method.

    Notes
    -----
    The perturbed pre-activation is linear in σ, ``h_k + σ Σ_i z_ki w_ki x_i / √N``, so one draw of z and one
    matrix product serve every σ: the curve is smooth and its points are correlated.  Memory does not grow
    with `n_samples`.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import committee, local_energy
    >>> rng = np.random.default_rng(0)
    >>> patterns = rng.choice([-1.0, 1.0], size=(50, 101))
    >>> weights = rng.standard_normal((3, 101))
    >>> labels = committee.predict(weights, patterns)
    >>> profile = local_energy(weights, patterns, labels, sigmas=[0.1, 0.5, 1.0], seed=1)
    >>> profile.plot()  # doctest: +SKIP
    """
    weights, patterns, labels = check_problem(weights, patterns, labels)
    sigmas = check_grid("sigmas", sigmas, zero=True)
    method = check_choice("method", method, _METHODS)
    n_samples, n_jobs = check_n_samples(n_samples), check_jobs(n_jobs)
    streams = spawn_streams(seed, 1 if weights.ndim == 2 else len(weights))

    references = in_unit_range(weights).reshape(-1, *weights.shape[-2:])
    calls = [
        (reference, patterns, labels, sigmas, method, n_samples, stream)
        for reference, stream in zip(references, streams, strict=True)
    ]
    results = over_processes(_rises, calls, n_jobs if len(calls) > 1 else 1)
    delta, std_error, train_error = (np.array(column) for column in zip(*results, strict=True))
    single = weights.ndim == 2
    return LocalEnergyProfile(
        sigma=sigmas,
        delta_error=delta[0] if single else delta,
        std_error=std_error[0] if single else std_error,
        train_error=float(train_error[0]) if single else train_error,
        n_samples=0 if method == "exact" else n_samples,
        reference=fingerprints(weights),
        provenance=Provenance.here(),
    )


def _rises(
    weights: _Floats,
    patterns: _Floats,
    labels: _Floats,
    sigmas: _Floats,
    method: str,
    n_samples: int,
    stream: np.random.SeedSequence,
) -> tuple[_Floats, _Floats, float]:
    """Mean (S,) and standard error (S,) of δE, and E_train(w), of one reference (K, N)."""
    if method == "exact":
        return _exact(weights, patterns, labels, sigmas)
    return _sampled(weights, patterns, labels, sigmas, n_samples, np.random.default_rng(stream))


# --- by sampling --------------------------------------------------------------------------------


def _sampled(
    weights: _Floats,
    patterns: _Floats,
    labels: _Floats,
    sigmas: _Floats,
    n_samples: int,
    rng: np.random.Generator,
    scratch_bytes: int = _SCRATCH_BYTES,
) -> tuple[_Floats, _Floats, float]:
    """Mean (S,) and standard error (S,) of δE over `n_samples` draws from `rng`, and E_train(w).

    All in float64: single precision would be 1.4 times faster, but rounds a few of the 10⁷ signs of a run
    across zero, differently for every shape of the matrix product: results would depend on the chunks.
    """
    (n_units, n_inputs), n_patterns = weights.shape, len(patterns)
    unit_rows, scales = normalised(weights)
    hidden = np.ascontiguousarray((preactivations(weights, patterns) / scales).T)
    positive = labels > 0
    n_wrong = np.count_nonzero(vote(hidden.T) != labels)

    chunk = max(1, min(n_samples, scratch_bytes // (8 * n_units * (n_inputs + n_patterns))))
    noise = np.empty((chunk, n_units, n_inputs))
    # Integer sums are exact, hence the same in any order and for any chunk.
    total, total_square = np.zeros(len(sigmas), np.int64), np.zeros(len(sigmas), np.int64)
    for start in range(0, n_samples, chunk):
        z = rng.standard_normal(out=noise[: n_samples - start])
        rises = _error_counts(hidden, unit_rows, patterns, positive, sigmas, z) - n_wrong
        total += rises.sum(axis=0)
        total_square += np.square(rises).sum(axis=0)

    mean = total / (n_samples * n_patterns)
    # n Σ c² − (Σ c)² in Python's integers: no cancellation, no overflow.
    scatter = n_samples * total_square.astype(object) - total.astype(object) ** 2
    variance = scatter.astype(np.float64) / (n_samples * (n_samples - 1)) / n_patterns**2
    return mean, np.sqrt(variance / n_samples), n_wrong / n_patterns


def _error_counts(
    hidden: _Floats, weights: _Floats, patterns: _Floats, positive: NDArray[np.bool_], sigmas: _Floats, z: _Floats
) -> NDArray[np.int64]:
    """Number of wrong patterns of ``w + σ z⊙w``, shape (B, S), for draws z (B, K, N), which are overwritten.

    `hidden` (K, P) are the pre-activations without noise, `positive` (P,) says which labels are +1.
    """
    (n_draws, n_units, n_inputs), n_patterns = z.shape, len(patterns)
    z *= weights / np.sqrt(n_inputs)
    noise = (z.reshape(-1, n_inputs) @ patterns.T).reshape(n_draws, n_units, n_patterns)
    counts = np.empty((n_draws, len(sigmas)), np.int64)
    _vote_and_count(hidden, noise, positive, sigmas, counts)
    return counts


@numba.njit(cache=True)
def _vote_and_count(
    hidden: _Floats, noise: _Floats, positive: NDArray[np.bool_], sigmas: _Floats, counts: NDArray[np.int64]
) -> None:
    """Fill `counts` (B, S) with the number of patterns whose majority of ``sign(hidden + σ noise)`` is wrong.

    hidden (K, P), noise (B, K, P), positive (P,) bool, sigmas (S,); sign(0) = +1.  The innermost loops,
    over P, vectorise.
    """
    n_draws, n_units, n_patterns = noise.shape
    votes = np.empty(n_patterns, np.int32)
    for b in range(n_draws):
        for s in range(len(sigmas)):
            votes[:] = 0
            for k in range(n_units):
                for p in range(n_patterns):
                    votes[p] += hidden[k, p] + sigmas[s] * noise[b, k, p] >= 0.0
            wrong = 0
            for p in range(n_patterns):
                wrong += (2 * votes[p] > n_units) != positive[p]
            counts[b, s] = wrong


# --- exactly ------------------------------------------------------------------------------------


def _exact(weights: _Floats, patterns: _Floats, labels: _Floats, sigmas: _Floats) -> tuple[_Floats, _Floats, float]:
    """δE (S,) averaged exactly over z, zeros for its standard error (S,), and E_train(w).

    Only probabilities are added and multiplied, so without training errors a small δE is precise relatively.
    """
    unit_rows, scales = normalised(weights)
    hidden = preactivations(weights, patterns) / scales
    spread = np.sqrt(np.square(patterns) @ np.square(unit_rows).T / weights.shape[1])  # of h_k at σ = 1
    answer = vote(hidden)
    right = answer == labels
    hidden = np.where(spread > 0, hidden, 1e6)  # without noise there is no h either: always a +1
    spread = np.where(spread > 0, spread, 1.0)

    delta = np.zeros(len(sigmas))
    for s, sigma in enumerate(sigmas):
        if sigma > 0:
            with np.errstate(over="ignore"):  # the tiniest σ: ±∞ is right
                signal = hidden / spread / sigma
            delta[s] = mean_rise(signal, answer, right)
    return delta, np.zeros(len(sigmas)), np.count_nonzero(~right) / len(labels)


def mean_rise(signal: _Floats, answer: NDArray[np.int8], right: NDArray[np.bool_]) -> float:
    """δE of patterns whose hidden signs are + with probability ``Φ(signal)`` (P, K), independently.

    Without noise they are answered by `answer` (P,), and that is `right` or not.
    """
    node = majority_vote(signal.shape[1])
    flip = -np.expm1(node.output(signal.T, np.ones(signal.T.shape), answer.astype(np.float64))[2])
    return float(np.mean(np.where(right, flip, -flip)))
