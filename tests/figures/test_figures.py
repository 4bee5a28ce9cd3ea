"""Fig. 1: the paper's claim on the stored results, and drawing without computing."""

import csv
import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from figures import estimators
from figures.draw.style import DROPOUT_LOOKS
from figures.fig1 import FIG1
from figures.fig6 import FIG6
from figures.measure import measures
from figures.measure.experiment import collect
from figures.program import main
from tests.stored import STORED, forbid_computing
from training.committee.protocols import PROTOCOLS
from training.committee.results import STOPPED

QUICK = FIG1.presets["quick"]
SHARPEST_FIRST = ("sgd-fast", "sgd-slow", "rsgd-fast", "rsgd-slow", "esgd")


@pytest.fixture
def no_computing(monkeypatch):
    forbid_computing(monkeypatch)


def series_of(preset):
    folder = STORED.with_name(f"fig1-{preset}")
    preset = FIG1.presets[preset]
    return {s.name: s for s in collect(preset.apply(FIG1.protocols), preset.restarts, folder, ep=preset.ep)}


@pytest.fixture
def series(no_computing):
    return series_of("quick")


@pytest.mark.parametrize("preset", ["quick", "paper"])
class TestClaim:
    """What the stored results of both presets say of the paper's Fig. 1."""

    @pytest.fixture
    def series(self, no_computing, preset):
        return series_of(preset)

    def test_restarts(self, series, preset):
        assert list(series) == list(PROTOCOLS)
        assert all(len(s.minima.restart) == {"quick": 3, "paper": 50}[preset] for s in series.values())

    def test_local_entropy(self, series):
        """The order of the means for d from 0.1 to 0.5."""
        distance = np.mean(series["esgd"].entropy.distance, axis=0)
        inside = (distance > 0.0999) & (distance < 0.5001)
        assert np.count_nonzero(inside) >= 5
        phi = np.array([np.mean(series[name].entropy.phi, axis=0)[inside] for name in SHARPEST_FIRST])
        assert np.all(np.diff(phi[:4], axis=0) > 0) and np.all(phi[4] > phi[2])

    def test_local_energy(self, series):
        """The same order for σ from 0.5 to 1."""
        sigma = series["esgd"].energy.sigma
        inside = (sigma >= 0.5) & (sigma <= 1)
        rise = np.array([np.mean(series[name].energy.delta_error, axis=0)[inside] for name in SHARPEST_FIRST])
        assert np.all(np.diff(rise[:4], axis=0) < 0) and np.all(rise[4] < rise[2])

    def test_test_error(self, series):
        """SGD fast errs most."""
        errors = {name: s.minima.test_error.mean() for name, s in series.items()}
        assert max(errors, key=errors.get) == "sgd-fast"

    def test_every_point_converged(self, series):
        for name, s in series.items():
            assert s.entropy.converged.all(), name
            assert s.entropy_ep is None or s.entropy_ep.converged.all(), name
            assert len(s.entropy.phi) == len(s.minima.restart), name


class TestPaperScale:
    """What 50 restarts say beyond that."""

    @pytest.fixture
    def minima(self, no_computing):
        return {name: s.minima for name, s in series_of("paper").items()}

    def test_test_errors(self, minima):
        """The ranking of the paper in the means; the entropic algorithms do not differ, by Welch's t at 95 %."""
        fast, slow, *entropic = (minima[name].test_error for name in SHARPEST_FIRST)
        assert fast.mean() > slow.mean() > max(errors.mean() for errors in entropic)
        assert stats.ttest_ind(fast, slow, equal_var=False).confidence_interval().low > 0.01
        step = stats.ttest_ind(slow, np.concatenate(entropic), equal_var=False).confidence_interval()
        assert -0.0005 < step.low < step.high < 0.003  # small, and hardly told from none
        for first, second in itertools.combinations(entropic, 2):
            interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
            assert interval.low < 0 < interval.high

    def test_balanced_test_errors(self, minima):
        """RSGD slow errs less than the flatter eSGD and the sharper rSGD fast, which are alike."""
        slow, fast, esgd = (minima[name].test_error_balanced for name in ("rsgd-slow", "rsgd-fast", "esgd"))
        for errors in (fast, esgd):
            assert stats.ttest_ind(errors, slow, equal_var=False).confidence_interval().low > 0.01
        interval = stats.ttest_ind(fast, esgd, equal_var=False).confidence_interval()
        assert interval.low < 0 < interval.high

    def test_endings(self, minima):
        """All but SGD slow end by their rules; few minima keep errors, at most two."""
        for name, m in minima.items():
            assert np.all(m.train_error <= 2 / 500 + 1e-9)
            assert np.count_nonzero(m.status == STOPPED) == (36 if name == "sgd-slow" else 50)
        solved = {name: np.count_nonzero(m.train_error == 0) for name, m in minima.items()}
        assert solved == {"sgd-fast": 50, "sgd-slow": 36, "rsgd-fast": 48, "rsgd-slow": 50, "esgd": 46}

    def test_expectation_propagation_agrees_on_the_order(self, no_computing):
        """The order at d = 0.05 and 0.25."""
        series = series_of("paper")
        phi = np.array([series[name].entropy_ep.phi.mean(axis=0) for name in SHARPEST_FIRST])
        assert phi.shape == (5, 2) and np.all(np.diff(phi, axis=0) > 0)


class TestDrawing:
    @pytest.fixture
    def folder(self, tmp_path):
        for path in STORED.glob("*.npz"):
            shutil.copy(path, tmp_path)
        return tmp_path

    def test_second_call_only_draws(self, folder, no_computing, capsys):
        assert main(FIG1, ["--results", str(folder)]) == 0
        printed = capsys.readouterr().out
        for name in ("fig1.pdf", "fig1.png", "fig1.csv"):
            assert (folder / name).stat().st_size > 1000 and name in printed

    def test_numbers_are_those_of_the_results(self, folder, no_computing, series):
        main(FIG1, ["--results", str(folder)])
        with open(folder / "fig1.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for name, one in series.items():
            means = [
                float(row["value"])
                for row in rows
                if (row["panel"], row["series"], row["quantity"]) == ("local entropy", name, "mean")
            ]
            assert_allclose(means, one.entropy.phi.mean(axis=0), rtol=1e-6)
            errors = [float(r["value"]) for r in rows if (r["series"], r["quantity"]) == (name, "test_error")]
            assert_allclose(errors, one.minima.test_error, rtol=1e-6)

    def test_damaged_result_is_named(self, folder, capsys):
        path = folder / "sgd-slow-entropy.npz"
        path.write_bytes(path.read_bytes()[:1000])
        assert main(FIG1, ["--results", str(folder)]) == 2
        assert "sgd-slow-entropy.npz is not a whole bpflat file" in capsys.readouterr().err

    def test_results_of_another_preset_are_refused(self, folder, capsys):
        assert main(FIG1, ["--results", str(folder), "--preset", "paper"]) == 2
        assert ".npz is of another run" in capsys.readouterr().err

    def test_measures_of_other_weights_are_made_again(self, folder, series, monkeypatch):
        """A curve that does not belong to the minima is never drawn."""
        one = series["sgd-slow"]
        other = type(one.minima)(**{**vars(one.minima), "weights": one.minima.weights[::-1]})
        calls = []
        monkeypatch.setattr("bpflat.local_energy", lambda *a, **o: calls.append(a) or one.energy)
        entropy = replace(one.entropy, beta=np.full(one.entropy.phi.shape, np.inf))
        monkeypatch.setattr("bpflat.local_entropy", lambda *a, **o: calls.append(a) or entropy)
        measures.measure([other], folder, n_jobs=1)
        assert len(calls) == 2


def test_presets_differ_in_restarts_alone():
    for name, restarts in (("quick", 3), ("paper", 50)):
        preset = FIG1.presets[name]
        assert preset.apply(FIG1.protocols) == list(PROTOCOLS.values())
        assert preset.note.startswith(f"{restarts} restarts of each algorithm; schedules of the paper.")


class TestFig6:
    """50 restarts with the paper's schedules: more dropout, flatter minima, fewer test errors."""

    @pytest.fixture
    def by_dropout(self, no_computing):
        preset = FIG6.presets["paper"]
        return collect(preset.apply(FIG6.protocols), preset.restarts, STORED.with_name("fig6-paper"))

    def test_claim(self, by_dropout):
        errors = [one.minima.test_error.mean() for one in by_dropout]
        assert errors == sorted(errors, reverse=True)
        phi = np.array([one.entropy.phi.mean(axis=0) for one in by_dropout])
        assert np.all(np.diff(phi, axis=0) > 0)
        sigma = by_dropout[0].energy.sigma
        rise = np.array([one.energy.delta_error.mean(axis=0) for one in by_dropout])[:, sigma >= 0.5]
        assert np.all(np.diff(rise, axis=0) < 0)

    def test_honest_status(self, by_dropout):
        """Two restarts reached the cap with training errors: they are counted, and have a local entropy."""
        for one in by_dropout:
            solved = one.minima.train_error == 0
            assert np.all((one.minima.status == STOPPED) == solved)
            assert len(one.entropy.phi) == 50 and np.count_nonzero(solved) >= 49


def test_fig6_is_sgd_fast_with_dropout():
    for protocol in FIG6.protocols:
        assert protocol.name in DROPOUT_LOOKS and protocol.algorithm == "sgd" and protocol.stop == "zero-errors"
    assert [p.dropout for p in FIG6.protocols] == sorted({p.dropout for p in FIG6.protocols})


class TestEstimators:
    @pytest.fixture
    def curves(self, no_computing):
        return estimators.measure(STORED, STORED.with_name("estimators"), n_jobs=1)

    def test_ranking_holds(self, curves):
        """Every method ranks SGD fast < SGD slow < rSGD fast < rSGD slow, eSGD from d = 0.05 on."""
        for method in estimators.METHODS:
            phi = np.array([curves[name][method].phi[0, 3:] for name in SHARPEST_FIRST])
            assert np.all(np.diff(phi[:4], axis=0) > 0) and np.all(phi[4] > phi[2])

    def test_everything_converged_and_is_drawn(self, curves, tmp_path):
        for by_method in curves.values():
            for curve in by_method.values():
                assert curve.converged.all() and curve.phi.shape == (1, 6)
        for path in STORED.with_name("estimators").glob("*.npz"):
            shutil.copy(path, tmp_path)
        assert estimators.main(["--results", str(tmp_path)]) == 0
        assert (tmp_path / "estimators.pdf").stat().st_size > 1000

    def test_bias_of_belief_propagation(self, curves):
        """What the manual says: how many times too low both are at most, from d = 0.05 on."""
        named = {
            "bp": {"sgd-fast": 1.85, "sgd-slow": 1.65, "rsgd-fast": 1.56},
            "ep": {"sgd-fast": 1.04, "sgd-slow": 1.25, "rsgd-fast": 1.34},
        }
        for method, by_protocol in named.items():
            for name, factor in by_protocol.items():
                worst = np.max((curves[name][method].phi / curves[name]["mcmc"].phi)[0, 3:])
                assert worst == pytest.approx(factor, abs=0.005), (method, name)


def test_weights_can_be_dropped(tmp_path, no_computing):
    """A folder without weights still draws the same, and says so when something must be measured."""
    for path in STORED.glob("*.npz"):
        shutil.copy(path, tmp_path)
    assert main(FIG1, ["--results", str(tmp_path), "--drop-weights"]) == 0
    first = (tmp_path / "fig1.csv").read_bytes()
    assert (tmp_path / "sgd-slow.npz").stat().st_size < (STORED / "sgd-slow.npz").stat().st_size / 5
    assert main(FIG1, ["--results", str(tmp_path)]) == 0
    assert (tmp_path / "fig1.csv").read_bytes() == first
    (tmp_path / "sgd-slow-energy.npz").unlink()
    with pytest.raises(ValueError, match="stored without weights"):
        collect(QUICK.apply(FIG1.protocols), QUICK.restarts, tmp_path)
