"""What both public results have in common: files, old ones too, comparison, pictures, provenance."""

import dataclasses

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import bpflat
from bpflat import LocalEnergyProfile, LocalEntropyCurve
from bpflat.provenance import Provenance
from bpflat.storage import read_npz

matplotlib.use("Agg")
HERE = Provenance({"bpflat": "9.9", "torch": "2.9+cpu"}, "0123abcd")


def profile(n_references):
    shape = (3,) if n_references is None else (n_references, 3)
    delta_error = np.linspace(0, 0.4, np.prod(shape)).reshape(shape)
    delta_error[..., 1] = np.nan
    train_error = 0.1 if n_references is None else np.full(n_references, 0.1)
    return LocalEnergyProfile(np.array([0.0, 0.5, 1.0]), delta_error, delta_error / 9, train_error, 20, "a", None)


def curve(n_references):
    shape = (3,) if n_references is None else (n_references, 3)
    phi = np.linspace(-0.4, -0.1, np.prod(shape)).reshape(shape)
    phi[..., 1] = np.nan
    numbers = [phi**2, phi**2 / 2, 2 * phi, phi, -phi / 9, np.isfinite(phi), np.full(shape, 12)]
    train_error = 0.1 if n_references is None else np.full(n_references, 0.1)
    return LocalEntropyCurve(*numbers, train_error, "mcmc", np.full(shape, np.inf), "a")


@pytest.fixture(params=[curve, profile])
def make(request):
    """A function that makes a result of one reference (None) or some; it holds NaN."""
    return request.param


@pytest.fixture(params=[None, 3], ids=["one", "three"])
def result(make, request):
    return make(request.param)


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


class TestComparison:
    def test_equal(self, make, result):
        again = dataclasses.replace(result)
        assert result == again
        assert result == dataclasses.replace(result, provenance=HERE)

    def test_each_field_counts(self, result):
        for field in dataclasses.fields(result):
            value = getattr(result, field.name)
            if field.name == "provenance":
                continue
            other = "other" if isinstance(value, str) else 0.25 if value is None else np.zeros_like(value) + 7
            assert result != dataclasses.replace(result, **{field.name: other}), field.name

    def test_shapes_count(self, make):
        assert make(None) != make(1) and make(2) != make(3)

    def test_other_things(self, result):
        assert result != 3 and result is not None and result not in ["a", None]


class TestFiles:
    def test_round_trip(self, result, tmp_path):
        result = dataclasses.replace(result, provenance=HERE)
        result.save(tmp_path / "folder" / "result.npz")
        back = type(result).load(tmp_path / "folder" / "result.npz")
        assert back == result and back.provenance == HERE
        for name, value in vars(result).items():
            assert type(getattr(back, name)) is type(value), name

    def test_files_without_provenance(self, result, tmp_path):
        """Files that version 0.1.0 wrote."""
        result.save(tmp_path / "new.npz")
        arrays = read_npz(tmp_path / "new.npz")
        del arrays["provenance"]
        np.savez_compressed(tmp_path / "old.npz", **arrays)
        back = type(result).load(tmp_path / "old.npz")
        assert back == result and back.provenance == Provenance({}, "unknown")

    @pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"versions": 3, "git_revision": "a"}', '"versions"'])
    def test_damaged_provenance(self, result, tmp_path, text):
        result.save(tmp_path / "result.npz")
        np.savez_compressed(tmp_path / "result.npz", **(read_npz(tmp_path / "result.npz") | {"provenance": text}))
        with pytest.raises(ValueError, match=r"result\.npz is damaged or .* make it again"):
            type(result).load(tmp_path / "result.npz")

    def test_kinds_are_told_apart(self, result, tmp_path):
        result.save(tmp_path / "result.npz")
        (other,) = {LocalEnergyProfile, LocalEntropyCurve} - {type(result)}
        with pytest.raises(ValueError, match=f"kind {result.kind!r}, not {other.kind!r}"):
            other.load(tmp_path / "result.npz")


class TestPlot:
    def test_new_axes_by_default(self, result):
        present = plt.figure().add_subplot()
        axes = result.plot()
        assert axes is not present and axes.figure is not present.figure and not present.lines
        assert result.plot() is not axes

    def test_on_given_axes(self, make, result):
        given = plt.figure().add_subplot()
        plt.figure()
        assert result.plot(ax=given, color="C3") is given
        x, y, _ = next(iter(result._curves()))
        assert_array_equal(given.lines[0].get_xdata(), x)
        assert_array_equal(given.lines[0].get_ydata(), y)
        assert len(given.collections) == len(list(result._curves()))  # the errors
        assert given.get_xlabel() and given.get_ylabel()

    def test_one_label(self, result):
        assert result.plot(label="SGD").get_legend_handles_labels()[1] == ["SGD"]

    def test_bad_axes(self, result):
        with pytest.raises(ValueError, match="ax must be matplotlib Axes, not 3"):
            result.plot(3)


class TestProvenance:
    def test_of_a_measurement(self):
        weights, patterns = np.ones((1, 5)), np.ones((3, 5))
        problem = weights, patterns, np.ones(3)
        energy, entropy = bpflat.local_energy(*problem, [0.1], n_samples=2), bpflat.local_entropy(*problem, [0.1])
        assert energy.provenance == entropy.provenance
        versions = entropy.provenance.versions
        assert versions["bpflat"] == bpflat.__version__ and versions["numpy"] == np.__version__
        assert set(versions) == {"bpflat", "numpy", "torch", "python"}

    def test_joined(self):
        other = Provenance({"bpflat": "9.8", "torch": "2.9+cpu"}, "0123abcd")
        assert Provenance.joined([HERE, HERE]) == HERE
        assert Provenance.joined([HERE, other]).versions == {"bpflat": "9.8, 9.9", "torch": "2.9+cpu"}
        assert Provenance.joined([HERE, Provenance()]).git_revision == "0123abcd, unknown"

    def test_outside_of_a_checkout(self, tmp_path, monkeypatch):
        """Installed within somebody's repository: its revision is not bpflat's."""
        from bpflat import provenance

        monkeypatch.setattr(provenance, "__file__", str(tmp_path / "site-packages" / "bpflat" / "provenance.py"))
        assert provenance.git_revision.__wrapped__() == "unknown"


class TestCumulants:
    """What a curve holds of ``log ⟨e^{-βE}⟩``."""

    @pytest.mark.parametrize("n_references", [None, 3])
    def test_held_and_stored(self, n_references, tmp_path):
        shape = (3, 4) if n_references is None else (n_references, 3, 4)
        n_weights = 60 if n_references is None else np.full(n_references, 60)
        held = np.random.default_rng(0).normal(size=(3, *shape))
        arrays = dict(zip(("log_mean_exp", "log_mean_exp_error", "mean_errors"), held, strict=True))
        betas = np.array([0.0, 0.5, 2.0, 4.0])
        result = dataclasses.replace(curve(n_references), betas=betas, n_weights=n_weights, **arrays)
        result.save(tmp_path / "curve.npz")
        for cumulants in (result.cumulants(), LocalEntropyCurve.load(tmp_path / "curve.npz").cumulants()):
            assert_array_equal(cumulants.beta, betas)
            assert_array_equal([cumulants.log_mean_exp, cumulants.std_error, cumulants.mean_errors], held)

    def test_not_held(self):
        with pytest.raises(ValueError, match="holds no cumulants; measure it with betas"):
            curve(None).cumulants()
