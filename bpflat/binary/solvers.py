"""Solvers: machines with weights ±1 that make no training error, by belief propagation or gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from bpflat.arguments import check_count, check_scalar
from bpflat.binary.problem import check_unanchored
from bpflat.committee import answers
from bpflat.display import Brief
from bpflat.estimators.binary import Answer, BinaryNodes, anchored, replicated
from bpflat.estimators.newton import newton_krylov
from bpflat.estimators.problem import Problem
from bpflat.randomness import spawn_streams
from bpflat.signs import sech

_Floats = NDArray[np.float64]
_FROZEN = 20.0  # field of a weight that is decided: the other value has a chance of e^{-40}
_TOLERANCE = 1e-4  # of fixed points on the way: signs are all that is wanted of them
_SURE = 1 - 1e-15  # largest mean of a weight that a field is made of
_MAX_STEPS, _HALVINGS = 6, 4


@dataclass(frozen=True, repr=False)
class Solution(Brief):
    """What a solver found.

    Attributes
    ----------
    weights : ndarray, shape (K, N)
        The machine with the fewest training errors on the way, ±1.
    n_errors : int
        Its training errors; 0 is success.
    steps : int
        Fixed points of belief propagation that were solved for, or epochs of gradient descent.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary
    >>> rng = np.random.default_rng(0)
    >>> patterns, labels = rng.choice([-1.0, 1.0], (20, 101)), rng.choice([-1.0, 1.0], 20)
    >>> found = binary.focusing_bp(patterns, labels, seed=0)
    >>> found.weights.shape, found.n_errors
    ((1, 101), 0)
    """

    weights: _Floats
    n_errors: int
    steps: int


def focusing_bp(
    patterns: ArrayLike,
    labels: ArrayLike,
    n_hidden: int = 1,
    *,
    n_replicas: float = 7.0,
    gamma_max: float = 3.0,
    n_steps: int = 20,
    asymmetry: float = 0.1,
    seed: int | np.random.SeedSequence | None = None,
) -> Solution:
    """Focusing belief propagation: find a solution in a wide flat region.

    Belief propagation for y replicas of the machine that a common centre ±1 pulls with the coupling γ.  Replicas are
    alike, so each weight has one field U, and the others act through the centre alone:
    ``p(w) ∝ Σ_{w*} (Σ_w e^{γ w* w + U w})^{y − 1} e^{γ w* w + U w}``.  The coupling rises from 0 to `gamma_max` in
    equal steps of tanh γ (scoping), each from the fixed point of the one before, until the centre ``sign U`` makes no
    error.

    Parameters
    ----------
    patterns : array_like, shape (P, N)
        Inputs, any real numbers.
    labels : array_like, shape (P,)
        ±1.
    n_hidden : int
        Hidden units K, odd.
    n_replicas : float
        Replicas y > 1, not necessarily a whole number.
    gamma_max : float
        Largest coupling, 0 to 13.8.
    n_steps : int
        Steps of the coupling: with more of them the fixed point is followed further, which hard problems need.
    asymmetry : float
        Standard deviation of the weak random fields on all weights that tell hidden units apart.
    seed : int or SeedSequence, optional

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        Even K, labels other than ±1, shapes that do not match, NaN or infinite entries, a pattern of zeros, numbers out
        of bounds.

    References
    ----------
    C. Baldassi, C. Borgs, J. T. Chayes, A. Ingrosso, C. Lucibello, L. Saglietti and R. Zecchina, Unreasonable
    effectiveness of learning neural networks, PNAS 113, E7655 (2016).

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary, committee
    >>> rng = np.random.default_rng(0)
    >>> patterns, labels = rng.choice([-1.0, 1.0], (30, 101)), rng.choice([-1.0, 1.0], 30)
    >>> found = binary.focusing_bp(patterns, labels, 3, seed=0)
    >>> committee.error(found.weights, patterns, labels)
    0.0
    """
    problem = check_unanchored(patterns, labels, n_hidden)
    y = check_scalar("n_replicas", n_replicas, above=1.0, at_most=1e6)
    strongest = check_scalar("gamma_max", gamma_max, at_most=13.8, why="beyond it replicas are one")
    n_steps, noise = check_count("n_steps", n_steps), _asymmetry(problem, asymmetry, seed)
    gammas = np.arctanh(np.linspace(0, np.tanh(strongest), n_steps))

    def pulled(gamma: float, total: _Floats) -> Answer:
        return lambda field: replicated(gamma, y, field + noise)

    return _first_solution(problem, _fixed_points(problem, noise, (partial(pulled, gamma) for gamma in gammas)))


def decimated_bp(
    patterns: ArrayLike,
    labels: ArrayLike,
    n_hidden: int = 1,
    *,
    n_steps: int = 20,
    asymmetry: float = 0.1,
    seed: int | np.random.SeedSequence | None = None,
) -> Solution:
    """Decimation guided by belief propagation: find a solution by deciding weights, the most certain ones first.

    After each fixed point of plain belief propagation 1/`n_steps` of all weights, those with the largest fields, are
    frozen at the signs of their means, until all signs together make no error.

    Parameters
    ----------
    patterns, labels, n_hidden, asymmetry, seed
        As in `focusing_bp`.
    n_steps : int
        Steps until all weights are decided.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        As in `focusing_bp`.

    References
    ----------
    A. Braunstein and R. Zecchina, Learning by message passing in networks of discrete synapses, Phys. Rev. Lett. 96,
    030201 (2006), whose reinforcement is the soft form of it.

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary
    >>> rng = np.random.default_rng(0)
    >>> patterns, labels = rng.choice([-1.0, 1.0], (20, 101)), rng.choice([-1.0, 1.0], 20)
    >>> binary.decimated_bp(patterns, labels, seed=0).n_errors
    0
    """
    problem = check_unanchored(patterns, labels, n_hidden)
    n_steps, noise = check_count("n_steps", n_steps), _asymmetry(problem, asymmetry, seed)

    def freeze(n_frozen: int, total: _Floats) -> Answer:
        decided = np.argsort(-np.abs(total), axis=None, kind="stable")[:n_frozen]
        anchor = noise.copy()
        anchor.flat[decided] = _FROZEN * _signs(total).flat[decided]
        return partial(anchored, anchor)

    counts = np.linspace(0, noise.size, n_steps + 1).astype(int)[:-1].tolist()
    return _first_solution(problem, _fixed_points(problem, noise, (partial(freeze, n) for n in counts)))


def rounded_sgd(
    patterns: ArrayLike,
    labels: ArrayLike,
    n_hidden: int = 1,
    *,
    eta: float = 0.3,
    beta: float = 2.0,
    omega: float = 5.0,
    batch: int = 100,
    n_epochs: int = 1000,
    seed: int | np.random.SeedSequence | None = None,
) -> Solution:
    """SGD on rounded weights: find a solution by gradient descent in real weights of which only the signs are used.

    The slope of the loss of eq. 8 is taken at the machine ``sign w`` and moves the real weights w, as if rounding were
    not there (the straight-through estimator); they are clipped to [−1, 1].  Epochs go on until ``sign w`` makes no
    error.

    Parameters
    ----------
    patterns, labels, n_hidden
        As in `focusing_bp`.
    eta : float
        Learning rate η of the loss summed over a minibatch.
    beta, omega : float
        Slope β of the hidden units ``tanh(β h)`` and sharpness ω of the loss, of the gradient alone.
    batch : int
        Patterns in a minibatch.
    n_epochs : int
        Epochs at most.
    seed : int or SeedSequence, optional
        Initial weights, uniform in [−1, 1], and minibatches.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        As in `focusing_bp`.

    References
    ----------
    I. Hubara, M. Courbariaux, D. Soudry, R. El-Yaniv and Y. Bengio, Binarized neural networks, NeurIPS 29 (2016); the
    rounding of weights alone is that of M. Courbariaux, Y. Bengio and J.-P. David, BinaryConnect, NeurIPS 28 (2015).

    Examples
    --------
    >>> import numpy as np
    >>> from bpflat import binary
    >>> rng = np.random.default_rng(0)
    >>> patterns, labels = rng.choice([-1.0, 1.0], (30, 101)), rng.choice([-1.0, 1.0], 30)
    >>> binary.rounded_sgd(patterns, labels, 3, seed=0).n_errors
    0
    """
    problem = check_unanchored(patterns, labels, n_hidden)
    eta, beta, omega = (
        check_scalar(name, value, above=0.0, at_most=1e6)
        for name, value in (("eta", eta), ("beta", beta), ("omega", omega))
    )
    batch, n_epochs = check_count("batch", batch), check_count("n_epochs", n_epochs)
    (stream,) = spawn_streams(seed, 1)
    rng = np.random.default_rng(stream)
    n_hidden, n_patterns = problem.hidden.shape
    signed = np.asarray(problem.labels)[:, None] * problem.inputs.x  # σx/√N

    def epochs() -> Iterator[_Floats]:
        w = rng.uniform(-1, 1, (n_hidden, signed.shape[1]))
        for _ in range(n_epochs):
            order = rng.permutation(n_patterns)
            for first in range(0, n_patterns, batch):
                x = signed[order[first : first + batch]]
                w = np.clip(w + eta * _descent(_signs(w) @ x.T, beta, omega) @ x, -1, 1)
            yield w

    return _first_solution(problem, epochs())


def _descent(stable: _Floats, beta: float, omega: float) -> _Floats:
    """Minus the slope of the loss of eq. 8 in ``σ h`` (K, B), the pre-activations times the labels."""
    root = np.sqrt(len(stable))
    s = np.tanh(beta * stable).sum(axis=0) / root
    return expit(-2 * omega * s) * beta * sech(beta * stable) ** 2 / root


def _fixed_points(problem: Problem, noise: _Floats, stages: Iterable[Callable[[_Floats], Answer]]) -> Iterator[_Floats]:
    """Total fields (K, N) of stage after stage, each made from those of the one before."""
    field, g = np.zeros(noise.shape), np.zeros(problem.hidden.shape)
    total = noise
    for stage in stages:
        answer = stage(total)
        nodes = BinaryNodes(problem, answer)
        root = newton_krylov(
            nodes, nodes.begin((field, g)), tolerance=_TOLERANCE, max_steps=_MAX_STEPS, halvings=_HALVINGS
        )
        field, g = nodes.parts(root.x)[1], root.extra[0].g
        total = np.arctanh(np.clip(root.extra[1].mean, -_SURE, _SURE))
        yield total


def _first_solution(problem: Problem, machines: Iterable[_Floats]) -> Solution:
    """The first of several fields (K, N) whose signs make no error, or the best of them."""
    fewest, steps = problem.hidden.shape[-1] + 1, 0
    for values in machines:
        steps, weights = steps + 1, _signs(values)
        n_errors = int(np.count_nonzero(answers(weights, problem.inputs.patterns) != problem.labels))
        if n_errors < fewest:
            best, fewest = weights, n_errors
        if n_errors == 0:
            break
    return Solution(best, fewest, steps)


def _signs(values: _Floats) -> _Floats:
    return np.where(values >= 0, 1.0, -1.0)


def _asymmetry(problem: Problem, size: float, seed: int | np.random.SeedSequence | None) -> _Floats:
    """Weak random fields (K, N)."""
    size = check_scalar("asymmetry", size, at_most=10.0)
    (stream,) = spawn_streams(seed, 1)
    return size * np.random.default_rng(stream).standard_normal((len(problem.hidden), problem.inputs.n_inputs))
