"""Protocols: the paper's numbers, schedules, what is refused, and names under which older results are stored."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from tests.stored import REFERENCE, RESULTS
from tests.training.committee.toy_training import small
from training.committee.protocols import PROTOCOLS, Protocol, current_fields, grow
from training.committee.results import TrainedMinima

OLD = REFERENCE / "version-0.1"
NAN, INF = math.nan, math.inf


def test_protocols_are_those_of_the_paper():
    published = {
        "sgd-fast": {"eta": 2e-4, "beta0": 2.0, "beta1": 1e-4, "omega0": 5.0, "omega1": 0.0},
        "sgd-slow": {"eta": 3e-5, "beta0": 0.5, "beta1": 1e-3, "omega0": 0.5, "omega1": 1e-3},
        "rsgd-fast": {"eta": 1e-4, "y": 10, "gamma0": 2e-3, "gamma1": 2e-3, "beta0": 1.0, "beta1": 2e-4}
        | {"omega0": 0.5, "omega1": 1e-3},
        "rsgd-slow": {"eta": 1e-3, "y": 10, "gamma0": 1e-4, "gamma1": 1e-4, "beta0": 1.0, "beta1": 2e-4}
        | {"omega0": 0.5, "omega1": 1e-3},
        "esgd": {"eta": 1e-3, "eta_prime": 5e-3, "epsilon": 1e-6, "L": 20, "gamma0": 10.0, "gamma1": 5e-5}
        | {"beta0": 1.0, "beta1": 1e-4, "omega0": 0.5, "omega1": 5e-4},
    }
    assert list(PROTOCOLS) == list(published)
    for name, values in published.items():
        protocol = PROTOCOLS[name]
        assert protocol.name == name
        assert {key: getattr(protocol, key) for key in values} == values
        assert (protocol.K, protocol.B) == (9, 100)


def test_schedules_grow_exponentially_and_never_overflow():
    protocol = PROTOCOLS["rsgd-fast"]
    assert protocol.scheduled(0) == pytest.approx((1.0, 0.5, 2e-3))
    assert protocol.scheduled(700) == pytest.approx((1.0002**700, 0.5 * 1.001**700, 2e-3 * 1.002**700))
    faster = dataclasses.replace(protocol, schedule_speed=4.0)
    assert faster.scheduled(100) == pytest.approx(protocol.scheduled(400))
    assert grow(0.5, 1e-3, 1e9) == pytest.approx(1e30)
    assert grow(0.5, -0.5, 1e9) == pytest.approx(1e-30)  # ω = 0 has no loss
    assert grow(0.0, 1e-3, 1e9) == 0.0
    assert grow(0.5, 0.0, INF) == 0.5
    assert PROTOCOLS["sgd-fast"].scheduled(4000).omega == pytest.approx(5.0)


def test_attractions_are_the_products_that_they_are_called():
    rsgd = {pull: small("rsgd-fast", pull=pull, gamma0=0.5, eta=0.01) for pull in ("gamma", "eta gamma", "eta B gamma")}
    values = {pull: protocol.attractions(0)["pull"] for pull, protocol in rsgd.items()}
    assert values == pytest.approx({"gamma": 0.5, "eta gamma": 0.005, "eta B gamma": 0.1})
    assert PROTOCOLS["rsgd-slow"].attractions(100) == pytest.approx({"pull": 1e-3 * 100 * 1e-4 * 1.0001**100})
    assert PROTOCOLS["esgd"].attractions(100) == pytest.approx(
        {"pull": 5e-3 * 10 * 1.00005**100, "outer_step": 1e-3 * 10 * 1.00005**100}
    )
    assert small("esgd", outer_step="eta").attractions(100)["outer_step"] == 1e-3
    assert PROTOCOLS["sgd-fast"].attractions(100) == {}


@pytest.mark.parametrize("changes", [{}, {"pull": "gamma", "start": "equal"}], ids=["defaults", "pull gamma"])
def test_published_protocols_reach_a_pull_of_1_late(changes):
    """Long after their stops: rSGD fast after 2,700 epochs (460 to 770 with γ), slow 32,500 (10,200), eSGD 5,600."""
    last = {"rsgd-fast": 3_000, "rsgd-slow": 50_000, "esgd": 15_000}
    for name, epochs in last.items():
        protocol = dataclasses.replace(PROTOCOLS[name], **(changes if name != "esgd" else {}))
        assert max(protocol.attractions(epochs).values()) <= 1


def changed(name):
    """Changes of a protocol, each with what the message must say."""
    positive = {"eta": 1e-3, "beta0": 1.0, "omega0": 1.0, "schedule_speed": 1.0}
    yield from (("sgd-fast", {key: value}, key) for key in positive for value in (0.0, -1.0, NAN, INF, "x", None))
    rates = ("beta1", "omega1", "gamma1")
    yield from ((name, {key: value}, key) for key in rates for value in (-1.0, -2.0, NAN, INF, [0.1]))
    counts = ("y", "L", "K", "B", "max_epochs")
    yield from (("rsgd-fast", {key: value}, key) for key in counts for value in (0, -1, 2.0, 2.5, NAN, True, "3", None))
    yield from (("esgd", {"alpha": value}, "alpha") for value in (1.0, -0.1, 2.0, NAN))
    yield from (("esgd", {"eta_prime": value}, "eta_prime") for value in (0.0, -1e-3, NAN, INF))
    yield from (("esgd", {"epsilon": value}, "epsilon") for value in (-1e-6, NAN, INF))
    yield from ((n, {"gamma0": value}, "gamma0") for n in ("rsgd-fast", "esgd") for value in (-1e-3, NAN, INF))
    yield from (("sgd-slow", {"tolerance": value}, "tolerance") for value in (0.0, -1.0, NAN, INF))
    yield from (("sgd-fast", {"tolerance": value}, "tolerance") for value in (-1.0, NAN))
    yield from (("sgd-fast", {"dropout": value}, "dropout") for value in (1.0, -0.1, NAN))
    words = ("algorithm", "stop", "reduction", "start", "pull", "outer_step", "name", "label")
    yield from (("rsgd-fast", {key: value}, key) for key in words for value in (NAN, None, ["sum"], ""))


@pytest.mark.parametrize(("name", "changes", "field"), list(changed("rsgd-fast")))
def test_a_field_out_of_its_range_is_named(name, changes, field):
    with pytest.raises(ValueError, match=rf"\b{field}\b"):
        dataclasses.replace(PROTOCOLS[name], **changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sgd-fast", {"K": 8}, "K must be odd"),
        ("sgd-fast", {"reduction": "median"}, "reduction 'median' is unknown"),
        ("rsgd-fast", {"start": "same"}, "start .* is unknown"),
        ("rsgd-fast", {"pull": "strong"}, "pull .* is unknown"),
        ("esgd", {"outer_step": "gamma"}, "outer_step .* is unknown"),
        ("sgd-fast", {"y": 3}, "y = 3 needs algorithm='rsgd', not 'sgd'; leave it at 1"),
        ("sgd-fast", {"L": 2}, "L = 2 needs algorithm='esgd'"),
        ("sgd-fast", {"gamma0": 0.1}, "gamma0 = 0.1 needs algorithm='rsgd' or 'esgd'"),
        ("sgd-fast", {"pull": "gamma"}, "pull = 'gamma' needs algorithm='rsgd' or 'esgd'"),
        ("esgd", {"start": "equal"}, "start = 'equal' needs algorithm='rsgd', not 'esgd'"),
        ("rsgd-fast", {"outer_step": "eta"}, "outer_step = 'eta' needs algorithm='esgd'"),
        ("sgd-fast", {"stop": "distance", "tolerance": 1.0}, "needs algorithm='rsgd' or 'esgd'"),
        ("rsgd-fast", {"y": 1}, "y must be at least 2 for stop='distance'"),
        ("esgd", {"gamma0": 0.0}, "gamma0 must be positive for outer_step='eta gamma'"),
        ("sgd-slow", {"tolerance": 0.0}, "tolerance must be positive"),
    ],
)
def test_fields_must_go_together(name, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PROTOCOLS[name], **changes)


def test_what_is_at_the_edge_is_allowed():
    dataclasses.replace(PROTOCOLS["rsgd-fast"], y=1, stop="mean-loss")
    dataclasses.replace(PROTOCOLS["rsgd-fast"], gamma0=0.0)
    dataclasses.replace(PROTOCOLS["esgd"], alpha=0.0, epsilon=0.0, gamma0=0.0, outer_step="eta")  # Lookahead
    dataclasses.replace(PROTOCOLS["sgd-fast"], beta1=-0.99, omega1=-0.5)


def test_configurations_are_json():
    """Also of numbers that numpy made."""
    for protocol in PROTOCOLS.values():
        protocol = dataclasses.replace(protocol, K=np.int64(5), eta=np.float32(0.5), schedule_speed=2)
        assert Protocol(**json.loads(json.dumps(dataclasses.asdict(protocol)))) == protocol


# results of the first release


@pytest.mark.parametrize("folder", ["fig1-paper", "fig1-quick"])
def test_stored_minima_are_of_todays_protocols(folder):
    for name, protocol in PROTOCOLS.items():
        found = TrainedMinima.load(RESULTS / folder / f"{name}.npz")
        assert found.protocol == protocol
        assert all(value <= 1 for t in found.epochs for value in found.protocol.attractions(t).values())


def test_stored_conventions_are_read_under_their_new_names():
    stored = {"esgd-batch": "eta B gamma", "rsgd-fast-plain": "eta gamma"}
    for name, pull in stored.items():
        protocol = TrainedMinima.load(OLD / f"{name}.npz").protocol
        assert (protocol.start, protocol.pull) == ("independent", pull)
    assert TrainedMinima.load(OLD / "esgd-batch.npz").protocol.outer_step == "eta B gamma"
    for algorithm in ("sgd", "rsgd"):
        fields = current_fields({"algorithm": algorithm, "coupling": "batch", "eta": 1.0})
        wanted = {"algorithm": algorithm, "eta": 1.0, "start": "independent", "outer_step": "eta gamma"}
        assert fields == wanted | {"pull": "eta gamma" if algorithm == "sgd" else "eta B gamma"}
        assert current_fields(fields) == fields
