"""`local_energy` of any model, batch and loss: by `forward`, `loss` and `error`."""

import collections
import dataclasses
import gc

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import Tensor, nn
from torch.nn import functional as F

from bpflat.flatness import local_energy
from tests.bpflat.flatness.toy_models import copy_with_gradients, trained, untouched

SIGMAS = [0.2, 0.5]
ARRAYS = ("sigma", "delta_error", "std_error", "train_error", "train_loss", "delta_loss", "loss_std_error", "n_samples")


@dataclasses.dataclass(frozen=True)
class Output:
    logits: Tensor
    hidden: None = None


@dataclasses.dataclass
class Sample:
    image: Tensor
    label: Tensor
    weight: float = 1.0


Pair = collections.namedtuple("Pair", "image label")


@pytest.fixture
def small():
    model, inputs, targets = trained()
    return copy_with_gradients(model), inputs.clone(), targets.clone()


def same_bits(a, b):
    for name in ARRAYS:
        assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.reference == b.reference


class Form:
    """A batch of some form, and the three functions that know it."""

    def __init__(self, make, image, label):
        self.make = make
        self.options = {
            "forward": lambda model, batch: Output(model(image(batch))),
            "loss": lambda outputs, batch: F.cross_entropy(outputs.logits.float(), label(batch), reduction="none"),
            "error": lambda outputs, batch: outputs.logits.argmax(1) != label(batch),
        }


FORMS = {
    "dict": Form(lambda x, y: {"x": x, "y": y, "name": None}, lambda b: b["x"], lambda b: b["y"]),
    "dataclass": Form(Sample, lambda b: b.image, lambda b: b.label),
    "namedtuple": Form(Pair, lambda b: b.image, lambda b: b.label),
    "nested": Form(lambda x, y: ({"x": [x]}, y, 3.0), lambda b: b[0]["x"][0], lambda b: b[1]),
    "UserDict": Form(lambda x, y: collections.UserDict(x=x, y=y), lambda b: b["x"], lambda b: b["y"]),
}


class TestWrapped:
    """A model that is called by `forward` has the profile of the plain one, to the bit."""

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"batch_size": 37},
            {"subset": 20},
            {"antithetic": True, "common": False},
            {"batch_norm": "recompute", "block_size": 40},
            {"parameters": "weights", "channels_last": True},
            {"tolerance": 0.03, "n_samples": 60},
        ],
        ids=str,
    )
    def test_same_bits(self, small, form, options):
        model, inputs, targets = small
        form = FORMS[form]
        options = {"n_samples": 6, "seed": 5, **options}
        plain = local_energy(model, (inputs, targets), SIGMAS, **options)
        with untouched(model, inputs, targets):
            wrapped = local_energy(model, form.make(inputs, targets), SIGMAS, **form.options, **options)
        same_bits(plain, wrapped)

    def test_augmentation(self, small):
        model, inputs, targets = small
        options = {"n_samples": 4, "seed": 3, "block_size": 30}
        plain = local_energy(model, (inputs, targets), SIGMAS, augment=lambda x: x + torch.randn_like(x), **options)

        def augment(batch):
            batch["x"] += torch.randn_like(batch["x"])
            return batch

        data = {"x": inputs, "y": targets}
        with untouched(model, inputs):
            wrapped = local_energy(model, data, SIGMAS, augment=augment, **FORMS["dict"].options, **options)
        same_bits(plain, wrapped)

    @pytest.mark.parametrize("resident", [None, False])
    def test_batches(self, small, resident):
        """A list of dicts, of arrays too, and a DataLoader that makes them."""
        model, inputs, targets = small
        options = {"n_samples": 4, "seed": 3, "resident": resident}
        parts = list(zip(inputs.split(25), targets.split(25), strict=True))
        plain = local_energy(model, parts, SIGMAS, **options)
        given = [{"x": x.numpy(), "y": y.numpy(), "name": None} for x, y in parts]
        same_bits(plain, local_energy(model, given, SIGMAS, **FORMS["dict"].options, **options))
        rows = [{"x": x, "y": y} for x, y in zip(inputs, targets, strict=True)]
        loader = torch.utils.data.DataLoader(rows, batch_size=25)
        same_bits(plain, local_energy(model, loader, SIGMAS, **FORMS["dict"].options, **options))

    def test_forward_alone(self, small):
        """Pairs and the error of a classifier; inputs may be of any form."""
        model, inputs, targets = small
        options = {"n_samples": 4, "seed": 3}
        plain = local_energy(model, (inputs, targets), SIGMAS, **options)
        data = ({"x": inputs}, targets)
        same_bits(plain, local_energy(model, data, SIGMAS, forward=lambda m, b: m(b[0]["x"]), **options))

    def test_loss_alone(self, small):
        """The model is called with the inputs; without `error` there is none, and δE is not made up."""
        model, inputs, targets = small
        plain = local_energy(model, (inputs, targets), SIGMAS, n_samples=4, seed=3)
        options = {"n_samples": 4, "seed": 3, "loss": lambda o, b: F.cross_entropy(o, b[1], reduction="none")}
        profile = local_energy(model, (inputs.double().numpy(), targets.int()), [0, *SIGMAS], **options)
        assert_array_equal(profile.delta_loss[1:], plain.delta_loss)
        assert np.isnan([profile.train_error, *profile.delta_error, *profile.std_error]).all()
        assert profile.delta_loss[0] == 0

    def test_error_alone(self, small):
        """Top-2 errors beside the cross-entropy."""
        model, inputs, targets = small
        plain = local_energy(model, (inputs, targets), SIGMAS, n_samples=20, seed=3)

        def top2(outputs, batch):
            return (outputs.topk(2).indices != batch[1][:, None]).all(1)

        profile = local_energy(model, (inputs, targets), SIGMAS, n_samples=20, seed=3, error=top2)
        assert_array_equal(profile.delta_loss, plain.delta_loss)
        assert 0 < profile.delta_error[1] < plain.delta_error[1]

    def test_compiled(self, small, monkeypatch):
        """`forward` gets the compiled model."""
        original, seen = torch.compile, []
        monkeypatch.setattr("torch.compile", lambda model, mode: original(model, backend="eager"))
        options = {**FORMS["dict"].options, "n_samples": 3, "seed": 0}
        forward = options["forward"]
        options["forward"] = lambda model, batch: (seen.append(type(model).__name__), forward(model, batch))[1]
        data = {"x": small[1], "y": small[2]}
        plain, compiled = (local_energy(small[0], data, SIGMAS, **options, compile=c) for c in (False, True))
        same_bits(plain, compiled)
        assert {"OptimizedModule", "SmallNet"} == set(seen)


def _cross_entropy(outputs, batch):
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def test_bad_input(small):
    model, inputs, targets = small
    data = {"x": inputs, "y": targets}
    call = {"forward": lambda model, batch: model(batch["x"]), "loss": _cross_entropy}
    pairs = (inputs, targets)
    parts = [{"x": x, "y": y} for x, y in zip(inputs.split(30), targets.split(30), strict=True)]
    bad_image = inputs.clone()
    bad_image[61, 0, 0, 0] = torch.nan

    def returning(values):
        return {**call, "loss": lambda outputs, batch: values(_cross_entropy(outputs, batch))}

    def erring(values):
        return {**call, "error": lambda outputs, batch: values(outputs.argmax(1) != batch["y"])}

    cases = [
        (data, {}, r"must be \(inputs, targets\) or batches of such.*wrap the model: local_energy\(.*forward=lambda"),
        (parts, {}, "not batches of dict; or wrap the model"),
        (pairs, {"forward": lambda model, batch: Output(model(batch[0]))}, "not Output.*wrap the model: forward"),
        (pairs, {"forward": lambda model, batch: model(batch["x"])}, "forward cannot be applied to a batch .*TypeEr"),
        (pairs, {"loss": 3}, "loss must be a function, not 3"),
        (pairs, {"error": "top5"}, "error must be a function, not 'top5'"),
        (data, returning(Tensor.mean), r"loss must return a value for each pattern, shape \(90,\).*not \(\): no mean"),
        (data, returning(lambda v: v.mean()[None]), r"shape \(90,\) or \(90, ...\), not \(1,\): no mean"),
        (data, returning(lambda v: v[:-1]), r"shape \(90,\) or \(90, ...\), not \(89,\)"),
        (data, returning(lambda v: v.mean().item()), "loss must return a tensor of real numbers.*not float"),
        (data, returning(lambda v: (v, v[:5])), r"weights of the shape of its values, \(90,\), not \(5,\)"),
        (data, returning(lambda v: (v, -torch.ones(90))), "weights that are finite and not negative"),
        (data, returning(lambda v: (v, torch.zeros(90))), "all weights .* are 0: nothing to average"),
        (data, returning(torch.zeros_like), "do not depend on the parameters"),
        (data, returning(lambda v: v + torch.rand(())), "two passes .* do not agree.*`loss` or `error` does"),
        (
            data,
            returning(lambda v: v.where(torch.arange(90) != 47, torch.nan)),
            "loss of pattern 47 of the data is not a number",
        ),
        (data, erring(lambda v: v.float() - 0.5), "error must lie between 0 and 1; found values from -0.5"),
        (data, erring(lambda v: v.float().mean()), r"error must return a value for each pattern, shape \(90,\)"),
        (data, erring(lambda v: v.float() * torch.nan), "error of pattern 0 of the data is not a number"),
        (
            {**data, "x": bad_image},
            call,
            "loss of pattern 61 of the data is not a number, without any noise: the data have NaN",
        ),
        ([*parts[:2], {"x": inputs, "z": targets}], call, "batch 2 is {x: tensor, z: tensor}, not {x: tensor, y:"),
        ([*parts[:2], parts[2]["x"]], call, "batch 2 is tensor, not {x: tensor"),
        ([{"x": "a.png", "y": "cat"}], call, "batches of the data must hold tensors, not only {x: str, y: str}"),
        ({"x": inputs[:0], "y": targets[:0]}, call, "the data set is empty"),
        ([], call, "the data set is empty"),
        (data, {**call, "augment": lambda batch: {"x": batch["x"][1:], "y": batch["y"][1:]}}, "augment must return"),
        ({"x": inputs, "y": targets[:5]}, {**call, "subset": 4}, "a subset cannot be drawn"),
        ((inputs, targets[:5]), {"loss": lambda outputs, batch: outputs}, "need a row for each of the inputs"),
    ]
    for given, options, message in cases:
        for resident in (None, False):
            with pytest.raises(ValueError, match=message), untouched(model, inputs, targets):
                local_energy(model, given, [0.1], n_samples=4, **options, resident=resident)
                pytest.fail(message)


def test_keys_that_change_between_passes(small):
    """Streamed batches are looked at in every pass."""
    model, inputs, targets = small

    class Changing:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield {"x": inputs, "y" if self.passes == 1 else "label": targets}

    call = {"forward": lambda model, batch: model(batch["x"]), "loss": _cross_entropy, "resident": False}
    with pytest.raises(ValueError, match=r"batch 0 is {label: tensor, x: tensor}, not {x"), untouched(model, inputs):
        local_energy(model, Changing(), [0.1], n_samples=4, **call)


def test_function_that_writes_into_the_data(small):
    model, inputs, targets = small

    def loss(outputs, batch):
        batch["y"].clamp_(max=2)
        return _cross_entropy(outputs, batch)

    options = {"n_samples": 3, "seed": 0, "forward": lambda model, batch: model(batch.pop("x").mul_(2).div_(2))}
    with untouched(model, inputs, targets):
        profile = local_energy(model, {"x": inputs, "y": targets}, SIGMAS, **options, loss=loss)
        clamped = local_energy(model, {"x": inputs, "y": targets.clamp(max=2)}, SIGMAS, **options, loss=_cross_entropy)
    assert_array_equal(profile.delta_loss, clamped.delta_loss)


class Weighs(nn.Module):
    """Notes the bytes of all tensors that there are, at every call."""

    held: list = []  # noqa: RUF012  (shared with copies of the model, on purpose)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1000, 1000)

    def forward(self, x):
        tensors = [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided]
        storages = [t.untyped_storage() for t in tensors if t.device.type == "cpu"]
        self.held.append(sum({s._cdata: s.nbytes() for s in storages}.values()))
        return self.layer(x)


def test_extra_memory(monkeypatch):
    """Twice the weights, as the docstring says: the copy, and a number of the noise for each."""
    monkeypatch.setattr(Weighs, "held", [])
    model, data = Weighs(), (torch.randn(2, 1000), torch.tensor([0, 1]))
    gc.collect()
    model(data[0])
    local_energy(model, data, [0.1, 0.2], n_samples=2, seed=0)
    before, *during = Weighs.held
    extra = (np.array(during) - before) / sum(4 * p.numel() for p in model.parameters())
    assert 1.99 < extra.max() < 2.01
