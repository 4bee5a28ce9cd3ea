"""What the training of a deep network leaves behind: its curves, its last errors, and how it was made."""

from __future__ import annotations

import csv
import dataclasses
import io
import os

import numpy as np
from numpy.typing import NDArray

from bpflat.layout import check_finite, check_layout
from bpflat.storage import atomic_write, damage_named
from training.result_file import load_record, save_record

KIND = "deep-run"
LAYOUT = {
    **dict.fromkeys(("row", "column", "device", "git_revision"), "U"),
    **dict.fromkeys(("seed", "epochs", "n_train", "n_test", "n_parameters"), "i"),
    **dict.fromkeys(("epochs_scale", "train_loss", "train_error", "test_loss", "test_error", "gamma0"), "n"),
}
FLATNESS_LAYOUT = {
    "epoch": "i E",
    "sigma": "f S",
    **dict.fromkeys(("delta_error", "std_error"), "f E S"),
    **dict.fromkeys(("train_loss", "train_error", "test_error"), "f E"),
    "n_samples": "i",
}


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """One line of a run's curves.

    Attributes
    ----------
    epoch : int
        Epochs done, as the recipe counts them.
    passes : float
        Passes over the training data so far, of all replicas and inner steps together.
    eta, gamma : float
        Learning rate and coupling of the last step; γ is NaN for the baseline.
    train_loss, train_error : float
        Mean over the minibatches of the epoch, as they were trained on: augmented, at w' or at the replicas.
    test_loss, test_error : float
        Loss and error of the centre w or w̄ on the whole test set; NaN where it was not evaluated.
    distance : float
        d(w', w) of eSGD, the mean of d(w^a, w̄) of rSGD (eq. 2), after the epoch; NaN for the baseline.
    images_per_second : float
        Trained on, of all replicas together, evaluation not counted.
    """

    epoch: int
    passes: float
    eta: float
    gamma: float
    train_loss: float
    train_error: float
    test_loss: float
    test_error: float
    distance: float
    images_per_second: float


@dataclasses.dataclass(frozen=True, eq=False)
class FlatnessHistory:
    """Local energy of the centre w̄ or w at some epochs of a run (Figs. 3 and 5).

    Attributes
    ----------
    epoch : ndarray of int, shape (E,)
        Epochs done when it was measured; rising.
    sigma : ndarray, shape (S,)
        Noise amplitudes σ.
    delta_error, std_error : ndarray, shape (E, S)
        δE (eq. 4) on training images, augmented as in training (B.2), and its standard error over the draws.
    train_loss, train_error, test_error : ndarray, shape (E,)
        Loss and errors of the unperturbed centre on images that are not augmented; errors are fractions.
    n_samples : int
        Draws at each σ.
    """

    epoch: NDArray[np.int64]
    sigma: NDArray[np.float64]
    delta_error: NDArray[np.float64]
    std_error: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    train_error: NDArray[np.float64]
    test_error: NDArray[np.float64]
    n_samples: int


METRICS = tuple(field.name for field in dataclasses.fields(EpochMetrics))


def write_csv(path: str | os.PathLike, curves: list[EpochMetrics]) -> None:
    """Write the curves as a table, atomically."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(METRICS)
    rows.writerows([f"{value:.6g}" for value in dataclasses.astuple(row)] for row in curves)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


@dataclasses.dataclass(frozen=True, eq=False)
class DeepRun:
    """One training of one recipe.

    Attributes
    ----------
    row, column : str
        Cell of Table 1.
    seed : int
    epochs : int
        Epochs that were run: the recipe's times the scale, or fewer where a loss ended the run.
    epochs_scale : float
        Factor by which all schedules were shortened.
    n_train, n_test : int
        Images.
    train_loss, train_error, test_loss, test_error : float
        Loss and error of the centre w̄ or w after the last epoch, in evaluation mode; errors are fractions.  Statistics
        of BatchNorm are running ones, of the centre as in `training.deep.trainer.centre`.
    n_parameters : int
    gamma0 : float
        First γ of eq. 6, printed or automatic; NaN for the baseline and for cosine focusing.
    curves : ndarray of float, shape (epochs, len(METRICS))
        A line for each epoch, columns `METRICS`.
    configuration : dict
        The resolved recipe and everything else that decides the result.
    device : str
    versions : dict
    git_revision : str
    flatness : FlatnessHistory, optional
        Where it was asked for.
    """

    row: str
    column: str
    seed: int
    epochs: int
    epochs_scale: float
    n_train: int
    n_test: int
    train_loss: float
    train_error: float
    test_loss: float
    test_error: float
    n_parameters: int
    gamma0: float
    curves: NDArray[np.float64]
    configuration: dict
    device: str
    versions: dict
    git_revision: str
    flatness: FlatnessHistory | None = None

    def curve(self, name: str) -> NDArray[np.float64]:
        """One column of the curves, by its name in `METRICS`."""
        return self.curves[:, METRICS.index(name)]

    def save(self, path: str | os.PathLike) -> None:
        """Write to `path` (.npz), atomically; raises OSError as `bpflat.storage.save_npz`."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        if self.flatness is not None:
            fields |= {_PREFIX + name: getattr(self.flatness, name) for name in _FLATNESS_FIELDS}
        save_record(path, KIND, fields, _JSON)

    @classmethod
    def load(cls, path: str | os.PathLike) -> DeepRun:
        """Read what `save` wrote; raises FileNotFoundError or ValueError as `bpflat.storage.load_npz`."""
        stored = load_record(path, KIND, _FIELDS, _JSON)
        fields = {name: stored[name] for name in _FIELDS}
        with damage_named(path):
            if _PREFIX + "epoch" in stored:
                fields["flatness"] = FlatnessHistory(**{name: stored[_PREFIX + name] for name in _FLATNESS_FIELDS})
            run = cls(**fields)
            run.check()
        return run

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        check_layout(vars(self), LAYOUT)
        if self.curves.shape != (self.epochs, len(METRICS)) and self.epochs:  # none are an array without columns
            raise ValueError(f"curves must have shape ({self.epochs}, {len(METRICS)}), not {self.curves.shape}")
        if not (isinstance(self.configuration, dict) and isinstance(self.versions, dict)):
            raise ValueError("configuration and versions must be objects of JSON")
        if not isinstance(self.configuration.get("recipe"), dict) or "model" not in self.configuration["recipe"]:
            raise ValueError("configuration must hold a recipe with its model")
        if self.flatness is not None:
            check_layout(vars(self.flatness), FLATNESS_LAYOUT)
            check_finite(vars(self.flatness), "sigma")

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{self.row} {self.column} seed {self.seed}: {self.epochs} epochs on {self.n_train} images; train error "
            f"{self.train_error:.2%}, loss {self.train_loss:.4f}; test error {self.test_error:.2%}"
        )


_JSON = ("configuration", "versions")
_PREFIX = "flatness_"
_FIELDS = tuple(field.name for field in dataclasses.fields(DeepRun) if field.name != "flatness")
_FLATNESS_FIELDS = tuple(field.name for field in dataclasses.fields(FlatnessHistory))
