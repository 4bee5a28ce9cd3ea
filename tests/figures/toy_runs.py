"""Runs of deep networks that never were."""

from dataclasses import replace

import numpy as np

from training.deep_results import METRICS, DeepRun
from training.recipes import as_plain, find_recipe

ROW = "smallconvnet-cifar10"


def saved(folder, column, seed, errors, row=ROW, **changes):
    """A run that never was, with the given test errors (fractions)."""
    recipe = find_recipe(row, column)
    curves = np.full((len(errors), len(METRICS)), np.nan)
    curves[:, METRICS.index("epoch")] = np.arange(1, len(errors) + 1)
    curves[:, METRICS.index("passes")] = recipe.y * recipe.L * np.arange(1, len(errors) + 1)
    curves[:, METRICS.index("test_error")] = errors
    run = DeepRun(
        row=row,
        column=column,
        seed=seed,
        epochs=len(errors),
        epochs_scale=0.1,
        n_train=5000,
        n_test=10_000,
        train_loss=0.1,
        train_error=0.01,
        test_loss=1.0,
        test_error=errors[-1],
        n_parameters=1,
        gamma0=np.nan,
        curves=curves,
        configuration={"recipe": as_plain(recipe)},
        device="cpu",
        versions={},
        git_revision="unknown",
    )
    run = replace(run, **changes)
    run.save(folder / f"{recipe.name}-seed{seed}.npz")
    return run
