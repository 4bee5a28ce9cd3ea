"""Every number of Appendix C, and those of Sections 4 and 6 that it builds on, typed from the paper.

A row: cells of Table 1, field of the recipe, value, and the sentence of the paper that it is read from.
"""

from operator import attrgetter

import pytest
import torch
from torch import nn

from bpflat.optim import EntropySGD, ReplicatedSGD
from training.deep.recipes import COLUMNS, RECIPES
from training.models import make_model

CIFAR = ("smallconvnet-cifar10", "resnet18-cifar10", "resnet110-cifar10", "pyramidnet-cifar10", "pyramidnet-cifar100")
TINY = ("resnet50-tiny-imagenet", "densenet121-tiny-imagenet")
PYRAMID = ("pyramidnet-cifar10", "pyramidnet-cifar100")
EFFICIENT = ("efficientnet-b0-cifar100",)
ALL = (*CIFAR, *EFFICIENT, *TINY)
EVERY, BOTH_RSGD = "baseline rsgd esgd rsgd-y", "rsgd rsgd-y"
NESTEROV = "SGD optimizer with Nesterov momentum 0.9"

# The same settings and hyper-parameters as for SGD, unless otherwise stated: values of a row stand for all its columns.
GENERAL = [
    (CIFAR, EVERY, "padding", 4, "random crops … with zero-padding of size 4 for CIFAR"),
    (TINY, EVERY, "padding", 8, "and 8 for Tiny ImageNet"),
    (ALL, EVERY, "flip", True, "and random horizontal flips"),
    (ALL, BOTH_RSGD, "y", 3, "For rSGD and unless otherwise stated, we set y = 3"),
    (set(ALL) - {"resnet18-cifar10"}, BOTH_RSGD, "K", 10, "K = 10"),
    (set(ALL) - set(PYRAMID), BOTH_RSGD, "gamma_growth", 1e4, "γ₁ is chosen such that γ increases by a factor 10⁴ (4)"),
    (ALL, BOTH_RSGD, "coupling", "gradient", "L_R = Σ L(w^a) + γ Σ d(w^a, w̄), by any gradient-based optimizer (eq. 6)"),
    (ALL, "esgd", "gamma_growth", 10.0, "We choose γ₁ such that γ is increased by a factor of 10 by the end"),
    (ALL, "esgd", "L", 5, "we set the number of SGLD iterations to L = 5"),
    (ALL, "esgd", "epsilon", 1e-4, "SGLD noise to ε = 10⁻⁴"),
    (ALL, "esgd", "alpha", 0.75, "and α = 0.75"),
    (
        ALL,
        "esgd",
        "momentum",
        0.9,
        "we use 0.9 Nesterov momentum and weight decay in both the internal and external loop",
    ),
    (ALL, "esgd", "nesterov", True, "we use 0.9 Nesterov momentum …"),
]

CONVNET, R18, R110 = (CIFAR[0],), (CIFAR[1],), (CIFAR[2],)
C1 = [
    (CONVNET, "baseline rsgd-y", "epochs", 300, "We train the SmallConvNet model on CIFAR-10 for 300 epochs"),
    (CONVNET, EVERY, "momentum", 0.9, NESTEROV),
    (CONVNET, EVERY, "nesterov", True, NESTEROV),
    (CONVNET, "baseline", "eta.start", 0.01, "learning rate 0.01"),
    (CONVNET, "baseline rsgd-y", "eta.milestones", (150, 225), "decays by a factor of 10 at epochs 150 and 225"),
    (CONVNET, EVERY, "batch", 128, "batch-size 128"),
    (CONVNET, EVERY, "weight_decay", 1e-4, "weight decay 1e-4"),
    (CONVNET, BOTH_RSGD, "eta.start", 0.05, "For rSGD we set lr = 0.05"),
    (CONVNET, BOTH_RSGD, "gamma0", 0.001, "and γ₀ = 0.001"),
    (CONVNET, "esgd", "epochs", 60, "For eSGD, we train for 60 epochs"),
    (CONVNET, "esgd", "eta.start", 0.5, "η = 0.5"),
    (CONVNET, "esgd", "eta.milestones", (30, 45), "that drops by a factor of 10 at epochs 30 and 45"),
    (CONVNET, "esgd", "eta_prime", 0.02, "η' = 0.02"),
    (CONVNET, "esgd", "gamma0", 0.5, "γ₀ = 0.5"),
    (CONVNET, "esgd", "gamma1", 2e-5, "γ₁ = 2·10⁻⁵"),
    (R18, "baseline rsgd-y", "epochs", 160, "We train the model for 160 epochs"),
    (R18, EVERY, "momentum", 0.9, NESTEROV),
    (R18, EVERY, "nesterov", True, NESTEROV),
    (R18, "baseline", "eta.start", 0.01, "initial learning rate 0.01"),
    (R18, "baseline rsgd-y", "eta.milestones", (110,), "decays by a factor of 10 at epoch 110"),
    (R18, EVERY, "batch", 128, "batch-size 128"),
    (R18, EVERY, "weight_decay", 5e-4, "weight decay 5e-4"),
    (R18, BOTH_RSGD, "K", 1, "For rSGD we set K = 1"),
    (R18, BOTH_RSGD, "eta.start", 0.02, "and learning rate 0.02"),
    (R18, BOTH_RSGD, "gamma0", None, "the automatic exponential focusing schedule"),
    (R18, "esgd", "epochs", 32, "For eSGD, we train for 32 epochs"),
    (R18, "esgd", "eta.start", 0.25, "initial learning rate η = 0.25"),
    (R18, "esgd", "eta.milestones", (16, 25), "drops by a factor of 10 at epochs 16 and 25"),
    (R18, "esgd", "eta_prime", 0.01, "η' = 0.01"),
    (R18, "esgd", "gamma0", None, "automatically chosen by computing the distance between w' and w after a loop"),
    (R110, "baseline rsgd-y", "epochs", 164, "We train the ResNet-110 model on CIFAR-10 for 164 epochs"),
    (R110, EVERY, "momentum", 0.9, "SGD optimizer with momentum 0.9"),
    (R110, "baseline rsgd rsgd-y", "nesterov", False, "SGD optimizer with momentum 0.9, settings of He et al. (2016)"),
    (R110, EVERY, "batch", 128, "batch-size 128"),
    (R110, EVERY, "weight_decay", 1e-4, "weight decay 1e-4"),
    (R110, "baseline", "eta.warm_up", (0.01, 1), "warm-up starting with 0.01 and increasing it at 0.1 after 1 epoch"),
    (R110, "baseline rsgd rsgd-y", "eta.start", 0.1, "increasing it at 0.1"),
    (R110, "baseline rsgd-y", "eta.milestones", (82, 124), "dropped by a factor of 10 at epochs 82 and 124"),
    (
        R110,
        "rsgd esgd rsgd-y",
        "eta.warm_up",
        None,
        "For both eSGD and rSGD, … the learning rate warm-up is not necessary",
    ),
    (R110, BOTH_RSGD, "gamma0", 5e-4, "For rSGD we set γ₀ = 5e-4"),
    (R110, "esgd", "epochs", 32, "For eSGD, we train for 32 epochs"),
    (R110, "esgd", "eta.start", 0.9, "initial learning rate η = 0.9"),
    (R110, "esgd", "eta.milestones", (17, 25), "that drops at epochs 17 and 25"),
    (R110, "esgd", "eta_prime", 0.02, "SGLD learning rate η' = 0.02"),
    (R110, "esgd", "gamma0", 0.1, "we set γ₀ = 0.1"),
    (R110, "esgd", "gamma1", 5e-4, "and γ₁ = 5·10⁻⁴"),
    (PYRAMID, EVERY, "momentum", 0.9, NESTEROV),
    (PYRAMID, EVERY, "nesterov", True, NESTEROV),
    (PYRAMID, EVERY, "batch", 64, "batch-size 64"),
    (PYRAMID, EVERY, "weight_decay", 5e-5, "weight decay 5e-5"),
    (PYRAMID, "baseline rsgd-y", "epochs", 300, "we train for 300 epochs and not 1800"),
    (PYRAMID, EVERY, "eta.start", 0.05, "cosine annealing … with initial learning rate 0.05"),
    (PYRAMID, "baseline rsgd-y", "eta.epochs", 300, "with a single annealing cycle"),
    (PYRAMID, EVERY, "policy", "autoaugment-cifar10", "AutoAugment with the policies found on CIFAR-10"),
    (PYRAMID, EVERY, "cutout", 16, "CutOut with size 16"),
    (PYRAMID, BOTH_RSGD, "gamma_max", 0.1, "a cosine focusing protocol for γ … with γ_max = 0.1"),
    (PYRAMID[:1], "rsgd-y", "K_late", 3, "On CIFAR-10, we decrease the interaction step K from 10 to 3"),
    (PYRAMID[:1], "rsgd-y", "K_late_from", 220, "towards the end of the training (at epoch 220)"),
    (PYRAMID[1:], BOTH_RSGD, "K_late", 0, "On CIFAR-10, …"),
    (EFFICIENT, "baseline rsgd-y", "epochs", 350, "we train for 350 epochs"),
    (EFFICIENT, "baseline rsgd rsgd-y", "optimizer", "rmsprop-tf", "RMSprop optimizer, same settings as Tan & Le"),
    (EFFICIENT, EVERY, "momentum", 0.9, "with momentum 0.9"),
    (EFFICIENT, EVERY, "batch", 64, "batch-size 64"),
    (EFFICIENT, EVERY, "weight_decay", 1e-5, "weight decay 1e-5"),
    (EFFICIENT, "baseline rsgd rsgd-y", "eta.start", 0.01, "initial learning rate 0.01"),
    (EFFICIENT, "baseline rsgd-y", "eta.factor", 0.97, "that decays by 0.97"),
    (EFFICIENT, EVERY, "eta.every", 2, "every 2 epochs"),
    (EFFICIENT, EVERY, "size", 224, "We rescale image size to 224 × 224"),
    (EFFICIENT, EVERY, "interpolation", "bicubic", "We follow the same settings as Tan & Le (2019)"),
    (EFFICIENT, EVERY, "padding", 32, "standard preprocessing (with zero-padding of size 32)"),
    (EFFICIENT, EVERY, "policy", "autoaugment-cifar10", "adding AutoAugment with the policies found on CIFAR-10"),
    (EFFICIENT, EVERY, "policy_last", True, "we apply standard preprocessing … adding AutoAugment"),
    (EFFICIENT, BOTH_RSGD, "gamma0", 5e-6, "For rSGD we set γ₀ = 5e-6"),
    (EFFICIENT, "esgd", "eta.start", 0.5, "For eSGD we used initial learning rate η = 0.5"),
    (EFFICIENT, "esgd", "eta.factor", 0.92, "that decays by 0.92 every 2 epochs"),
    (EFFICIENT, "esgd", "eta_prime", 0.05, "and η' = 0.05"),
]

R50, DENSE = TINY[:1], TINY[1:]
C2 = [
    (R50, "baseline rsgd-y", "epochs", 270, "We train ResNet-50 on Tiny ImageNet for 270 epochs"),
    (R50, "baseline rsgd-y", "eta.milestones", (90, 180, 240), "decays by a factor of 10 at epochs 90, 180 and 240"),
    (TINY, EVERY, "momentum", 0.9, NESTEROV),
    (TINY, EVERY, "nesterov", True, NESTEROV),
    (TINY, "baseline rsgd rsgd-y", "eta.start", 0.05, "initial learning rate 0.05"),
    (TINY, EVERY, "batch", 128, "batch-size 128"),
    (TINY, EVERY, "weight_decay", 1e-4, "weight decay 1e-4"),
    (TINY, EVERY, "policy", "fast-autoaugment-imagenet", "Fast-AutoAugment with the policies found on ImageNet"),
    (TINY, BOTH_RSGD, "gamma0", None, "the automatic exponential focusing schedule"),
    (R50, "esgd", "epochs", 50, "For eSGD we train the model for 50 epochs"),
    (R50, "esgd", "eta.start", 0.8, "with η = 0.8"),
    (R50, "esgd", "eta.milestones", (18, 36, 48), "that drops by a factor of 10 at epochs 18, 36, 48"),
    (R50, "esgd", "eta_prime", 0.02, "and η' = 0.02"),
    (DENSE, "baseline rsgd-y", "epochs", 200, "except that we train the model for 200 epochs"),
    (DENSE, "baseline rsgd-y", "eta.milestones", (100, 150), "with learning rate drops at epochs 100 and 150"),
    (DENSE, "esgd", "epochs", 40, "For eSGD we train the model for 40 epochs"),
    (DENSE, "esgd", "eta.start", 0.5, "with η = 0.5"),
    (DENSE, "esgd", "eta.milestones", (25, 30), "that drops by a factor of 10 at epochs 25 and 30"),
    (DENSE, "esgd", "eta_prime", 0.02, "η' = 0.02"),
    (DENSE, "esgd", "gamma0", 1.0, "and we set γ₀ = 1.0"),
    (DENSE, "esgd", "gamma1", 2e-5, "and γ₁ = 2·10⁻⁵"),
]


def cells(table):
    """(row, column, field, value, sentence) of every cell that a line stands for; blanks of Table 1 left out."""
    for rows, columns, *values in table:
        for row in sorted(rows):
            yield from ((row, column, *values) for column in columns.split() if column in RECIPES[row])


@pytest.mark.parametrize("table", [GENERAL, C1, C2], ids=["general", "C.1", "C.2"])
def test_recipes_are_those_of_appendix_c(table):
    wrong = []
    for row, column, field, value, sentence in cells(table):
        actual = attrgetter(field)(RECIPES[row][column])
        if actual != value or isinstance(actual, bool) != isinstance(value, bool):
            wrong.append(f'{row} {column}: {field} is {actual}, the paper has {value}: "{sentence}"')
    assert not wrong, "\n".join(wrong)


def test_no_cell_is_forgotten():
    """Each recipe's network, data, epochs or their origin, batch, decay, first η are in the table above."""
    said = {(row, column, field) for row, column, field, *_ in cells(GENERAL + C1 + C2)}
    for row, columns in RECIPES.items():
        for column in columns:
            assert {(row, column, field) for field in ("batch", "weight_decay", "momentum", "eta.start")} <= said
        assert (row, "baseline", "epochs") in said and (row, "rsgd", "y") in said
        assert "esgd" not in columns or (row, "esgd", "eta_prime") in said


def test_optimizers_have_the_same_defaults():
    """Sections 4 and 6.1, where nothing else is asked for: L = 5, ε = 1e-4, α = 0.75, K = 10."""
    weight = nn.Parameter(torch.zeros(2))
    esgd = EntropySGD(torch.optim.SGD([weight], 0.1), torch.optim.SGD([weight], 0.1), gamma=1.0)
    assert (esgd.L, esgd.epsilon, esgd.alpha) == (5, 1e-4, 0.75)
    assert ReplicatedSGD([torch.optim.SGD([w], 0.1) for w in (weight, nn.Parameter(torch.ones(2)))], gamma=1.0).K == 10


# -- networks ----------------------------------------------------------------------------------------------------------


def network(row):
    """The network of a row; torchvision's are skipped where it is not."""
    recipe = RECIPES[row]["baseline"]
    if recipe.model not in ("smallconvnet", "resnet110", "pyramidnet272"):
        pytest.importorskip("torchvision")
    return make_model(recipe.model, 10, **recipe.model_options)


def test_small_conv_net():
    """Conv(5 × 5, 20) - MaxPool(2) - Conv(5 × 5, 50) - MaxPool(2) - Dense(500) - Softmax."""
    model = network(CONVNET[0])
    assert [(m.kernel_size, m.out_channels) for m in (model.conv1, model.conv2)] == [((5, 5), 20), ((5, 5), 50)]
    assert (model.pool1.kernel_size, model.pool2.kernel_size, model.dense.out_features) == (2, 2, 500)


def test_resnet18_is_that_of_torchvision():
    """13.1 % test error is that of the stem for ImageNet; the 3×3 one, with which it is half, is another `--model`."""
    model = network(R18[0])
    assert (model.conv1.kernel_size, model.conv1.stride, model.maxpool.stride) == ((7, 7), (2, 2), 2)
    assert make_model("resnet18", 10).conv1.kernel_size == (3, 3)


def test_depths():
    """ResNet-110; PyramidNet272-α200, ShakeDrop "with the same parameters as in the original paper": p_L = 0.5."""
    with torch.device("meta"):
        deep, wide = network(R110[0]), network(PYRAMID[0])
    assert sum(isinstance(m, nn.Conv2d) for m in deep.modules()) + 1 == 110
    assert sum(isinstance(m, nn.Conv2d) for m in wide.modules()) + 1 == 272
    last = wide.blocks[-1]
    assert (last.conv2.out_channels, last.shake_drop.keep) == (16 + 200, 0.5)
    assert (last.shake_drop.alpha, last.shake_drop.beta) == ((-1.0, 1.0), (0.0, 1.0))


def test_batch_normalisation_of_efficientnet_is_the_reference_s():
    """Tan & Le (2019), their code: momentum 0.99, which torch counts from the other end, and ε = 1e-3."""
    norms = [m for m in network(EFFICIENT[0]).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 49 and {(m.momentum, m.eps) for m in norms} == {(0.01, 1e-3)}


@pytest.mark.parametrize("row", [*R18, *R110, *EFFICIENT, *TINY])
def test_initialisation_is_kaiming_normal(row):
    """All networks but one: N(0, 2/fan), the one fan or the other, in every layer; biases 0."""
    torch.manual_seed(0)
    for name, layer in network(row).named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        weight = layer.weight
        n, fans = weight.numel(), (weight[0].numel(), weight.shape[0] * weight[0, 0].numel())
        kurtosis = weight.pow(4).mean() / weight.square().mean() ** 2  # 3 if normal, 1.8 if uniform
        assert abs(kurtosis - 3) < 6 * (24 / n) ** 0.5, name
        assert min(abs(weight.square().mean() * fan / 2 - 1) for fan in fans) < 5 * (2 / n) ** 0.5, name
        assert layer.bias is None or not layer.bias.any(), name


def test_initialisation_of_small_conv_net_is_torch_s():
    """The "default parameter initialization (PyTorch 1.3)": uniform within 1/√fan_in, biases too."""
    torch.manual_seed(0)
    for layer in network(CONVNET[0]):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound and 0 < layer.bias.abs().max() <= bound


def test_the_table_names_all_columns():
    assert set(COLUMNS) == set(EVERY.split())
