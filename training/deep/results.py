"""What the training of a deep network leaves behind: its curves, its last errors, and how it was made."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bpflat.layout import check_finite, check_layout
from bpflat.storage import StoredResult, atomic_write
from training.result_file import json_object


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
    seconds : float
        Wall time since the epoch before ended, or since the run was resumed there: training, evaluation, local energy
        and files.  NaN in runs that were stored before it was kept.
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
    seconds: float = math.nan


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

    layout: ClassVar[Mapping[str, str]] = {
        "epoch": "i E",
        "sigma": "f S",
        **dict.fromkeys(("delta_error", "std_error"), "f E S"),
        **dict.fromkeys(("train_loss", "train_error", "test_error"), "f E"),
        "n_samples": "i",
    }

    epoch: NDArray[np.int64]
    sigma: NDArray[np.float64]
    delta_error: NDArray[np.float64]
    std_error: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    train_error: NDArray[np.float64]
    test_error: NDArray[np.float64]
    n_samples: int


METRICS = tuple(field.name for field in dataclasses.fields(EpochMetrics))
_FEWEST_METRICS = sum(field.default is dataclasses.MISSING for field in dataclasses.fields(EpochMetrics))


def write_csv(path: str | os.PathLike, curves: list[EpochMetrics]) -> None:
    """Write the curves as a table, atomically."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(METRICS)
    rows.writerows([f"{value:.6g}" for value in dataclasses.astuple(row)] for row in curves)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DeepRun(StoredResult):
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
    flatness : FlatnessHistory, optional
        Where it was asked for.
    provenance : Provenance
        Versions and revision that trained it.
    """

    kind = "deep-run"
    layout: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("row", "column", "device"), "U"),
        **dict.fromkeys(("seed", "epochs", "n_train", "n_test", "n_parameters"), "i"),
        **dict.fromkeys(("epochs_scale", "train_loss", "train_error", "test_loss", "test_error", "gamma0"), "n"),
    }

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
    flatness: FlatnessHistory | None = None

    def curve(self, name: str) -> NDArray[np.float64]:
        """One column of the curves, by its name in `METRICS`; NaN where the file is older than it."""
        column, (epochs, columns) = METRICS.index(name), self.curves.shape
        return self.curves[:, column] if column < columns else np.full(epochs, np.nan)

    @property
    def wall_time(self) -> float:
        """Seconds that the epochs took, over all interruptions; NaN where the file does not say.

        Epochs that were lost with a process and run again count once, the time between two processes not at all.
        """
        return float(self.curve("seconds").sum())

    @property
    def training_time(self) -> float:
        """Seconds that the minibatches took, without evaluation: known of every run."""
        images = self.n_train * np.diff(self.curve("passes"), prepend=0.0)
        return float((images / self.curve("images_per_second")).sum())

    def _stored(self) -> dict[str, Any]:
        stored = super()._stored() | {"configuration": json.dumps(self.configuration)}
        flatness = stored.pop("flatness", None)
        return stored | ({} if flatness is None else {_PREFIX + name: getattr(flatness, name) for name in _FLATNESS})

    @classmethod
    def _restored(cls, stored: dict[str, Any]) -> dict[str, Any]:
        fields = super()._restored(stored) | {"configuration": json_object(stored["configuration"])}
        if _PREFIX + "epoch" in stored:
            fields["flatness"] = FlatnessHistory(**{name: stored[_PREFIX + name] for name in _FLATNESS})
        return fields

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        super().check()
        columns = range(_FEWEST_METRICS, len(METRICS) + 1)  # the last are younger than some files
        if self.epochs and not (np.ndim(self.curves) == 2 and len(self.curves) == self.epochs):
            raise ValueError(f"curves must have {self.epochs} lines, not shape {np.shape(self.curves)}")
        if self.epochs and self.curves.shape[1] not in columns:
            raise ValueError(f"curves must have {len(METRICS)} columns, not {self.curves.shape[1]}")
        if not isinstance(self.configuration.get("recipe"), dict) or "model" not in self.configuration["recipe"]:
            raise ValueError("configuration must hold a recipe with its model")
        if self.flatness is not None:
            check_layout(vars(self.flatness), self.flatness.layout)
            check_finite(vars(self.flatness), "sigma")

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{self.row} {self.column} seed {self.seed}: {self.epochs} epochs on {self.n_train} images; train error "
            f"{self.train_error:.2%}, loss {self.train_loss:.4f}; test error {self.test_error:.2%}"
        )


_PREFIX = "flatness_"
_FLATNESS = tuple(field.name for field in dataclasses.fields(FlatnessHistory))
