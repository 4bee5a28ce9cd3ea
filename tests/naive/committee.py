"""Plain twins of the fast code: loops and enumerations that a reader can check against the formula.

One section a subject, each function as slow and as obvious as it can be.
"""

import itertools
import math

import mpmath
import numpy as np
from scipy.integrate import quad
from scipy.stats import norm

# --- the committee machine ----------------------------------------------------------------------------------


def sign(value):
    """Sign of a number, with sign(0) = +1."""
    return 1 if value >= 0 else -1


def output(weights, pattern):
    """Eq. 7 for weights (K, N) and one pattern (N,)."""
    votes = 0
    for row in weights:
        votes += sign(sum(w * x for w, x in zip(row, pattern, strict=True)) / math.sqrt(len(pattern)))
    return sign(votes)


def training_error(weights, patterns, labels):
    """Fraction of patterns that weights (K, N) get wrong."""
    wrong = [output(weights, pattern) != label for pattern, label in zip(patterns, labels, strict=True)]
    return sum(wrong) / len(wrong)


def majority(agree):
    """Probability that most of K independent events happen, from theirs, `agree` (K,): all 2^K outcomes."""
    total = 0.0
    for outcome in itertools.product((False, True), repeat=len(agree)):
        if 2 * sum(outcome) > len(agree):
            total += math.prod(p if happens else 1 - p for p, happens in zip(agree, outcome, strict=True))
    return total


def few_errors(log_z, n_errors):
    """``log P(E ≤ E₀)``, and π_μ of every pattern (P,), from log probabilities that each pattern is right (P,).

    All 2^P outcomes, in arithmetic of 400 digits; π_μ is the chance, given E ≤ E₀, that pattern μ is right and one more
    error would be too many.
    """
    with mpmath.workdps(400):
        right = [mpmath.exp(mpmath.mpf(float(z))) for z in log_z]
        total, pivotal = mpmath.mpf(0), [mpmath.mpf(0)] * len(right)
        for outcome in itertools.product((False, True), repeat=len(right)):
            chance = mpmath.fprod(z if good else 1 - z for z, good in zip(right, outcome, strict=True))
            errors = len(right) - sum(outcome)
            if errors <= n_errors:
                total += chance
            if errors == n_errors:
                pivotal = [p + chance if good else p for p, good in zip(pivotal, outcome, strict=True)]
        return float(mpmath.log(total)), np.array([float(p / total) for p in pivotal])


def prior_samples(weights, patterns, labels, delta, scale, n_samples, seed=0):
    """Errors (n,) and |(w' - w)/s|², of weights with s > 0, (n,), of n plain samples ``w' = w + √Δ s⊙z``."""
    rng, errors, squares = np.random.default_rng(seed), [], []
    block = 2**22 // weights.size
    for start in range(0, n_samples, block):
        z = rng.standard_normal((min(block, n_samples - start), *weights.shape), dtype=np.float32)
        perturbed = weights.astype(np.float32) + np.float32(math.sqrt(delta)) * scale.astype(np.float32) * z
        votes = np.count_nonzero(perturbed @ patterns.T.astype(np.float32) >= 0, axis=1)
        errors.append(np.count_nonzero((2 * votes > len(weights)) != (labels > 0), axis=1))
        squares.append(delta * np.sum(np.square(z), axis=(1, 2), where=scale > 0, dtype=float))
    return np.concatenate(errors), np.concatenate(squares)


def two_patterns(weights, patterns, labels, delta):
    """``log P(E ≤ E₀)`` under N(w, Δ) for E₀ = 0 and 1, exact for two patterns: all signs of all K units.

    Patterns (2, N), or (K, 2, M) where units have inputs of their own.
    """
    signs = list(itertools.product((-1, 1), repeat=2))
    quadrants = []
    for w, x in zip(weights, np.broadcast_to(patterns, (len(weights), *np.shape(patterns)[-2:])), strict=True):
        overlap = x[0] @ x[1] / np.sqrt(np.prod(np.sum(x**2, axis=1)))
        field = x @ w / np.sqrt(delta * np.sum(x**2, axis=1))  # (2,), of variance 1
        quadrants.append({s: _quadrant(field, s, overlap) for s in signs})
    chances = [0.0, 0.0, 0.0]  # of so many errors
    for outcome in itertools.product(signs, repeat=len(weights)):
        chance = math.prod(quadrant[s] for quadrant, s in zip(quadrants, outcome, strict=True))
        chances[np.count_nonzero(np.sign(np.sum(outcome, axis=0)) != labels)] += chance
    return math.log(chances[0]), math.log1p(-chances[2])


def _quadrant(mean, signs, overlap):
    """Probability that two normal numbers of these means, variance 1 and this correlation have these signs."""
    a, b = mean * np.array(signs)
    overlap = overlap * signs[0] * signs[1]

    def slice_(t):
        return norm.pdf(t) * norm.cdf((b + overlap * t) / math.sqrt(1 - overlap**2))

    return quad(slice_, -a, 40.0, epsabs=1e-14, epsrel=1e-13, limit=200)[0]


def log_majority(y):
    """``log P(most of K signs agree)`` where sign k does with probability Φ(y_k), in arithmetic of 400 digits."""
    with mpmath.workdps(400):
        chances = [mpmath.mpf(1)]  # that so many agree
        for p in (mpmath.ncdf(mpmath.mpf(float(v))) for v in y):
            chances = [
                (1 - p) * (chances[j] if j < len(chances) else 0) + p * (chances[j - 1] if j else 0)
                for j in range(len(chances) + 1)
            ]
        return float(mpmath.log(mpmath.fsum(chances[len(y) // 2 + 1 :])))


# --- local energy -------------------------------------------------------------------------------------------


def local_energy(weights, patterns, labels, sigmas, noise):
    """Eq. 4 for given draws of the noise (B, K, N): its mean (S,) and the standard error of the mean (S,)."""
    error = training_error(weights, patterns, labels)
    rises = np.array(
        [[training_error(weights + s * z * weights, patterns, labels) - error for s in sigmas] for z in noise]
    )
    return rises.mean(axis=0), rises.std(axis=0, ddof=1) / math.sqrt(len(noise))


def exact_local_energy(weights, patterns, labels, sigma):
    """Eq. 4 averaged over all z, at one σ > 0: independent Gaussian pre-activations, all 2^K signs."""
    wrong = 0.0
    for pattern, label in zip(patterns, labels, strict=True):
        agree = []
        for row in weights:
            mean = sum(w * x for w, x in zip(row, pattern, strict=True))
            deviation = sigma * math.sqrt(sum((w * x) ** 2 for w, x in zip(row, pattern, strict=True)))
            agree.append(math.erfc(-label * mean / deviation / math.sqrt(2)) / 2)
        wrong += 1 - majority(agree)
    return wrong / len(labels) - training_error(weights, patterns, labels)


# --- belief propagation -------------------------------------------------------------------------------------


def output_node(omega, variance, labels):
    """g, Γ and log Z: derivatives of the enumerated Z(ω) by hand (Z is linear in each probability)."""
    g, curvature, log_z = np.empty_like(omega), np.empty_like(omega), np.empty(len(omega))
    for mu, label in enumerate(labels):
        root = np.sqrt(variance[mu])
        y = label * omega[mu] / root
        agree = norm.cdf(y)
        z = majority(agree)
        log_z[mu] = np.log(z)
        for k in range(len(y)):
            sure = [majority(np.where(np.arange(len(y)) == k, value, agree)) for value in (1.0, 0.0)]
            slope = (sure[0] - sure[1]) * norm.pdf(y[k]) * label / root[k]  # ∂Z/∂ω_k
            bend = -(sure[0] - sure[1]) * y[k] * norm.pdf(y[k]) / variance[mu, k]  # ∂²Z/∂ω_k²
            g[mu, k] = slope / z
            curvature[mu, k] = (slope / z) ** 2 - bend / z
    return g, curvature, log_z


def output_node_multiprecision(y):
    """`output_node` of one pattern with V = 1 and label +1, in enough digits for any underflow."""
    with mpmath.workdps(60):
        y = [mpmath.mpf(float(v)) for v in y]
        agree = [mpmath.erfc(-v / mpmath.sqrt(2)) / 2 for v in y]

        def vote(p):
            total = mpmath.mpf(0)
            for outcome in itertools.product([True, False], repeat=len(p)):
                if 2 * sum(outcome) > len(p):
                    # erfc(-y)/2 and erfc(y)/2 separately: 1 - p would lose a tiny complement
                    total += mpmath.fprod(a if o else b for a, b, o in zip(p, rest(p), outcome, strict=True))
            return total

        def rest(p):
            exact = [mpmath.erfc(v / mpmath.sqrt(2)) / 2 for v in y]
            return [b if a is c else 1 - a for a, b, c in zip(p, exact, agree, strict=True)]

        z = vote(agree)
        g, curvature = [], []
        for k, v in enumerate(y):
            sure = [vote([*agree[:k], mpmath.mpf(value), *agree[k + 1 :]]) for value in (1, 0)]
            density = mpmath.exp(-v * v / 2) / mpmath.sqrt(2 * mpmath.pi)
            ratio = (sure[0] - sure[1]) * density / z
            g.append(float(ratio))
            curvature.append(float(ratio * (ratio + v)))
        return np.array(g), np.array(curvature), np.array([float(mpmath.log(z))])


def factor_node(y, energies):
    """Slope of log Z in y (K,), minus its bend, and log Z, of one pattern with V = 1, by all sets of agreeing units.

    Energies (2^K,) of the sets, ``Σ 2^k`` over their units; in enough digits for any underflow.
    """
    with mpmath.workdps(60):
        y = [mpmath.mpf(float(v)) for v in y]
        chances = [(mpmath.erfc(v / mpmath.sqrt(2)) / 2, mpmath.erfc(-v / mpmath.sqrt(2)) / 2) for v in y]
        factors = [mpmath.exp(-mpmath.mpf(float(u))) for u in energies]
        fails = [-mpmath.expm1(-mpmath.mpf(float(u))) for u in energies]

        def mean(values, chances):
            products = [mpmath.mpf(1)]
            for never, always in chances:
                products = [p * never for p in products] + [p * always for p in products]
            return mpmath.fdot(zip(products, values, strict=True))

        z = mean(factors, chances)
        slope, bend = [], []
        for k, v in enumerate(y):
            never, always = (mean(factors, [*chances[:k], sure, *chances[k + 1 :]]) for sure in ((1, 0), (0, 1)))
            ratio = (always - never) * mpmath.exp(-v * v / 2) / mpmath.sqrt(2 * mpmath.pi) / z
            slope.append(float(ratio))
            bend.append(float(ratio * (ratio + v)))
        log_z = mpmath.log1p(-mean(fails, chances)) if z > 0.5 else mpmath.log(z)
        return np.array(slope), np.array(bend), float(log_z)


def belief_propagation(weights, patterns, labels, delta, sweeps, scale=1.0):
    """Log Z and d, per weight, by parallel updates of every message, loop by loop (Section B.1 of the paper).

    The prior is N(w, Δ s²), with scales s > 0 (K, N).
    """
    n_hidden, n_inputs = weights.shape
    prior = delta * np.broadcast_to(scale, weights.shape) ** 2
    x = patterns / np.sqrt(n_inputs)
    a = np.zeros((len(x), n_hidden, n_inputs))
    b = np.zeros_like(a)
    for _ in range(sweeps):
        rho = 1 / (1 / prior + a.sum(axis=0) - a)
        m = rho * (weights / prior + b.sum(axis=0) - b)
        omega, variance = np.einsum("mi,mki->mk", x, m), np.einsum("mi,mki->mk", x**2, rho)
        g, curvature, log_z = output_node(omega, variance, labels)
        a = 0.5 * a + 0.5 * np.einsum("mi,mk->mki", x**2, curvature)
        b = 0.5 * b + 0.5 * (np.einsum("mi,mk->mki", x, g) + np.einsum("mi,mk,mki->mki", x**2, curvature, m))
    precision = 1 / prior + a.sum(axis=0)
    mean = (weights / prior + b.sum(axis=0)) / precision
    total = log_z.sum() + np.sum(-0.5 * np.log(prior * precision) + 0.5 * (precision * mean**2 - weights**2 / prior))
    own = np.einsum("mi,mk->mki", x, g)  # the edge terms as physics writes them, with b = x̂ g
    total -= 0.5 * np.sum(
        np.log(1 - a / precision)
        - own**2 / precision
        + 2 * own * mean
        + a * mean**2
        - 2 * a * mean * own / precision
        + a * own**2 / precision**2
    )
    distance = np.mean(delta / prior * ((mean - weights) ** 2 + 1 / precision)) / 2
    return total / weights.size, distance


# --- expectation propagation --------------------------------------------------------------------------------


def expectation_propagation(weights, patterns, labels, delta, sweeps, scale=1.0):
    """Log Z and d, per weight, by damped updates of one Gaussian site a pre-activation, on weights not on patterns.

    The prior is N(w, Δ s²), with scales s > 0 (K, N).
    """
    n_hidden, n_inputs = weights.shape
    prior = delta * np.broadcast_to(scale, weights.shape) ** 2
    x = patterns / np.sqrt(n_inputs)
    nu, tau = np.zeros((len(x), n_hidden)), np.zeros((len(x), n_hidden))
    for _ in range(sweeps):
        means, variances, log_partitions, spreads = [], [], [], []
        for k in range(n_hidden):  # the weights' own Gaussian posterior
            covariance = np.linalg.inv(np.diag(1 / prior[k]) + x.T @ (tau[:, [k]] * x))
            mean = covariance @ (weights[k] / prior[k] + x.T @ nu[:, k])
            means.append(x @ mean)
            variances.append(np.sum(x @ covariance * x, axis=1))
            spreads.append(delta * np.sum(((mean - weights[k]) ** 2 + np.diag(covariance)) / prior[k]))
            log_partitions.append(
                0.5 * np.linalg.slogdet(covariance / prior[k])[1]
                + 0.5 * (mean @ np.linalg.solve(covariance, mean) - weights[k] ** 2 @ (1 / prior[k]))
            )
        m, v = np.transpose(means), np.transpose(variances)
        cavity = 1 / (1 / v - tau)
        omega = cavity * (m / v - nu)
        g, curvature, log_z = output_node(omega, cavity, labels)
        new_m, new_v = omega + cavity * g, cavity - cavity**2 * curvature
        sites = -0.5 * np.log1p(cavity * tau) + 0.5 * (cavity * nu**2 + 2 * omega * nu - omega**2 * tau) / (
            1 + cavity * tau
        )
        tau += 0.5 * (1 / new_v - 1 / cavity - tau)
        nu += 0.5 * (new_m / new_v - omega / cavity - nu)
    total = sum(log_partitions) + log_z.sum() - sites.sum()
    return total / weights.size, sum(spreads) / (2 * weights.size)
