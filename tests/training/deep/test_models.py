"""The networks of Table 1: published numbers of parameters, published weights, ShakeDrop's two random factors."""

import pytest
import torch
from torch.nn import functional as F

from tests.stored import WEIGHTS
from training.models import MODELS, make_model
from training.models.cifar_resnet import CifarResNet, zero_padded_shortcut
from training.models.pyramidnet import PyramidNet, ShakeDrop, shake
from training.models.small import PatchConv2d, VGGLike
from training.published.resnets import load_published

FROM_TORCHVISION = {"resnet18", "resnet18-imagenet-stem", "resnet50", "densenet121", "efficientnet-b0"}


def count(name, num_classes):
    if name in FROM_TORCHVISION:
        pytest.importorskip("torchvision")
    with torch.device("meta"):
        return sum(p.numel() for p in make_model(name, num_classes).parameters())


@pytest.mark.parametrize(
    "name, num_classes, millions, digits",
    [
        ("resnet20", 10, 0.27, 2),  # He et al. 2016, Table 6, as the four below
        ("resnet32", 10, 0.46, 2),
        ("resnet44", 10, 0.66, 2),
        ("resnet56", 10, 0.85, 2),
        ("resnet110", 10, 1.7, 1),
        ("resnet18", 10, 11.17, 2),  # usual for CIFAR: 11.69 at 1000 classes less stem and classes, see below
        ("resnet18-imagenet-stem", 1000, 11.69, 2),  # torchvision's table of models, as the three below
        ("resnet50", 1000, 25.56, 2),
        ("densenet121", 1000, 7.98, 2),
        ("efficientnet-b0", 1000, 5.3, 1),  # Tan & Le 2019, Table 2
        ("pyramidnet272", 10, 26.2, 1),  # Yamada et al. 2019; Han et al. 2017 print 26.0
    ],
)
def test_published_numbers_of_parameters(name, num_classes, millions, digits):
    assert round(count(name, num_classes) / 1e6, digits) == millions


@pytest.mark.parametrize(
    "name, expected",
    [
        # C.1, by hand: two convolutions, two dense layers, all with biases
        ("smallconvnet", (75 * 20 + 20) + (500 * 50 + 50) + (1250 * 500 + 500) + (500 * 10 + 10)),
        # 6n + 1 convolutions, each with a BN, and one dense layer; n = 18
        ("resnet110", 9 * (48 + 36 * 256 + 18 * 1024 * 2 - 512 + 18 * 4096 * 2 - 2048) + 2 * (16 + 36 * 112) + 650),
        ("resnet18", 11_689_512 - (7 * 7 - 3 * 3) * 3 * 64 - 990 * 513),
        ("vgg-like", 9 * 512 * (3 + 5 * 512) + 6 * 512 + 512 * 128 + 128 + 1290),
        ("perceptron", 784 * 16 + 16 + 160 + 10),
        ("strided-convnet", 16 * 8 + 8 + 72 * 16 + 16 + 1440 + 10),
    ],
)
def test_numbers_of_parameters_by_hand(name, expected):
    assert count(name, 10) == expected


@pytest.mark.parametrize("name", MODELS)
def test_images_become_logits(name):
    if name in FROM_TORCHVISION:
        pytest.importorskip("torchvision")
    size = {"resnet50": 64, "densenet121": 64, "efficientnet-b0": 224}.get(name, 32)
    shape = (1, 28, 28) if name in ("perceptron", "strided-convnet") else (3, size, size)
    with torch.device("meta"):
        assert make_model(name, 7)(torch.empty(2, *shape)).shape == (2, 7)


def test_convolution_as_a_product():
    layer, inputs = PatchConv2d(3, 4, (5, 3), stride=(3, 2)), torch.randn(2, 3, 16, 14)
    torch.testing.assert_close(layer(inputs), F.conv2d(inputs, layer.weight, layer.bias, layer.stride))


def test_what_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="one of smallconvnet, resnet18"):
        make_model("resnet19")
    with pytest.raises(ValueError, match="at least 1"):
        make_model("resnet20", 0)
    with pytest.raises(ValueError, match="6n"):
        CifarResNet(21)
    with pytest.raises(ValueError, match="9n"):
        PyramidNet(270, 200)
    with pytest.raises(ValueError, match="probability"):
        ShakeDrop(1.5)


def test_shortcut_has_no_parameters():
    x = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    out = zero_padded_shortcut(x, 8, 2)
    assert out.shape == (2, 8, 2, 2)
    assert torch.equal(out[:, 2:5], x[:, :, ::2, ::2])
    assert out[:, :2].abs().sum() == out[:, 5:].abs().sum() == 0


def test_a_missing_torchvision_is_named(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith("torchvision"):
            raise ImportError("not here")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install bpflat\[deep\]"):
        make_model("resnet18")


@pytest.mark.parametrize("depth, file", [(20, "12fca82f"), (32, "d509ac18"), (44, "014dd654"), (56, "4bfd9763")])
def test_published_weights_fit(depth, file):
    path = WEIGHTS / f"resnet{depth}-{file}.th"
    if not path.exists():
        pytest.skip("the published weights are not here")
    model = load_published(CifarResNet(depth), path).eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, 32, 32))
    assert torch.isfinite(logits).all()
    with pytest.raises(ValueError, match="does not hold the weights of this network"):
        load_published(CifarResNet(110), path)


def test_weights_that_are_none(tmp_path):
    path = tmp_path / "weights.th"
    with pytest.raises(FileNotFoundError):
        load_published(CifarResNet(20), path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no whole file of tensors|does not hold"):
        load_published(CifarResNet(20), path)
    torch.save({"state_dict": CifarResNet(20).state_dict()}, path)
    copy = load_published(CifarResNet(20), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"no whole file of tensors|does not hold"):
        load_published(copy, path)


def test_shake_scales_forwards_and_backwards_apart():
    torch.manual_seed(0)
    x = torch.randn(2000, 2, 1, 1, requires_grad=True)
    out = shake(x, 0.0, (-1.0, 1.0), (0.0, 1.0))
    out.sum().backward()
    forward = (out / x).detach()
    assert torch.allclose(forward[:, 0], forward[:, 1], atol=1e-5)  # one α for each image
    for factor, low, high in ((forward, -1, 1), (x.grad, 0, 1)):
        # uniform: mean and variance within 4 standard errors, nothing outside
        factor, width = factor[:, 0, 0, 0], high - low
        assert low - 1e-5 <= factor.min() and factor.max() <= high + 1e-5
        assert abs(factor.mean() - (low + high) / 2) < 4 * width / (12 * 2000) ** 0.5
        assert abs(factor.var() - width**2 / 12) < 4 * width**2 / (180 * 2000) ** 0.5
    correlation = torch.corrcoef(torch.stack([forward[:, 0, 0, 0], x.grad[:, 0, 0, 0]]))[0, 1]
    assert abs(correlation) < 4 / 2000**0.5


def test_shake_drop_keeps_with_its_probability_and_its_mean():
    torch.manual_seed(1)
    layer, x = ShakeDrop(0.7, alpha=(-1.0, 0.5)), torch.ones(1, 1, 1, 1)
    draws = torch.cat([layer(x) for _ in range(4000)]).flatten()
    kept = (draws == 1).double().mean()
    assert abs(kept - 0.7) < 4 * (0.7 * 0.3 / 4000) ** 0.5
    mean = layer.eval()(x).item()
    assert mean == pytest.approx(0.7 + 0.3 * (-0.25))
    assert abs(draws.mean() - mean) < 4 * draws.std() / 4000**0.5


def test_pyramid_widens_and_drops_linearly():
    with torch.device("meta"):
        blocks = PyramidNet(272, 200).blocks
    assert len(blocks) == 90
    assert blocks[-1].conv3.out_channels == 4 * 216
    assert [b.stride for b in blocks].count(2) == 2 and blocks[30].stride == blocks[60].stride == 2
    assert blocks[-1].shake_drop.keep == 0.5
    assert blocks[0].shake_drop.keep == pytest.approx(1 - 0.5 / 90)


def test_without_shake_drop_training_is_deterministic():
    torch.manual_seed(0)
    model = PyramidNet(11, 12, keep_last=1.0)
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(model(x), model(x))


def test_vgg_drops_out():
    torch.manual_seed(0)
    model = VGGLike(blocks=2, width=8, convolutions=1, dense=16, dropout=0.5)
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_kaiming_normal():
    torch.manual_seed(0)
    model = make_model("resnet20")
    weight = model.layer3[1].conv1.weight
    # N(0, 2/fan_in): the variance within 4 standard errors
    assert abs(weight.var() * 9 * 64 / 2 - 1) < 4 * (2 / weight.numel()) ** 0.5
    assert F.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8)).isfinite()
