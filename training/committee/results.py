"""What a training run leaves behind: the minima, how they were reached, and everything needed to make them again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bpflat.committee import fingerprint
from bpflat.layout import check_distinct, check_finite, check_layout
from bpflat.provenance import Provenance
from bpflat.storage import StoredResult
from training.committee.protocols import Protocol, current_fields
from training.result_file import json_object

STOPPED = "stopped by its rule"
CAPPED = "reached the cap"
OVERSHOT = "its pull would pass 1"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrainedMinima(StoredResult):
    """Minima of one protocol, one per restart.

    Attributes
    ----------
    weights : ndarray of float32, shape (R, K, N)
        Rows with ``|w_k|² = N``.  For rSGD the normalised centre of the replicas, for eSGD u (not u' or μ).  Of
        shape (0, K, N) where they were left out (see `without_weights`).
    restart : ndarray of int, shape (R,)
        Which restart; with `seed` it fixes initial weights, minibatches and noise.
    seed : int
    epochs : ndarray of int, shape (R,)
        Epochs until the restart ended.
    status : ndarray of str, shape (R,)
        "stopped by its rule", "reached the cap" or "its pull would pass 1" (see `Protocol`).
    train_error, test_error, test_error_balanced : ndarray of float, shape (R,)
        Fractions, with hard signs; NaN without a test set.
    train_loss : ndarray of float, shape (R,)
        Mean loss of the training set with the β and ω of the last epoch.
    distance : ndarray of float, shape (R,)
        Squared distance (see `Protocol`) after the last epoch; NaN for SGD.
    protocol : Protocol
        The resolved configuration.
    device : str
        "cpu" or "cuda".
    data : dict
        Where the patterns are from, such as n_train, data_seed, balanced, train_indices.
    reference : ndarray of str, shape (R,)
        `bpflat.committee.fingerprint` of each machine's weights in float64; results measured around it carry it too.
    provenance : Provenance
        Versions and revision that trained them.
    """

    kind = "trained-minima"
    layout: ClassVar[Mapping[str, str]] = {
        "weights": "f R K N",
        **dict.fromkeys(("restart", "epochs"), "i R"),
        **dict.fromkeys(("status", "reference"), "U R"),
        **dict.fromkeys(("train_error", "train_loss", "test_error", "test_error_balanced", "distance"), "f R"),
        "seed": "i",
        "device": "U",
    }

    weights: NDArray[np.float32]
    restart: NDArray[np.int64]
    seed: int
    epochs: NDArray[np.int64]
    status: NDArray[np.str_]
    train_error: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    test_error: NDArray[np.float64]
    test_error_balanced: NDArray[np.float64]
    distance: NDArray[np.float64]
    protocol: Protocol
    device: str
    data: dict
    reference: NDArray[np.str_] = None

    def __post_init__(self):
        if len(self.weights):  # weights that are there are what is meant, whatever a file says
            object.__setattr__(self, "reference", np.array([fingerprint(w) for w in self.weights.astype(np.float64)]))

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        left_out = {} if len(self.weights) else {"weights": "f W K N"}
        check_layout(vars(self), {**self.layout, **left_out})
        check_finite(vars(self), "weights", "train_error", "train_loss")
        check_distinct(vars(self), "restart")

    def without_weights(self) -> TrainedMinima:
        """Return what is left for tables and pictures when the weights, nearly all of a file's size, are not kept."""
        return dataclasses.replace(self, weights=self.weights[:0])

    def _stored(self) -> dict[str, Any]:
        protocol = dataclasses.asdict(self.protocol)
        return super()._stored() | {"protocol": json.dumps(protocol), "data": json.dumps(self.data)}

    @classmethod
    def _restored(cls, stored: dict[str, Any]) -> dict[str, Any]:
        protocol = Protocol(**current_fields(json_object(stored["protocol"])))
        return super()._restored(stored) | {"protocol": protocol, "data": json_object(stored["data"])}

    @classmethod
    def joined(cls, parts: Sequence[TrainedMinima]) -> TrainedMinima:
        """Results of disjoint sets of restarts as one; of versions and revisions that differ, all are named.

        Raises
        ------
        ValueError
            When a restart is in two parts, or when seed, protocol, device or data differ.
        """
        restart = np.concatenate([part.restart for part in parts])
        if len(set(restart.tolist())) < len(restart):
            raise ValueError(f"restarts {restart.tolist()} are not distinct; join every part once")
        for name in ("seed", "protocol", "device", "data"):
            if any(getattr(part, name) != getattr(parts[0], name) for part in parts):
                raise ValueError(f"{name} differs between parts; join those of one run")
        order = np.argsort(restart)
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])[order]
            for name, value in vars(parts[0]).items()
            if isinstance(value, np.ndarray)
        }
        return dataclasses.replace(parts[0], **arrays, provenance=Provenance.joined(part.provenance for part in parts))

    def summary(self) -> str:
        """One line for each restart, for people."""
        head = f"{'restart':>7} {'epochs':>7} {'train':>8} {'test':>8} {'balanced':>9}  status"
        rows = [
            f"{r:7d} {t:7d} {train:8.2%} {test:8.2%} {balanced:9.2%}  {status}"
            for r, t, train, test, balanced, status in zip(
                self.restart,
                self.epochs,
                self.train_error,
                self.test_error,
                self.test_error_balanced,
                self.status,
                strict=True,
            )
        ]
        return "\n".join([f"{self.protocol.label} (schedule speed {self.protocol.schedule_speed:g})", head, *rows])
