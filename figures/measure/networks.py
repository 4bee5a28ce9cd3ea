"""Networks of one architecture, trained with different regularisers, and δE around them: the data of Fig. 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bpflat.arguments import check_file_name
from bpflat.flatness import local_energy
from bpflat.layout import check_finite
from bpflat.reading import parse_json
from bpflat.storage import StoredResult
from figures.measure.concordance import AVERAGE, granulated_kendall
from figures.measure.statistics import Correlation, centred_ranks, correlate
from training.result_file import json_object

SIGMAS = (0.1, 0.2, 0.3, 0.5)
N_SAMPLES = 64  # perturbations at each σ, as in Fig. 7
NOISE = 0.5  # σ of the paper's figure
REGULARISERS = {"dropout": "dropout", "batch": "batch size", "weight_decay": "weight decay"}
HYPER_PARAMETERS = REGULARISERS | {"eta": "learning rate"}
OVER_ALL = {"pearson": "Pearson r", "spearman": "Spearman ρ", "kendall": "Kendall τ"}
# Names of the correlations, in words: over all networks; of ranks among those that share a regulariser; granulated.
KINDS = (
    OVER_ALL
    | {name: f"ρ, equal {word}" for name, word in REGULARISERS.items()}
    | {f"granulated {name}": f"ψ, {word} alone" for name, word in HYPER_PARAMETERS.items()}
    | {f"granulated {AVERAGE}": "Ψ, average of ψ"}
)


@dataclass(frozen=True, eq=False, repr=False)
class Network(StoredResult):
    """One trained network and the local energy around it.

    Attributes
    ----------
    name : str
    architecture : str
        What all networks that are compared share.
    dropout, weight_decay : float
    batch : int
    n_train : int
        Training images.
    train_error, train_loss, test_error : float
        Without dropout or noise.
    fitted : bool
        Whether the training loss is below the threshold at which training stops.
    sigma, delta_error, std_error : ndarray, shape (S,)
        Profile δE(σ) on training images and its standard error.
    n_samples : int
        Perturbations at each σ.
    setting : str
        JSON of everything that decides the result.
    seed, epochs : int
        The training's; −1 where they are not known.
    eta : float
        First learning rate; 0 where it is not known.
    seconds : float
        Wall time of the training; 0 where it is not known.
    provenance : Provenance
        Versions and revision that trained and measured it, or measured it alone.
    """

    kind = "measured-network"
    layout: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("name", "architecture", "setting"), "U"),
        **dict.fromkeys(("dropout", "weight_decay", "train_error", "train_loss", "test_error", "eta", "seconds"), "n"),
        **dict.fromkeys(("batch", "n_train", "n_samples", "seed", "epochs"), "i"),
        "fitted": "b",
        **dict.fromkeys(("sigma", "delta_error", "std_error"), "f S"),
    }

    name: str
    architecture: str
    dropout: float
    batch: int
    weight_decay: float
    n_train: int
    train_error: float
    train_loss: float
    test_error: float
    fitted: bool
    sigma: NDArray[np.float64]
    delta_error: NDArray[np.float64]
    std_error: NDArray[np.float64]
    n_samples: int
    setting: str
    seed: int = -1
    epochs: int = -1
    eta: float = 0.0
    seconds: float = 0.0

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Standard deviation of the error over perturbations, shape (S,)."""
        return self.std_error * np.sqrt(self.n_samples)

    def check(self) -> None:
        """Raise a ValueError, which names the field, where a field is not what the class says."""
        super().check()
        check_finite(vars(self), "sigma", "delta_error", "std_error")
        check_file_name("name", self.name)
        json_object(self.setting)


def load_networks(folder: Path) -> list[Network]:
    """Read the networks in `folder`, in the order of their names.

    Raises
    ------
    ValueError
        When there is none, or they cannot be compared: other architectures, images, or perturbations.
    """
    networks = [Network.load(path) for path in sorted(folder.glob("*.npz"))]
    if not networks:
        raise ValueError(f"{folder} holds no networks; give --data FILE to train them, or --pgdl FOLDER")
    for what in ("architecture", "n_train", "n_samples", "sigma"):
        values = {str(getattr(network, what)): network.name for network in networks}
        if len(values) > 1:
            raise ValueError(f"the networks in {folder} cannot be compared: their {what} differs, {values}")
    return networks


def correlations(networks: Sequence[Network], seed: int = 0) -> dict[str, list[Correlation]]:
    """Correlations between δE and test error of the fitted networks, at each σ.

    Returns
    -------
    dict
        Lists with an entry for each σ, by the keys of `KINDS`; NaN where no networks share a
        regulariser, or differ in a hyper-parameter alone.

    Raises
    ------
    ValueError
        When fewer than 3 networks are fitted.
    """
    fitted = [network for network in networks if network.fitted]
    if len(fitted) < 3:
        raise ValueError(
            f"a correlation needs at least 3 networks that fit their training data; there are {len(fitted)}"
        )
    rng = np.random.default_rng(seed)
    streams = {"kendall": np.random.default_rng([seed, 1])}  # of its own: the others' resamples are older
    test = np.array([network.test_error for network in fitted])
    alike = np.zeros(len(fitted))
    by_kind = {kind: [] for kind in KINDS}
    for delta in np.transpose([network.delta_error for network in fitted]):
        for kind in OVER_ALL:
            by_kind[kind].append(correlate(delta, test, alike, kind=kind, rng=streams.get(kind, rng)))
        for name in REGULARISERS:
            groups = np.array([getattr(network, name) for network in fitted])
            ranks = centred_ranks(delta, groups), centred_ranks(test, groups)
            by_kind[name].append(correlate(*ranks, groups, kind="pearson", rng=rng))
        names = (*HYPER_PARAMETERS, "seed")
        settings = {name: [getattr(network, name) for network in fitted] for name in names}
        for name, estimate in granulated_kendall(delta, test, settings, fixed=("seed",)).items():
            by_kind[f"granulated {name}"].append(estimate)
    return by_kind


def precision_of(network: Network) -> str:
    """Number format of the forward passes of the training."""
    return "bfloat16" if parse_json(network.setting).get("bfloat16") else "float32"


def place_of(networks: Sequence[Network], sigma: float) -> int:
    """Index of the networks' σ that is nearest to `sigma`."""
    return int(np.argmin(np.abs(networks[0].sigma - sigma)))


def profile_of(model: nn.Module, inputs, labels, *, subset: int | None, device: str) -> dict:
    """Fields of a `Network` that are its profile; every network sees the same perturbations."""
    subset = None if subset is None or subset >= len(labels) else subset
    options = {"subset": subset, "device": device, "batch_size": 125, "channels_last": True}
    profile = local_energy(model, (inputs, labels), SIGMAS, n_samples=N_SAMPLES, seed=0, **options)
    names = ("sigma", "delta_error", "std_error", "n_samples")
    return {name: getattr(profile, name) for name in names} | {"train_loss": profile.train_loss}
