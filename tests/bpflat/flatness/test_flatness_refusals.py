"""`local_energy` refuses models that it cannot perturb, or that do not repeat themselves, and no others."""

import contextlib
import functools
import types

import numpy as np
import pytest
import torch
from torch import distributed, fx, nn
from torch.nn import functional as F

from bpflat.flatness import local_energy
from tests.bpflat.flatness.toy_models import untouched

DRAWS = {"n_samples": 4, "seed": 0}
INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(40) % 3
DATA = (INPUTS, TARGETS)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


class Holder(nn.Module):
    """A network as a submodule, called through whatever `make` gives."""

    def __init__(self, make, net=None):
        super().__init__()
        self.net = network() if net is None else net
        self.call = make(self.net)

    def forward(self, x):
        return self.call(x)


class KeepsItself(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        return self.net(x)


class BuildsAnother(KeepsItself):
    def __deepcopy__(self, memo):
        twin = type(self)()
        twin.load_state_dict(self.state_dict())
        return twin


class Fused(nn.Module):
    """Computes with weights that were multiplied once and for all."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(4, 3))
        self.fused = (self.a @ self.b).detach()

    def forward(self, x):
        return x @ self.fused


class FusedAtFirst(Fused):
    def __init__(self):
        super().__init__()
        self.fused = None

    def forward(self, x):
        if self.fused is None:
            self.fused = self.a @ self.b
        return x @ self.fused


class Counts(nn.Module):
    """A state between calls."""

    def __init__(self):
        super().__init__()
        self.net, self.n = network(), 0

    def forward(self, x):
        self.n += 1
        return self.net(x) * self.n


def patched():
    model = network()
    original = model.forward
    model.forward = lambda x: original(x) + 1
    return model


def hooked():
    model = nn.ModuleDict({"net": network(), "adapter": nn.Linear(6, 3)})
    adapter = model["adapter"]
    model["net"].register_forward_hook(lambda module, inputs, outputs: outputs + adapter(inputs[0]))
    model.forward = functools.partial(_first, model)
    return model


def _first(model, x):
    return model["net"](x)


def half_closed():
    """The head is perturbed, the body is not: δE > 0, but that of another question."""
    model = nn.ModuleDict({"body": nn.Linear(6, 8), "head": nn.Linear(8, 3)})
    body = model["body"]

    def forward(self, x):
        return self["head"](body(x))

    model.forward = types.MethodType(forward, model)
    return model


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.script(network()), "the model is of torch.jit.*pass the Python module"),
        (lambda: torch.jit.trace(network(), INPUTS), "the model is of torch.jit"),
        (lambda: nn.Sequential(torch.jit.script(network()), nn.Linear(3, 3)), "module 0 is of torch.jit"),
        (lambda: Holder(lambda net: lambda x: net(x)), r"parameters of the model itself \(net.0.weight, .* and 1 more"),
        (half_closed, r"parameters of the model itself \(body.weight, body.bias\)"),
        (patched, "held by a closure, a hook, a patched forward"),
        (hooked, r"parameters of the model itself \(adapter.weight, adapter.bias\)"),
        (KeepsItself, "does not have the copy of its parameter net.0.weight.*__deepcopy__"),
        (BuildsAnother, "does not have the copy of its parameter net.0.weight.*__deepcopy__"),
        (lambda: nn.Sequential(BuildsAnother(), nn.Linear(3, 3)), "does not have the copy of its parameter 0.net.0"),
        (Fused, "do not depend on the parameters to be perturbed.*stored copies"),
        (FusedAtFirst, "do not depend on the parameters to be perturbed.*stored copies"),
        (lambda: Holder(lambda net: lambda x: x[:, :3]), "do not depend on the parameters to be perturbed"),
        (lambda: Holder(lambda net: lambda x: F.dropout(net(x))), "parameters of the model itself|do not agree"),
        (lambda: nn.Sequential(network(), Holder(lambda net: F.dropout, nn.Identity())), "two passes.*do not agree"),
        (Counts, "two passes over the same batch do not agree.*keeps a state"),
    ],
)
def test_refused(make, message):
    model = make()
    with pytest.raises(ValueError, match=message), same_parameters(model):
        local_energy(model, DATA, [0.1, 0.5], **DRAWS)


@contextlib.contextmanager
def same_parameters(model):
    """The like of `untouched`, which copies the model, for models that cannot be copied; random numbers too."""

    def now():
        numbers = [(id(t), t._version, t.tolist()) for t in (*model.parameters(), *DATA)]
        return numbers, [m.training for m in model.modules()], torch.get_rng_state().tolist()

    before = now()
    try:
        yield
    finally:
        assert now() == before


@pytest.mark.parametrize("batch_norm", ["frozen", "recompute"])
def test_forward_that_ignores_the_model(batch_norm):
    model = network()
    for forward, message in (
        (lambda _, batch: model(batch[0]), r"parameters of the model itself \(0.weight"),
        (lambda _, batch: batch[0][:, :3], "do not depend on the parameters"),
    ):
        with pytest.raises(ValueError, match=message), untouched(model, *DATA):
            local_energy(model, DATA, [0.1], forward=forward, batch_norm=batch_norm, **DRAWS)


def test_sharded_parameters(tmp_path):
    tensor = pytest.importorskip("torch.distributed.tensor")
    if not distributed.is_gloo_available():
        pytest.skip("needs gloo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        model = tensor.distribute_module(network(), mesh)
        with pytest.raises(ValueError, match=r"parameter 0.weight is a DTensor; gather it .*full_tensor\(\)"):
            local_energy(model, DATA, [0.1], split=False, **DRAWS)
    finally:
        distributed.destroy_process_group()


class Signs(nn.Module):
    """Discrete outputs, hence none that changes for most noise."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return torch.where(x @ self.w >= 0, 1.0, -1.0)


def dead_units():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    return model


def scaled(factor):
    model = network()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(factor)
    return model


def rebound():
    model = network()

    def forward(self, x):
        return self[2](self[1](self[0](x)))

    model.forward = types.MethodType(forward, model)
    return model


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 3, 2, batch_first=True)

    def forward(self, x):
        return self.lstm(x.view(len(x), 2, 3))[0][:, -1]


class TestNotRefused:
    """No false alarms."""

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(
        ("make", "options"),
        [
            (network, {}),
            (network, {"parameters": ["0.bias"]}),
            (dead_units, {}),
            (lambda: scaled(0.0), {}),  # multiplicative noise leaves zeros alone, and δE = 0 is right
            (lambda: scaled(1e6), {}),
            (lambda: scaled(1e-6), {}),
            (rebound, {}),
            (lambda: Holder(lambda net: net), {}),
            (lambda: Holder(lambda net: net.forward), {}),
            (lambda: fx.symbolic_trace(network()), {}),
            (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), {}),
            (lambda: nn.Sequential(torch.compile(network(), backend="eager"), nn.Linear(3, 3)), {}),
            (Recurrent, {}),
            (network, {"precision": "bfloat16"}),
            (lambda: network().bfloat16(), {}),
        ],
    )
    def test_measured(self, make, options):
        model = make()
        profile = local_energy(model, DATA, [0.1, 0.5], **DRAWS, **options)
        assert np.isfinite(profile.delta_loss).all()

    def test_patched_forward_that_copies(self):
        """A method bound to the model is bound to the copy: the same numbers as without it."""
        plain, bound = (local_energy(m, DATA, [0.5], **DRAWS) for m in (network(), rebound()))
        assert plain.delta_loss == bound.delta_loss

    @pytest.mark.parametrize("seed", range(8))
    def test_one_pattern_and_discrete_outputs(self, seed):
        local_energy(Signs(), (INPUTS[seed : seed + 1], torch.ones(1)), [0.1], n_samples=2, seed=seed)

    def test_unused_head(self):
        """A warning that names it, and the numbers of the model without it."""
        model = nn.ModuleDict({"net": network(), "auxiliary": nn.Linear(8, 2)})
        model.forward = functools.partial(_first, model)
        with pytest.warns(UserWarning, match=r"2 of 6 parameters are not used by the model.*: auxiliary.weight, aux"):
            profile = local_energy(model, DATA, [0.5], **DRAWS)
        used = [name for name, _ in model.named_parameters() if "net" in name]
        assert profile.delta_loss != 0
        assert local_energy(model, DATA, [0.5], parameters=used, **DRAWS).delta_loss != 0
        with pytest.raises(ValueError, match=r"do not depend on .* \(auxiliary.weight, auxiliary.bias\)"):
            local_energy(model, DATA, [0.5], parameters=lambda name: "auxiliary" in name, **DRAWS)

    def test_rounding_is_no_disagreement(self):
        """What sums in another order change passes; a part in a hundred does not."""
        local_energy(Jitter(1e-6), DATA, [0.5], **DRAWS)
        with pytest.raises(ValueError, match="do not agree"):
            local_energy(Jitter(1e-2), DATA, [0.5], **DRAWS)


class Jitter(nn.Module):
    """Outputs that are too large and too small in turn."""

    def __init__(self, size):
        super().__init__()
        self.layer, self.size = nn.Linear(6, 3), size

    def forward(self, x):
        self.size *= -1
        return self.layer(x) * (1 + self.size)


class TestNotANumber:
    @pytest.mark.parametrize("options", [{}, {"batch_size": 8}, {"subset": 20}, {"resident": False}])
    def test_inputs(self, options):
        """Found wherever it is; the data and the model are left alone."""
        model, inputs = network(), INPUTS.clone()
        inputs[23, 2] = torch.nan
        message = "data: the inputs of pattern 23 have NaN entries"
        with pytest.raises(ValueError, match=message), untouched(model, TARGETS):
            local_energy(model, (inputs, TARGETS), [0.1], **DRAWS, **options)
        batches = list(zip(inputs.split(9), TARGETS.split(9), strict=True))
        if "subset" not in options:
            with pytest.raises(ValueError, match=message):
                local_energy(model, batches, [0.1], **DRAWS, **options)

    def test_inputs_of_the_augmentation(self):
        with pytest.raises(ValueError, match="the inputs of pattern 0 have NaN"):
            local_energy(network(), DATA, [0.1], augment=lambda x: x * torch.nan, **DRAWS)

    def test_model_that_swallows_them(self):
        """A sign makes −1 of NaN: refused all the same; a forward of one's own may mean it."""
        inputs = INPUTS.clone()
        inputs[3, 3] = torch.nan
        data = (inputs, (TARGETS == 0).long())
        with pytest.raises(ValueError, match="the inputs of pattern 3 have NaN"):
            local_energy(Signs(), data, [0.1], **DRAWS)
        profile = local_energy(Signs(), data, [0.1], forward=lambda model, batch: model(batch[0].nan_to_num()), **DRAWS)
        assert np.isfinite(profile.delta_loss).all()

    def test_outputs(self):
        """Finite data, an overflow at w itself."""
        message = "loss of pattern 0 of the data is not a number, without any noise: do the outputs overflow"
        model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(1e30)
        with pytest.raises(ValueError, match=message), untouched(model, *DATA):
            local_energy(model, (INPUTS.abs(), TARGETS), [0.1], **DRAWS)


def test_settings_after_a_refusal():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with pytest.raises(ValueError, match="do not agree"):
        local_energy(Counts(), DATA, [0.1], precision="tf32", **DRAWS)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
