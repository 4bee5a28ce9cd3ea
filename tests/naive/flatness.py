"""Plain twin of `bpflat.flatness`: a loop over draws, parameters and patterns."""

import math

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
