"""Tables of the minima: they say what the stored results hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from figures import conventions, draws
from figures.draw.summary import correlation_table, protocol_table
from figures.draw.tables import mean_and_error
from figures.draws import NEIGHBOURS, components_table, differences_table, ranking_table
from figures.fig1 import FIG1
from figures.measure import study
from figures.measure.experiment import collect
from figures.measure.study import reading_of
from figures.measure.summary import scalars
from tests.stored import STORED
from training.committee.protocols import PROTOCOLS

QUICK = FIG1.presets["quick"]


@pytest.fixture(scope="module")
def series():
    return collect(QUICK.apply(FIG1.protocols), QUICK.restarts, STORED)


def test_scalars_are_the_curves_points(series):
    minima = scalars(series)
    assert len(minima.protocol) == 5 * QUICK.restarts and list(dict.fromkeys(minima.protocol)) == list(PROTOCOLS)
    here = minima.protocol == "sgd-slow"
    slow = next(s for s in series if s.name == "sgd-slow")
    assert_array_equal(minima.phi_near[here], slow.entropy.phi[:, 2])  # d = 0.05
    assert_array_equal(minima.phi_far[here], slow.entropy.phi[:, 6])  # d = 0.25
    assert_allclose(slow.entropy.distance[:, [2, 6]], [[0.05, 0.25]] * QUICK.restarts, rtol=1e-9)
    assert_array_equal(minima.delta_error[here], slow.energy.delta_error[:, 5])  # σ = 0.5
    assert np.isnan(minima.phi_near_ep).all()


def test_protocol_table(series):
    rows = protocol_table(series).splitlines()
    assert len(rows) == 2 + len(PROTOCOLS)
    mean = 100 * np.mean(series[0].minima.test_error)
    assert rows[2].startswith("| SGD fast | 3/3 |") and f"| {mean:.2f} ±" in rows[2]


def test_correlation_table(series):
    """Two measures of the same valley agree; the order of a table's rows is that of its measures."""
    first = correlation_table(series).splitlines()[2].split(" | ")
    assert first[1] == "δE" and float(first[2].split()[0].replace("−", "-")) < -0.9


def test_mean_and_error():
    assert mean_and_error(np.array([1.0, 3.0, np.nan])) == "2.0 ± 1.0"
    assert mean_and_error(np.array([-1000.0, -3000.0])) == "−2,000 ± 1,000"
    assert mean_and_error(np.array([np.nan, 1.0])) == "—"
    assert mean_and_error(np.array([1e-20, 3e-20])) == "2.0e−20 ± 1.0e−20"


class TestDraws:
    """Tables on made-up draws whose answers are known."""

    @pytest.fixture
    def made_up(self):
        rng = np.random.default_rng(0)
        flatness = np.arange(len(PROTOCOLS))[None, :, None] + 0.1 * rng.normal(size=(8, 5, 2))
        errors = 0.1 - 0.01 * flatness + 0.03 * rng.normal(size=(8, 1, 1))  # flatter is better, a draw shifts all
        quantities = {
            "test_error": 100 * errors,
            "test_error_balanced": 200 * errors,
            "phi_far": flatness - 10,
            "delta_error": -flatness,
        }
        by_protocol = {q: dict(zip(PROTOCOLS, np.moveaxis(v, 1, 0), strict=True)) for q, v in quantities.items()}
        return {"natural": by_protocol}

    def test_differences(self, made_up):
        rows = differences_table(made_up).splitlines()[2:]
        assert len(rows) == len(NEIGHBOURS)
        for row in rows:
            cells = row.split(" | ")
            assert cells[2] == cells[3] == "8 of 8 draws"
            assert_allclose(float(cells[4].split()[0].replace("−", "-")), -1.0, atol=0.2)  # the shift has cancelled

    def test_ranking(self, made_up):
        assert [row.split(" | ")[2] for row in ranking_table(made_up).splitlines()[2:]] == ["−1.00 [−1.00, −1.00]"] * 2

    def test_components(self, made_up):
        """The shift of a draw, 3 %, is seen between draws: 8 of them give it to 25 % (one standard error)."""
        cells = components_table(made_up).splitlines()[2].split(" | ")
        assert 1.5 < float(cells[4]) < 4.5
        assert float(cells[5].rstrip(" |")) < 0.3


class TestStudy:
    """The stored study of conventions."""

    def test_five_protocols_are_readings_of_it(self):
        readings = {name: reading_of(protocol) for name, protocol in PROTOCOLS.items()}
        assert len({*readings.values()}) == 5 and readings.keys() <= {"sgd-fast", "sgd-slow", *PROTOCOLS}
        with pytest.raises(ValueError, match="no reading of esgd"):
            reading_of(replace(PROTOCOLS["esgd"], eta=1.0))

    def test_committed_tables_follow_from_stored_results(self):
        stored = study.load(study.RESULTS)
        assert len(stored["natural"]) == len(stored["balanced"]) == 10
        sizes = json.loads(stored["natural"][0].configuration)
        assert sizes["restarts"] == 3 and sizes["n_train"] == 500
        text = (study.RESULTS / "conventions.md").read_text(encoding="utf-8")
        for table in (conventions.endings_table, conventions.minima_table, conventions.contrast_table):
            assert table(stored, list(study.READINGS)) in text
        values = {sampling: draws.values_of(drawn) for sampling, drawn in stored.items()}
        assert draws.report(values, sizes) == (study.RESULTS / "draws.md").read_text(encoding="utf-8")

    def test_row_overlap(self):
        """Equal rows have overlap 1; of random ones it vanishes like 1/√N; opposite pairs give −1/(K − 1)."""
        assert_allclose(study.row_overlap(np.ones((2, 5, 7))), 1)
        assert_allclose(study.row_overlap(np.array([[1.0, 2.0], [-1.0, -2.0]])), -1)
        assert abs(study.row_overlap(np.random.default_rng(0).normal(size=(9, 10_000)))) < 0.01

    def test_missing_draws_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="fewer than two natural draws; make them: "):
            study.load(tmp_path)
