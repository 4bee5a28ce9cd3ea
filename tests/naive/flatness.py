"""Plain twin of `bpflat.flatness`: a loop over draws, parameters and patterns."""

import math

import numpy as np
import torch


def error_and_loss(model, inputs, targets):
    """Fraction of wrong patterns, and mean cross-entropy, of a model in eval mode, pattern by pattern."""
    model.eval()
    wrong, loss = 0, 0.0
    with torch.no_grad():
        for x, y in zip(inputs, targets, strict=True):
            logits = model(x[None])[0].tolist()
            wrong += logits.index(max(logits)) != int(y)
            loss += math.log(sum(math.exp(v) for v in logits)) - logits[int(y)]
    return wrong / len(inputs), loss / len(inputs)


def rises(model, inputs, targets, sigma, noise, measure=error_and_loss):
    """Rises (n, 2) of error and loss at w + σ z⊙w, for each dict of z by parameter name in `noise`."""
    before = {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}
    at_w = measure(model, inputs, targets)
    found = []
    for z in noise:
        with torch.no_grad():
            for name, p in model.named_parameters(remove_duplicate=False):
                if name in z:
                    p.copy_(before[name] + sigma * z[name] * before[name])
        noisy = measure(model, inputs, targets)
        found.append([noisy[0] - at_w[0], noisy[1] - at_w[1]])
    with torch.no_grad():
        for name, p in model.named_parameters(remove_duplicate=False):
            p.copy_(before[name])
    return torch.tensor(found, dtype=torch.float64)


def replica_exchange(energy, z, betas, n_sweeps, rng, normal, tries, cold=()):
    """Energies (C, n_sweeps, T) and final |z|² (C, n_sweeps) of states z[c][t], lists of numbers, changed in place.

    Elliptical slice sampling (Murray, Adams & MacKay 2010, Fig. 2) of every state, but for every other one at the
    temperatures `cold`, which then step along differences of the rest of those; then exchanges of even or odd
    neighbours, by turns.  `rng` gives the uniform and exponential numbers, `normal()` a sample of the prior.
    """
    n_chains, n_betas = len(z), len(betas)
    energies, norms = [], []
    for sweep in range(n_sweeps):
        moved, others = list(cold[sweep % 2 :: 2]), list(cold[1 - sweep % 2 :: 2])
        ellipses = [(c, t) for c in range(n_chains) for t in range(n_betas) if t not in moved]
        exponential = rng.standard_exponential(len(ellipses))
        uniform = rng.random((len(ellipses), tries))
        for (c, t), e, u in zip(ellipses, exponential, uniform, strict=True):
            z[c][t] = slice_step(energy, z[c][t], normal(), betas[t], e, u)
        lines = [(c, t) for c in range(n_chains) for t in moved]
        if lines:
            first, apart = rng.integers([[0], [1]], len(others), (2, len(lines)))
            numbers = rng.standard_exponential(len(lines)), rng.random((len(lines), tries))
            for (c, t), i, j, e, u, nu in zip(
                lines, first, apart, *numbers, rng.standard_normal(len(lines)), strict=True
            ):
                a, b = z[c][others[i]], z[c][others[(i + j) % len(others)]]
                length = math.dist(a, b)
                along = [(p - q) / length for p, q in zip(a, b, strict=True)]
                x = sum(p * q for p, q in zip(along, z[c][t], strict=True))
                rest = [p - x * q for p, q in zip(z[c][t], along, strict=True)]

                def on_line(x, rest=rest, along=along):
                    return [p + x[0] * q for p, q in zip(rest, along, strict=True)]

                (x,) = slice_step(lambda x, on_line=on_line: energy(on_line(x)), [x], [nu], betas[t], e, u)
                z[c][t] = on_line([x])
        for turn in range(n_betas):
            places = range((sweep + turn) % 2, n_betas - 1, 2)
            exponential = rng.standard_exponential((n_chains, len(places)))
            for c in range(n_chains):
                for k, t in enumerate(places):
                    gain = (betas[t + 1] - betas[t]) * (energy(z[c][t + 1]) - energy(z[c][t]))
                    if math.exp(-exponential[c, k]) < math.exp(min(gain, 0.0)):  # the former is uniform
                        z[c][t], z[c][t + 1] = z[c][t + 1], z[c][t]
        energies.append([[energy(state) for state in chain] for chain in z])
        norms.append([sum(a * a for a in chain[-1]) for chain in z])
    return np.swapaxes(energies, 0, 1), np.transpose(norms)


def slice_step(energy, z, nu, beta, exponential, uniform):
    """A place on the ellipse of z and ν, found with these random numbers; z itself where there is none."""
    if beta == 0:
        return nu
    threshold = energy(z) + exponential / beta
    theta = 2 * math.pi * uniform[0]
    low, high = theta - 2 * math.pi, theta
    for k, number in enumerate(uniform):
        theta = low + number * (high - low) if k else theta
        proposal = [a * math.cos(theta) + b * math.sin(theta) for a, b in zip(z, nu, strict=True)]
        if energy(proposal) <= threshold:
            return proposal
        low, high = (theta, high) if theta < 0 else (low, theta)
    return z
