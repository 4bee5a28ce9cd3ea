"""Fig. 7: a grid of small networks and a toy task of the competition; the stored results say what is committed."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bpflat.flatness import local_energy
from figures import fig7
from figures.draw.networks import levels_of, look_of
from figures.measure import grids, networks, pgdl
from figures.measure.grids import Grid, train_missing
from figures.measure.networks import KINDS, SIGMAS, Network, correlations, load_networks
from figures.measure.pgdl import Architecture, measure_missing
from figures.measure.statistics import UNKNOWN
from tests.figures.toy_runs import network
from tests.training.published.toy_records import crc32c, part, varint, write_records
from training.deep.augment import Augmentation
from training.models.small import VGGLike
from training.published.tfrecords import read_images

TOY = Grid(
    dropout=(0.0, 0.5),
    batch=(10, 20),
    weight_decay=(0.0,),
    width=4,
    blocks=2,
    convolutions=1,
    dense=6,
    size=8,
    n_train=None,
    eta=(0.05,),
    epochs=3,
    stop_loss=2.5,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten colours with noise: 40 training and 20 test images."""
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 215, (10, 1, 1, 3))
    arrays = {}
    for split, n in (("train", 40), ("test", 20)):
        labels = np.arange(n) % 10
        images = (colours[labels] + rng.integers(-40, 41, (n, 32, 32, 3))).astype(np.uint8)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    path = tmp_path_factory.mktemp("data") / "toy.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def made_up():
    """Twelve networks whose test error follows δE at the second σ only; one more that does not fit."""
    rng = np.random.default_rng(1)
    delta = rng.random((12, 2))
    fitted = [
        network(
            name=f"n{i}", dropout=[0.0, 0.5][i % 2], batch=[8, 32][i // 6], delta_error=d, test_error=0.2 + d[1] / 9
        )
        for i, d in enumerate(delta)
    ]
    return [*fitted, network(name="unfit", fitted=False, test_error=0.9, delta_error=np.zeros(2))]


class TestGrid:
    def test_recipes(self):
        recipes = list(grids.GRIDS["paper"].recipes())
        assert len({recipe.name for recipe in recipes}) == len(recipes) == 12  # r(12) of the paper
        assert {recipe.augmentation() for recipe in recipes} == {Augmentation(flip=False)}
        assert {recipe.model_options["dropout"] for recipe in recipes} == {0.0, 0.5}
        assert all((recipe.momentum, recipe.nesterov) == (0.9, False) for recipe in recipes)

    def test_large(self):
        grid = grids.GRIDS["large"]
        recipes = list(grid.recipes())
        assert len({recipe.name for recipe in recipes}) == 54 and {recipe.eta.start for recipe in recipes} == {
            *grid.eta
        }
        assert grid.n_train >= 10_000 and "32×32 pixels" in grid.architecture

    @pytest.mark.parametrize(
        "wrong", [{"batch": (20, 0)}, {"size": -1}, {"size": 33}, {"epochs": 0}, {"epochs": 10**20}, {"dense": 0}]
    )
    def test_sizes_are_checked(self, wrong):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be a whole number, at "):
            dataclasses.replace(TOY, **wrong)

    @pytest.mark.parametrize(
        "wrong", [{"dropout": (np.nan,)}, {"weight_decay": (-1.0,)}, {"eta": (0.1, np.inf)}, {"stop_loss": 0.0}]
    )
    def test_numbers_are_checked(self, wrong):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be "):
            dataclasses.replace(TOY, **wrong)

    def test_learning_rates_precision_and_time(self, data, tmp_path):
        """Two networks of a grid in bfloat16, on one thread: what decides the result is in their files."""
        before = torch.get_num_threads()
        grid = dataclasses.replace(TOY, dropout=(0.0,), batch=(20,), eta=(0.01, 0.05), epochs=1, bfloat16=True)
        try:
            train_missing(grid, tmp_path, data=data)
            assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(before)
        slow, fast = load_networks(tmp_path)
        assert (slow.name, fast.name) == ("vgg-p0-b20-wd0-eta0.01", "vgg-p0-b20-wd0-eta0.05")
        assert (slow.eta, fast.eta) == (0.01, 0.05) and slow.train_loss != fast.train_loss
        assert networks.precision_of(slow) == "bfloat16" and slow.seconds > 0
        with pytest.raises(ValueError, match="its bfloat16 is True, not None"):
            train_missing(dataclasses.replace(grid, bfloat16=False), tmp_path, data=data)

    def test_trains_only_what_is_missing(self, data, tmp_path, monkeypatch):
        train_missing(TOY, tmp_path, data=data)
        trained = load_networks(tmp_path)
        assert [(n.dropout, n.batch) for n in trained] == [(0, 10), (0, 20), (0.5, 10), (0.5, 20)]
        assert len(list(tmp_path.iterdir())) == 4  # neither checkpoints nor weights
        before = {path: path.read_bytes() for path in tmp_path.glob("*.npz")}
        (tmp_path / "vgg-p0-b20-wd0-seed0.npz").unlink()
        scratch = tmp_path / "vgg-p0-b10-wd0-seed0"  # of a run that was killed between its result and its clearing up
        scratch.mkdir()
        (scratch / "vgg-p0-b10-wd0-baseline-seed0.pt").touch()
        calls = []
        run = grids.run
        monkeypatch.setattr(grids, "run", lambda *a, **o: calls.append(a) or run(*a, **o))
        train_missing(TOY, tmp_path, data=data)
        assert len(calls) == 1 and set(tmp_path.iterdir()) == before.keys()
        again = Network.load(tmp_path / "vgg-p0-b20-wd0-seed0.npz")
        assert_array_equal(again.delta_error, trained[1].delta_error)
        assert (again.test_error, again.epochs) == (trained[1].test_error, trained[1].epochs)
        assert all(path.read_bytes() == old for path, old in before.items() if path.stem != "vgg-p0-b20-wd0-seed0")
        with pytest.raises(ValueError, match=r"its recipe\.epochs is 3, not 5"):
            train_missing(dataclasses.replace(TOY, epochs=5), tmp_path, data=data)

    def test_ends_at_the_training_loss(self, data, tmp_path):
        """The threshold is passed, and not before the last epoch."""
        grid = dataclasses.replace(TOY, dropout=(0.0,), batch=(10,), epochs=30, eta=(0.02,), stop_loss=2.0)
        train_missing(grid, tmp_path / "whole", data=data)
        (stopped,) = load_networks(tmp_path / "whole")
        assert stopped.fitted and stopped.train_loss < 2 and 1 < stopped.epochs < 30
        train_missing(dataclasses.replace(grid, stop_loss=1e-6), tmp_path / "capped", data=data)
        (capped,) = load_networks(tmp_path / "capped")
        assert not capped.fitted and capped.epochs == 30 and capped.train_loss < stopped.train_loss

    def test_profile_is_that_of_the_trained_network(self, data, tmp_path, monkeypatch):
        grid = dataclasses.replace(TOY, dropout=(0.0,), batch=(10,))
        seen = []
        measured = grids.profile_of
        monkeypatch.setattr(grids, "profile_of", lambda *a, **o: seen.append(a) or measured(*a, **o))
        train_missing(grid, tmp_path, data=data)
        ((model, inputs, labels),) = seen
        (trained,) = load_networks(tmp_path)
        assert inputs.shape == (40, 3, 8, 8) and isinstance(model, VGGLike)
        wrong = (model(inputs).argmax(1) != labels).double().mean()
        assert_allclose(trained.train_error, wrong)
        rises = []
        for seed in range(1, 6):
            profile = local_energy(model, (inputs, labels), SIGMAS, n_samples=64, seed=seed)
            rises.append((profile.delta_error, profile.std_error**2))
        mean, variance = np.mean(rises, axis=0)
        assert np.all(abs(trained.delta_error - mean) < 4 * np.sqrt(trained.std_error**2 + variance / 5) + 1e-9)
        assert_allclose(trained.deviation, np.sqrt(64) * trained.std_error)


class TestDrawing:
    def test_correlations_are_scipys(self, made_up):
        by_kind = correlations(made_up)
        fitted = made_up[:-1]
        delta = np.array([n.delta_error for n in fitted])
        test = [n.test_error for n in fitted]
        for s in range(2):
            pearson, spearman = by_kind["pearson"][s], by_kind["spearman"][s]
            assert_allclose((pearson.value, pearson.p_value), stats.pearsonr(delta[:, s], test))
            assert_allclose((spearman.value, spearman.p_value), stats.spearmanr(delta[:, s], test))
            assert pearson.low <= pearson.value <= pearson.high
        absent = {"granulated weight_decay", "granulated eta"}  # have one value
        assert_allclose([by_kind[kind][1].value for kind in KINDS if kind not in absent], 1)
        assert all(by_kind[kind][1] is UNKNOWN for kind in absent)
        assert by_kind["pearson"][0].value < 0.8

    def test_picture_and_tables(self, made_up, tmp_path, capsys):
        for toy in made_up:
            toy.save(tmp_path / f"{toy.name}.npz")
        assert fig7.main(["--results", str(tmp_path)]) == 0
        assert "1 of 13 networks" in capsys.readouterr().out.replace("\n", " ")
        rows = list(csv.DictReader((tmp_path / "fig7.csv").open()))
        assert len(rows) == 26
        assert {row["name"] for row in rows if row["fitted"] == "False"} == {"unfit"}
        assert_allclose(float(rows[0]["deviation"]), 8 * float(rows[0]["std_error"]))
        assert all((tmp_path / f"fig7.{end}").stat().st_size > 1000 for end in ("png", "pdf"))

    def test_one_command_trains_and_draws(self, data, tmp_path, monkeypatch):
        monkeypatch.setitem(fig7.GRIDS, "quick", TOY)
        options = ["--results", str(tmp_path), "--epochs", "2", "--jobs", "1"]
        assert fig7.main(["--data", str(data), *options]) == 0
        assert {json.loads(n.setting)["recipe"]["epochs"] for n in load_networks(tmp_path)} == {2}
        first = (tmp_path / "fig7.csv").read_bytes()
        monkeypatch.setattr(grids, "run", None)  # nothing is trained again
        assert fig7.main(["--data", str(data), *options]) == 0 and fig7.main(options) == 0
        assert (tmp_path / "fig7.csv").read_bytes() == first

    def test_regulariser_that_no_networks_share(self, made_up):
        apart = [dataclasses.replace(toy, batch=i) for i, toy in enumerate(made_up)]
        assert all(value is UNKNOWN for value in correlations(apart)["batch"])
        equal, alone = (r for r in fig7.report(apart).splitlines() if r.startswith(("| ρ, equal batch", "| ψ, batch")))
        assert set(equal.split(" | ")[1:]) == {"—", "— |"} and "— |" not in alone  # all differ in it, in pairs at least

    def test_symbols(self, made_up):
        levels = levels_of(made_up)
        looks = [look_of(toy, levels) for toy in made_up]
        assert [look["fillstyle"] for look in looks] == ["full"] * 12 + ["none"]
        assert len({(look["color"], look["marker"]) for look in looks}) == 4
        rates = [dataclasses.replace(made_up[0], eta=eta) for eta in (0.005, 0.01, 0.02)]
        assert len({look_of(toy, levels_of(rates))["markeredgecolor"] for toy in rates}) == 3

    def test_what_cannot_be_drawn(self, made_up, tmp_path, capsys):
        assert fig7.main(["--results", str(tmp_path)]) == 2
        assert "no networks; give --data FILE" in capsys.readouterr().err
        for toy in made_up[:2]:
            toy.save(tmp_path / f"{toy.name}.npz")
        assert fig7.main(["--results", str(tmp_path)]) == 2
        assert "at least 3 networks" in capsys.readouterr().err
        network(architecture="another").save(tmp_path / "other.npz")
        assert fig7.main(["--results", str(tmp_path)]) == 2
        assert "their architecture differs" in capsys.readouterr().err
        (tmp_path / "other.npz").write_bytes(b"nothing")
        assert fig7.main(["--results", str(tmp_path)]) == 2
        assert "not a whole" in capsys.readouterr().err


# -- the competition's format ------------------------------------------------------------------------------------------


class TestRecords:
    @pytest.fixture
    def arrays(self):
        rng = np.random.default_rng(3)
        return rng.normal(size=(7, 6, 5, 2)).astype(np.float32), rng.integers(0, 300, 7)

    def test_round_trip(self, arrays, tmp_path):
        images, labels = arrays
        write_records(tmp_path / "shard_0.tfrecord", images[:4], labels[:4])
        write_records(
            tmp_path / "shard_1.tfrecord", images[4:], labels[4:], lambda n: b"\x08\x03" + b"\x38" + varint(n)
        )
        inputs, read_labels = read_images(tmp_path)
        assert_array_equal(inputs, images.transpose(0, 3, 1, 2))
        assert_array_equal(read_labels, labels)
        assert (inputs.dtype, read_labels.dtype) == (torch.float32, torch.int64)

    def test_packed_label(self, arrays, tmp_path):
        images, labels = arrays
        write_records(tmp_path / "shard_0.tfrecord", images, labels, lambda n: b"\x08\x03" + part(7, varint(n)))
        assert_array_equal(read_images(tmp_path)[1], labels)

    def test_damage(self, arrays, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no \*\.tfrecord"):
            read_images(tmp_path)
        path = tmp_path / "shard_0.tfrecord"
        write_records(path, *arrays)
        whole = path.read_bytes()
        for damaged in (whole[:-1], whole[:100], whole[:12] + bytes(80) + whole[92:]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"shard_0\.tfrecord is not a whole file"):
                read_images(tmp_path)

    def test_checksums(self, arrays, tmp_path):
        """CRC-32C of the check value of its definition; any bit that is wrong is found."""
        assert crc32c(b"123456789") == 0xE3069283
        path = tmp_path / "shard_0.tfrecord"
        write_records(path, *arrays)
        whole = path.read_bytes()
        for place in range(0, len(whole), 41):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=r"does not hold|ends in the middle"):
                read_images(tmp_path)


@pytest.mark.filterwarnings("ignore:weights without HDF5's checksums")
class TestCompetition:
    @pytest.fixture
    def task(self, tmp_path):
        """Three models of width 3, one of width 5; 20 images of 6 × 6 pixels in 2 classes."""
        pytest.importorskip("h5py")
        from tests.training.published.toy_pgdl import write

        rng = np.random.default_rng(4)
        task = tmp_path / "task"
        task.mkdir()
        configs = {}
        for i, width in enumerate((3, 5, 3, 3)):
            layers = [
                {"layer_name": "Conv2D", "filters": 4, "kernel_size": 3, "padding": "same", "activation": "relu"},
                {"layer_name": "Conv2D", "filters": width, "kernel_size": 3, "padding": "same", "activation": "relu"},
                {"layer_name": "MaxPooling2D"},
                {"layer_name": "Flatten"},
                {"layer_name": "Dense", "units": 6, "activation": "relu"},
                {"layer_name": "Dropout", "rate": 0.5},
                {"layer_name": "Dense", "units": 2},
            ]
            shapes = [(3, 3, 2, 4), (3, 3, 4, width), (9 * width, 6), (6, 2)]
            arrays = [[rng.normal(size=s).astype(np.float32), np.zeros(s[-1], dtype=np.float32)] for s in shapes]
            write(task / f"model_{i}", layers, arrays, shape=(6, 6, 2))
            values = {"hp_dropout": 0.5 * (i % 2), "hp_batch_size": 8 * 2**i, "hp_weight_decay": 0.001}
            hparams = {name: {"current_value": value} for name, value in values.items()}
            metrics = {"train_acc": 1.0, "test_acc": 0.9 - 0.1 * i}
            configs[str(i)] = {"hparams": hparams, "metrics": metrics}
        (task / "model_configs.json").write_text(json.dumps(configs))
        images = rng.normal(size=(20, 6, 6, 2)).astype(np.float32)
        write_records(task / "dataset_1" / "train" / "shard_0.tfrecord", images, np.arange(20) % 2)
        return task

    def test_models_of_one_architecture(self, task, tmp_path, monkeypatch):
        options = {"architecture": Architecture(blocks=1, width=3, dense=(6,)), "stop_loss": np.inf}
        measure_missing(task, tmp_path / "results", **options)
        measured = load_networks(tmp_path / "results")
        assert [(n.name, n.dropout, n.batch) for n in measured] == [
            ("pgdl-0", 0.0, 8),
            ("pgdl-2", 0.0, 32),
            ("pgdl-3", 0.5, 64),
        ]
        assert_allclose([n.test_error for n in measured], [0.1, 0.3, 0.4])
        assert all(n.fitted and n.train_error == 0 and n.n_train == 20 and n.n_samples == 64 for n in measured)
        model = pgdl.load_model(task / "model_2")
        images = read_images(task / "dataset_1" / "train")
        assert_allclose(measured[1].delta_error, local_energy(model, images, SIGMAS, n_samples=64, seed=0).delta_error)
        assert correlations(measured)["pearson"][0].p_value > 0

        def forbidden(*args, **options):
            raise AssertionError("measured again")

        monkeypatch.setattr(networks, "local_energy", forbidden)
        measure_missing(task, tmp_path / "results", **options)
        with pytest.raises(ValueError, match="its subset is None, not 5"):
            measure_missing(task, tmp_path / "results", subset=5, **options)

    def test_command(self, task, tmp_path, monkeypatch, capsys):
        arguments = ["--pgdl", str(task), "--results", str(tmp_path / "results")]
        assert fig7.main(arguments) == 2
        assert "has no models of 3 blocks of width 512, dense layers (128,)" in capsys.readouterr().err
        wanted = Architecture(blocks=1, width=3, dense=(6,))
        monkeypatch.setattr(fig7, "measure_missing", lambda *a, **o: measure_missing(*a, architecture=wanted, **o))
        assert fig7.main(arguments) == 2  # random weights fit nothing
        assert "at least 3 networks" in capsys.readouterr().err
        assert fig7.main([*arguments, "--stop-loss", "inf"]) == 2
        assert "its stop_loss is 0.05, not inf" in capsys.readouterr().err
        results = tmp_path / "all-fit"
        assert fig7.main(["--pgdl", str(task), "--results", str(results), "--stop-loss", "inf"]) == 0
        assert all((results / f"fig7.{end}").stat().st_size > 100 for end in ("png", "pdf", "csv", "md"))

    def test_bad_input(self, task, tmp_path):
        options = {"architecture": Architecture(blocks=1, width=3, dense=(6,))}
        configs = json.loads((task / "model_configs.json").read_text())
        configs["0"]["hparams"]["dropout_of_another_kind"] = {"current_value": 1}
        (task / "model_configs.json").write_text(json.dumps(configs))
        with pytest.raises(ValueError, match="one of hyper-parameters of model 0 with 'dropout' in the name; found 2"):
            measure_missing(task, tmp_path / "results", **options)
        (task / "dataset_1").rename(task / "elsewhere")
        with pytest.raises(ValueError, match=r"dataset_\*/train; found 0"):
            measure_missing(task, tmp_path / "results", **options)


class TestStored:
    """The committed numbers follow from the committed results."""

    @pytest.fixture
    def stored(self):
        return load_networks(fig7.RESULTS)

    def test_tables(self, stored):
        assert fig7.report(stored) == (fig7.RESULTS / "fig7.md").read_text(encoding="utf-8")
        with (fig7.RESULTS / "fig7.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert rows == [[str(value) for value in row] for row in fig7.table(stored)]

    def test_networks_are_of_the_grid(self, stored):
        """Each is of the quick preset, and those that are compared fit their training images."""
        grid = grids.GRIDS["quick"]
        rows = {recipe.row: recipe for recipe in grid.recipes()}
        for trained in stored:
            setting = grids._setting(grid, rows[trained.name], trained.seed)
            assert json.loads(trained.setting) == json.loads(json.dumps(setting))
            assert trained.fitted == (trained.train_loss < grid.stop_loss) and trained.n_samples == 64
        assert max(trained.train_error for trained in stored if trained.fitted) < 0.02
