"""Networks in the competition's format against Keras's own definitions of its layers, in plain numpy."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tests.training.published.toy_pgdl import SHAPE, write
from training.published.pgdl import load_model, read_records

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.filterwarnings("ignore:weights without HDF5's checksums")

LAYERS = [
    {"layer_name": "Conv2D", "filters": 4.0, "kernel_size": 3.0, "padding": "same", "activation": "relu"},
    {"layer_name": "Conv2D", "filters": 5, "kernel_size": [3, 2], "strides": 2, "padding": "same", "use_bias": False},
    {"layer_name": "BatchNormalization"},
    {"layer_name": "Activation", "activation": "tanh"},
    {"layer_name": "MaxPooling2D", "pool_size": 2, "strides": 1, "padding": "same"},
    {"layer_name": "Dropout", "rate": 0.5},
    {"layer_name": "Flatten"},
    {"layer_name": "Dense", "units": 6, "activation": "relu", "kernel_regularizer": None},
    {"layer_name": "Dense", "units": 3},
]


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return [
        [normal(3, 3, 2, 4), normal(4)],
        [normal(3, 2, 4, 5)],
        [normal(5), normal(5), normal(5), rng.uniform(0.5, 2, 5).astype(np.float32)],
        [],
        [normal(60, 6), normal(6)],
        [normal(6, 3), normal(3)],
    ]


def same_windows(x, kernel, stride, border):
    """Windows (batch, rows, columns, height, width, channels) of images (batch, height, width, channels)."""
    pads = [(0, 0)]
    for n, k in zip(x.shape[1:3], kernel, strict=True):
        surplus = max((int(np.ceil(n / stride)) - 1) * stride + k - n, 0)
        pads.append((surplus // 2, surplus - surplus // 2))
    x = np.pad(x, [*pads, (0, 0)], constant_values=border)
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return np.moveaxis(windows[:, ::stride, ::stride], 3, -1)


def keras(x, arrays):
    """The outputs of all layers of `LAYERS` for images (batch, height, width, channels)."""
    (kernel1, bias1), (kernel2,), (gamma, beta, mean, variance), _, (dense1, b1), (dense2, b2) = arrays
    yield (x := np.maximum(np.einsum("nrchwi,hwio->nrco", same_windows(x, (3, 3), 1, 0.0), kernel1) + bias1, 0))
    yield (x := np.einsum("nrchwi,hwio->nrco", same_windows(x, (3, 2), 2, 0.0), kernel2))
    yield (x := gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta)
    yield (x := np.tanh(x))
    yield (x := same_windows(x, (2, 2), 1, -np.inf).max(axis=(3, 4)))
    yield x
    yield (x := x.reshape(len(x), -1))
    yield (x := np.maximum(x @ dense1 + b1, 0))
    yield x @ dense2 + b2


def test_layer_by_layer(tmp_path, arrays):
    network = load_model(write(tmp_path / "model_1", LAYERS, arrays))
    x = np.random.default_rng(1).normal(size=(4, *SHAPE)).astype(np.float32)
    outputs = torch.from_numpy(x).movedim(-1, 1)
    modules = iter(network)
    for options, expected in zip(LAYERS, keras(x.astype(float), arrays), strict=True):
        outputs = next(modules)(outputs)
        if options.get("activation") == "relu":  # inside of a layer for Keras, a module of its own here
            outputs = next(modules)(outputs)
        plain = outputs.detach().numpy() if outputs.ndim == 2 else outputs.detach().movedim(1, -1).numpy()
        assert_allclose(plain, expected, rtol=1e-4, atol=1e-5, err_msg=options["layer_name"])
    assert next(modules, None) is None and not network.training


def test_dense_only(tmp_path):
    """The format's own toy example: vectors of 3 features."""
    layers = [{"layer_name": "Dense", "activation": "tanh", "units": 4}, {"layer_name": "Dense", "units": 2}]
    rng = np.random.default_rng(2)
    arrays = [[rng.normal(size=s).astype(np.float32) for s in shapes] for shapes in (((3, 4), (4,)), ((4, 2), (2,)))]
    network = load_model(write(tmp_path / "model_1", layers, arrays, shape=(3,)))
    x = rng.normal(size=(5, 3)).astype(np.float32)
    expected = np.tanh(x @ arrays[0][0] + arrays[0][1]) @ arrays[1][0] + arrays[1][1]
    assert_allclose(network(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-5)


def test_records(tmp_path):
    config = {
        "hparams": {"dropout": {"possible_values": [0.0, 0.5], "current_value": 0.5}},
        "metrics": {"train_acc": 0.99, "test_acc": 0.75},
    }
    (tmp_path / "model_configs.json").write_text(json.dumps({"7": config}))
    (record,) = read_records(tmp_path)
    assert (record.name, record.hyperparameters) == ("7", {"dropout": 0.5})
    assert_allclose((record.train_error, record.test_error), (0.01, 0.25))
    (tmp_path / "model_configs.json").write_text(json.dumps({"7": {"hparams": {}}}))
    with pytest.raises(ValueError, match="metrics"):
        read_records(tmp_path)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"layer_name": "LSTM"}, "LSTM, which is not supported"),
            ({"activation": "mish"}, "activation 'mish'"),
            ({"filters": 8}, "shape"),
            ({"padding": "causal"}, "causal"),
        ],
    )
    def test_layers(self, tmp_path, arrays, change, message):
        folder = write(tmp_path / "m", [LAYERS[0] | change, *LAYERS[1:]], arrays)
        with pytest.raises(ValueError, match=message):
            load_model(folder)

    def test_order_of_the_axes(self, tmp_path, arrays):
        """Channels last, said or not said, is what is read; channels first would be another network."""
        x = torch.randn(2, SHAPE[2], *SHAPE[:2], generator=torch.Generator().manual_seed(0))
        formats = [{}, {"data_format": None}, {"data_format": "channels_last"}]
        a, b, c = (load_model(write(tmp_path / "m", [LAYERS[0] | f, *LAYERS[1:]], arrays))(x) for f in formats)
        assert torch.equal(a, b) and torch.equal(a, c)
        for i in (0, 4, 6):  # a convolution, a pooling, the flattening
            layers = [*LAYERS[:i], LAYERS[i] | {"data_format": "channels_first"}, *LAYERS[i + 1 :]]
            with pytest.raises(ValueError, match=rf"layer {i} .*data_format channels_last"):
                load_model(write(tmp_path / "m", layers, arrays))

    @pytest.mark.parametrize("name", ["x/../../escaped", "..", "/absolute", "", ".hidden", "a\\b", "a\0", "a" * 300])
    def test_names_stay_in_the_folder(self, tmp_path, name):
        metrics = {"train_acc": 1.0, "test_acc": 0.5}
        (tmp_path / "model_configs.json").write_text(json.dumps({name: {"hparams": {}, "metrics": metrics}}))
        with pytest.raises(ValueError, match=r"model_configs\.json: .*its name must be a name without folders"):
            read_records(tmp_path)

    @pytest.mark.parametrize("where", ["external link", "soft link", "external storage", "virtual"])
    def test_numbers_of_other_files(self, tmp_path, where):
        """A weights file that shows what another file holds is refused."""
        write(tmp_path / "other", [], [[np.ones((3, 2))]], shape=(3,))
        folder = write(
            tmp_path / "m", [{"layer_name": "Dense", "units": 2}], [[np.ones((3, 2)), np.ones(2)]], shape=(3,)
        )
        other, inside = str(tmp_path / "other" / "weights.hdf5"), "wrapped_layer/wrapped_layer/array0:0"
        with h5py.File(folder / "weights.hdf5", "a") as file:
            del file[inside]
            if where == "external link":
                file[inside] = h5py.ExternalLink(other, inside)
            elif where == "soft link":
                file[inside] = h5py.SoftLink("/wrapped_layer/wrapped_layer/array1:0")
            elif where == "external storage":
                file.create_dataset(inside, (3, 2), "f4", external=[(other, 0, 24)])
            else:
                layout = h5py.VirtualLayout((3, 2), "f4")
                layout[...] = h5py.VirtualSource(other, inside, (3, 2))
                file.create_virtual_dataset(inside, layout)
        with pytest.raises(ValueError, match=r"weights\.hdf5 .*(links elsewhere|lie in another file)"):
            load_model(folder)

    def test_weights_left_over(self, tmp_path, arrays):
        with pytest.raises(ValueError, match="more than the layers need"):
            load_model(write(tmp_path / "m", LAYERS[:-1], arrays))

    def test_inputs_of_another_shape(self, tmp_path, arrays):
        with pytest.raises(ValueError, match="do not fit"):
            load_model(write(tmp_path / "m", LAYERS, arrays, shape=(9, 9, 2)))

    def test_files(self, tmp_path, arrays):
        folder = write(tmp_path / "m", LAYERS, arrays)
        (folder / "weights.hdf5").write_bytes(b"no HDF5")
        with pytest.raises(ValueError, match="weights file of Keras"):
            load_model(folder)
        (folder / "weights.hdf5").unlink()
        with pytest.raises(FileNotFoundError):
            load_model(folder)
