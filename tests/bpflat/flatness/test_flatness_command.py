"""``bpflat flatness``: models, weights and data from files, the numbers of the call, messages for what is wrong."""

import json
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from bpflat import LocalEnergyProfile, LocalEntropyCurve, cli
from bpflat.cli import main
from bpflat.flatness import local_energy, local_entropy
from bpflat.flatness.scales import SCALES

FACTORY = f"{__name__}:network"


def network(n_hidden=7, fail=False):
    """The factory of these tests."""
    if fail:
        raise TypeError("told to fail")
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, n_hidden), nn.BatchNorm1d(n_hidden), nn.ReLU(), nn.Linear(n_hidden, 3)
    )


@pytest.fixture
def mine(tmp_path):
    """Folder with weights and data, and the profile that they have."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = network(), torch.rand(40, 3, 2, 2)
        model(inputs)
    targets = model.eval()(inputs).argmax(1)
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "checkpoint.th")
    np.savez(tmp_path / "train.npz", inputs=inputs.numpy(), targets=targets.numpy())
    torch.save((inputs, targets), tmp_path / "train.pt")
    parts = tmp_path / "parts"
    parts.mkdir()
    for i in range(2):
        torch.save({"inputs": inputs[20 * i :][:20], "targets": targets[20 * i :][:20]}, parts / f"{i}.pt")
    return tmp_path, local_energy(model, (inputs, targets), [0.2, 0.4], n_samples=10, seed=3)


def measure(folder, *options, weights="mine.pt", data="train.npz"):
    sigmas = ["--sigmas", "0.2", "0.4", "--n-samples", "10", "--seed", "3", "--device", "cpu"]
    return main(
        ["flatness", FACTORY, "--weights", f"{folder}/{weights}", "--data", f"{folder}/{data}", *sigmas, *options]
    )


@pytest.mark.parametrize(
    ("weights", "data"), [("mine.pt", "train.npz"), ("checkpoint.th", "train.pt"), ("mine.pt", "parts")]
)
def test_numbers(mine, capsys, weights, data):
    folder, expected = mine
    assert measure(folder, "--json", weights=weights, data=data) == 0
    record = json.loads(capsys.readouterr().out)
    assert_allclose(record["delta_error"], expected.delta_error)
    assert_allclose(record["delta_loss"], expected.delta_loss, rtol=1e-5)
    assert record["train_error"] == 0 and record["reference"] == expected.reference


def test_file_picture_and_table(mine, capsys):
    folder, _ = mine
    out, picture = folder / "profile.npz", folder / "profile.png"
    assert measure(folder, "--out", str(out), "--plot", str(picture)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["sigma", "delta_error", "std_error", "delta_loss", "loss_std_error"] and len(lines) == 4
    assert len(set(map(len, lines[1:]))) == 1
    assert LocalEnergyProfile.load(out).n_samples == 10 and picture.stat().st_size > 1000
    assert main(["info", str(out)]) == 0 and capsys.readouterr().out.splitlines() == lines


def forward(model, batch):
    return model(batch["inputs"])


def loss(outputs, batch):
    return nn.functional.cross_entropy(outputs, batch["targets"], reduction="none")


def error(outputs, batch):
    return outputs.argmax(1) != batch["targets"]


@pytest.mark.parametrize("data", ["train.npz", "parts"])
def test_functions(mine, capsys, data):
    """A file is a batch, a dict of what it holds; without an error δE is null and the table says nan."""
    folder, expected = mine
    functions = ["--forward", f"{__name__}:forward", "--loss", f"{__name__}:loss"]
    assert measure(folder, "--json", *functions, "--error", f"{__name__}:error", data=data) == 0
    record = json.loads(capsys.readouterr().out)
    assert_allclose(record["delta_error"], expected.delta_error)
    assert_allclose(record["delta_loss"], expected.delta_loss, rtol=1e-5)
    assert measure(folder, "--json", *functions, data=data) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["delta_error"] == [None, None] and record["train_error"] is None
    assert measure(folder, *functions, data=data) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[1:3] == ["nan", "nan"]


def test_options_arrive(mine, capsys):
    folder, _ = mine
    options = ["--tolerance", "0.5", "--n-samples", "40", "--parameters", "weights", "--subset", "30", "--antithetic"]
    assert measure(folder, "--json", "--batch-size", "9", "--precision", "float32", *options) == 0
    assert json.loads(capsys.readouterr().out)["n_samples"] == [16, 16]
    assert main(["flatness", FACTORY, "--data", f"{folder}/train.npz", "--model-options", '{"n_hidden": 5}']) == 0


def test_folder_of_images(mine, tmp_path, capsys):
    pytest.importorskip("torchvision")
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for label in "abc":
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    assert measure(mine[0], "--json", data="images") == 0
    assert 0 <= json.loads(capsys.readouterr().out)["train_error"] <= 1
    assert measure(mine[0], "--transform", "torchvision.transforms.functional:pil_to_tensor", data="images") == 2
    assert "bpflat: error:" in capsys.readouterr().err


def test_entropy(mine, capsys):
    """The numbers of the call, as JSON and as a table with a picture, and what `info` says of the file."""
    folder, _ = mine
    options = ["--entropy", "--n-samples", "100", "--n-chains", "3", "--scale", "filter", "--sigmas", "0.05", "0.3"]
    out, picture = folder / "curve.npz", folder / "curve.png"
    assert measure(folder, *options, "--json", "--out", str(out)) == 0
    record = json.loads(capsys.readouterr().out)
    model = network()
    model.load_state_dict(torch.load(folder / "mine.pt", weights_only=True))
    data = torch.load(folder / "train.pt", weights_only=True)
    expected = local_entropy(model, data, [0.05, 0.3], n_samples=100, n_chains=3, scale="filter", seed=3)
    assert LocalEntropyCurve.load(out) == expected
    assert_allclose(record["rhat"], expected.rhat)
    assert record["scale"] in cli.SCALES and cli.SCALES == SCALES
    assert record["scale"] == "filter" and record["sigma"] == [0.05, 0.3] and record["measure"] == "count"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bpflat.estimators.tempering.RHAT", 1 + 1e-6)
        assert measure(folder, *options, "--max-passes", "0", "--out", str(out), "--plot", str(picture)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["sigma", "distance", "log_z", "phi"] and picture.stat().st_size > 1000
    assert lines[-3] == "2 of 2 points did not converge (nan)" and lines[-1].startswith("σ = 0.3: the chains disagree")
    assert main(["info", str(out)]) == 0 and capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("options", "message"), [(["--entropy", "--subset", "9"], "leave out"), (["--beta", "1"], "give")]
)
def test_options_of_the_other_measure(mine, capsys, options, message):
    assert measure(mine[0], *options) == 2
    assert f"leave it out, or {message} --entropy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--data", "D"], "must be MODULE:NAME"),
        (["no.such.module:f", "--data", "D"], "no.such.module:f cannot be found"),
        ([f"{__name__}:nothing", "--data", "D"], "cannot be found"),
        ([FACTORY, "--data", "D", "--model-options", '{"width": 3}'], "cannot be called with {'width': 3}"),
        ([FACTORY, "--data", "D", "--model-options", "[3]"], "must be a JSON object"),
        ([FACTORY, "--data", "D", "--weights", "D"], "is no whole file of tensors"),
        ([FACTORY, "--data", "D", "--weights", "T"], "holds no state_dict"),
        ([FACTORY, "--data", "D", "--weights", "W", "--model-options", '{"n_hidden": 5}'], "size mismatch"),
        (["torch.nn:PReLU", "--data", "D", "--weights", "W"], "missing ['weight'] (1), unknown ['1.bias'"),
        ([FACTORY, "--data", "nowhere.npz"], "nowhere.npz"),
        ([FACTORY, "--data", "W"], "lacks `inputs` and `targets`"),
        ([FACTORY, "--data", "D", "--loss", "nowhere:loss"], "nowhere:loss cannot be found"),
        (
            [FACTORY, "--data", "D", "--loss", f"{__name__}:FACTORY"],
            "loss must be a function",
        ),
        ([FACTORY, "--data", "EMPTY"], "holds neither files"),
        ([FACTORY, "--data", "D", "--device", "cuda:99"], "cuda:99"),
        ([f"{__name__}:json", "--data", "D"], "cannot be called"),
    ],
)
def test_errors(mine, capsys, arguments, message):
    folder, _ = mine
    (folder / "empty").mkdir()
    names = {"D": "train.npz", "W": "mine.pt", "T": "train.pt", "EMPTY": "empty"}
    arguments = [f"{folder}/{names[a]}" if a in names else a for a in arguments]
    assert main(["flatness", *arguments, "--n-samples", "2", "--sigmas", "0.1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bpflat: error:") and message in error


def test_model_of_the_working_directory(mine, monkeypatch, capsys):
    """It is found when that is asked for, behind what is installed."""
    folder, _ = mine
    (folder / "my_own_nets.py").write_text(f"from {__name__} import network as Net\n")
    (folder / "colorsys.py").write_text("raise SystemExit('a file of the working directory was imported')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    line = ["flatness", "my_own_nets:Net", "--weights", "mine.pt", "--data", "train.npz", "--n-samples", "2"]
    assert main(line) == 2
    assert "No module named 'my_own_nets'); no such module is installed; --path" in capsys.readouterr().err
    assert main([*line, "--path", "."]) == 0
    assert "training error 0.00%" in capsys.readouterr().out
    assert main(["flatness", "colorsys:nothing", "--data", "train.npz", "--path", "."]) == 2
    assert "colorsys:nothing cannot be found" in capsys.readouterr().err
    assert main([*line, "--path", "nowhere"]) == 2
    assert "nowhere is no folder of modules" in capsys.readouterr().err
