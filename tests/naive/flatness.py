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


def replica_exchange(energy, z, betas, n_sweeps, rng, normal, tries):
    """Energies (C, n_sweeps, T) and final |z|² (C, n_sweeps) of states z[c][t], lists of numbers, changed in place.

    Elliptical slice sampling (Murray, Adams & MacKay 2010, Fig. 2) of every state, then exchanges of even or odd
    neighbours.  `rng` gives the uniform and exponential numbers, `normal()` a sample of the prior.
    """
    n_chains, n_betas = len(z), len(betas)
    energies, norms = [], []
    for sweep in range(n_sweeps):
        exponential = rng.standard_exponential(n_chains * n_betas)
        uniform = rng.random((n_chains * n_betas, tries))
        for i in range(n_chains * n_betas):
            c, t = divmod(i, n_betas)
            nu = normal()
            if betas[t] == 0:
                z[c][t] = nu
                continue
            threshold = energy(z[c][t]) + exponential[i] / betas[t]
            theta = 2 * math.pi * uniform[i, 0]
            low, high = theta - 2 * math.pi, theta
            for k in range(tries):
                theta = low + uniform[i, k] * (high - low) if k else theta
                proposal = [a * math.cos(theta) + b * math.sin(theta) for a, b in zip(z[c][t], nu, strict=True)]
                if energy(proposal) <= threshold:
                    z[c][t] = proposal
                    break
                low, high = (theta, high) if theta < 0 else (low, theta)
        for t in range(sweep % 2, n_betas - 1, 2):
            exponential = rng.standard_exponential(n_chains)
            for c in range(n_chains):
                gain = (betas[t + 1] - betas[t]) * (energy(z[c][t + 1]) - energy(z[c][t]))
                if math.exp(-exponential[c]) < math.exp(min(gain, 0.0)):  # the former is uniform
                    z[c][t], z[c][t + 1] = z[c][t + 1], z[c][t]
        energies.append([[energy(state) for state in chain] for chain in z])
        norms.append([sum(a * a for a in chain[-1]) for chain in z])
    return np.swapaxes(energies, 0, 1), np.transpose(norms)
