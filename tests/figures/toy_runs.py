"""Runs of deep networks, networks with their local energy, and minima with both measures, that never were."""

from dataclasses import replace

import numpy as np

from bpflat.provenance import Provenance
from figures.measure.any_model import SCALES, Minimum
from figures.measure.networks import Network
from training.deep.recipes import as_plain, find_recipe
from training.deep.results import METRICS, DeepRun

ROW = "smallconvnet-cifar10"


def saved(folder, column, seed, errors, row=ROW, **changes):
    """A run that never was, with the given test errors (fractions)."""
    recipe = find_recipe(row, column)
    curves = np.full((len(errors), len(METRICS)), np.nan)
    curves[:, METRICS.index("epoch")] = np.arange(1, len(errors) + 1)
    curves[:, METRICS.index("passes")] = recipe.y * recipe.L * np.arange(1, len(errors) + 1)
    curves[:, METRICS.index("test_error")] = errors
    curves[:, METRICS.index("images_per_second")] = 5000
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
        provenance=Provenance({}, "0123abcd4567-dirty"),
    )
    run = replace(run, **changes)
    run.save(folder / f"{recipe.name}-seed{seed}.npz")
    return run


def network(**changes):
    """A network that never was."""
    fields = {
        "name": "toy",
        "architecture": "toy",
        "dropout": 0.0,
        "batch": 8,
        "weight_decay": 0.0,
        "n_train": 100,
        "train_error": 0.0,
        "train_loss": 0.01,
        "test_error": 0.2,
        "fitted": True,
        "sigma": np.array([0.1, 0.5]),
        "delta_error": np.array([0.1, 0.3]),
        "std_error": np.array([0.01, 0.02]),
        "n_samples": 64,
        "setting": "{}",
    }
    return Network(**(fields | changes))


def minimum(phi, delta_error, **changes):
    """A minimum that never was, with one σ and the same measures for both scales."""
    scalar = np.ones((len(SCALES), 1))
    fields = dict.fromkeys(("distance", "passes", "rhat"), scalar)
    fields |= dict.fromkeys(("log_z", "phi"), phi * scalar) | {"delta_error": delta_error * scalar}
    fields |= dict.fromkeys(("phi_error", "delta_error_error"), 0.1 * scalar)
    fields |= dict.fromkeys(("log_mean_exp", "log_mean_exp_error"), np.array([[[0.0, -0.3, -0.6]]] * len(SCALES)))
    fields |= dict.fromkeys(("batch", "seed", "epochs"), 1) | dict.fromkeys(("eta", "train_loss", "seconds"), 0.001)
    fields |= {
        "name": "toy",
        "architecture": "one-layer",
        "algorithm": "baseline",
        "setting": '{"n_train": 10, "stop_loss": 0.01, "recipe": {"epochs": 3}}',
        "train_error": 0.0,
        "test_error": 0.1,
        "balanced_error": 0.2,
        "sigma": np.array([0.5]),
        "scale": np.array(SCALES),
        "n_weights": np.array([3] * len(SCALES)),
        "n_temperatures": np.ones((len(SCALES), 1), dtype=int),
        "beta": np.array([0.0, 1.0, 10.0]),
    }
    return Minimum(**(fields | changes))
