"""What torch users expect: resuming, schedulers, closures, mixed precision, compiled models, frozen parameters."""

import contextlib
import copy
import itertools

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bpflat.optim import EntropySGD, ReplicatedSGD, batchnorm_statistics
from tests.toy_networks import SGD, batches, loss_of, network, same_bits, through_file

BATCHES = batches(24)
BASES = {
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, **SGD),
    "adam": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.002, momentum=0.9),
}


class Run:
    """Models, the optimizer around them and its schedulers; `step` takes the next batch, one for each model."""

    def __init__(self, algorithm, base="nesterov", seed=0, **options):
        make = BASES[base]
        if algorithm == "esgd":
            self.models = [network(seed)]
            inner, outer = (
                make(self.models[0].parameters()),
                torch.optim.SGD(self.models[0].parameters(), lr=0.5, **SGD),
            )
            self.optimizer = EntropySGD(inner, outer, **({"gamma": 0.5, "L": 5, "epsilon": 1e-3, "seed": 0} | options))
            scheduled = [self.optimizer, inner]
        else:
            self.models = [network(seed + a) for a in range(3)]
            replicas = [make(model.parameters()) for model in self.models]
            self.optimizer = ReplicatedSGD(replicas, **({"gamma": 0.5, "K": 3} | options))
            scheduled = [self.optimizer]
        self.schedulers = [torch.optim.lr_scheduler.StepLR(o, 4, gamma=0.5) for o in scheduled]
        self.time = 0

    def step(self):
        self.optimizer.zero_grad()
        for a, model in enumerate(self.models):
            loss_of(model, BATCHES[(self.time + 7 * a) % len(BATCHES)]).backward()
        self.optimizer.step()
        self.time += 1
        if self.time % 3 == 0:
            for scheduler in self.schedulers:
                scheduler.step()
            self.optimizer.gamma *= 1.5

    def state(self):
        return {
            "models": [model.state_dict() for model in self.models],
            "optimizer": self.optimizer.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "time": self.time,
        }

    def load(self, state):
        for model, saved in zip(self.models, state["models"], strict=True):
            model.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        self.time = state["time"]


def weights(run):
    return [copy.deepcopy(model.state_dict()) for model in run.models]


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
@pytest.mark.parametrize("base", BASES)
def test_stopped_and_resumed_is_never_stopped(algorithm, base):
    whole, stopped = Run(algorithm, base), Run(algorithm, base)
    for _ in range(7):  # in the middle of a loop of 5, between interactions every 3
        whole.step()
        stopped.step()
    resumed = Run(algorithm, base, seed=100)
    resumed.load(through_file(stopped.state()))
    for _ in range(11):
        whole.step()
        resumed.step()
    assert same_bits(whole.state(), resumed.state())
    with whole.optimizer.centre(), resumed.optimizer.centre():
        assert same_bits(weights(whole), weights(resumed))


def test_state_before_the_first_step_can_be_loaded():
    for algorithm in ("esgd", "rsgd"):
        fresh, other = Run(algorithm), Run(algorithm)
        state = through_file(fresh.state())
        other.step()
        other.load(state)
        fresh.step()
        other.step()
        assert same_bits(fresh.state(), other.state())


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_loading_refuses_other_states_and_changes_nothing(algorithm):
    run = Run(algorithm)
    run.step()
    before = copy.deepcopy(run.state())
    linear = nn.Linear(3, 2)
    if algorithm == "esgd":
        bases = [torch.optim.SGD(linear.parameters(), lr=0.1) for _ in range(2)]
        other = EntropySGD(*bases, gamma=1.0)
    else:
        other = ReplicatedSGD([torch.optim.SGD(linear.parameters(), lr=0.1)], gamma=1.0)
    with pytest.raises(ValueError, match="of another model"):
        run.optimizer.load_state_dict(other.state_dict())
    incomplete = run.optimizer.state_dict()
    del incomplete["shapes"]
    for bad in (torch.optim.SGD(linear.parameters()).state_dict(), incomplete, {}, None):
        with pytest.raises(ValueError, match="no state_dict of such an optimizer"):
            run.optimizer.load_state_dict(bad)
    assert same_bits(before, run.state())


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_centre_is_restored_bit_for_bit(algorithm):
    disturbed, quiet = Run(algorithm), Run(algorithm)
    for _ in range(12):
        before = weights(disturbed)
        with disturbed.optimizer.centre():
            pass
        with contextlib.suppress(KeyboardInterrupt), disturbed.optimizer.centre(), torch.no_grad():
            next(disturbed.models[0].parameters()).add_(1.0)
            raise KeyboardInterrupt
        assert same_bits(before, weights(disturbed))
        disturbed.step()
        quiet.step()
    assert same_bits(disturbed.state(), quiet.state())


def test_centre_of_entropy_sgd_is_w():
    run = Run("esgd")
    for _ in range(5):
        run.step()
    w = [p.clone() for p in run.models[0].parameters()]  # after an outer step the parameters hold w
    for _ in range(3):
        run.step()
        assert not same_bits(w, list(run.models[0].parameters()))
        with run.optimizer.centre():
            assert same_bits(w, [p.data for p in run.models[0].parameters()])


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_inside_centre_nothing_else_may_happen(algorithm):
    run = Run(algorithm)
    run.step()
    with run.optimizer.centre():
        forbidden = [run.optimizer.step, run.optimizer.state_dict, run.optimizer.centre().__enter__]
        for call in forbidden + ([run.optimizer.distance] if algorithm == "rsgd" else []):
            with pytest.raises(RuntimeError, match="leave it first"):
                call()
    run.step()


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_schedulers_scale_the_learning_rates_they_are_given(algorithm):
    run = Run(algorithm)
    for _ in range(12):
        run.step()
    if algorithm == "esgd":
        assert run.optimizer.outer.param_groups[0]["lr"] == 0.25
        assert run.optimizer.inner.param_groups[0]["lr"] == 0.025
    else:
        assert [base.param_groups[0]["lr"] for base in run.optimizer.replicas] == [0.025] * 3


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_learning_rates_may_be_tensors(algorithm):
    runs = [Run(algorithm), Run(algorithm)]
    for group in runs[1].optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    if algorithm == "esgd":
        for group in runs[1].optimizer.inner.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    for run in runs:
        run.schedulers = []
        for _ in range(7):
            run.step()
    for one, other in zip(*(run.models[0].parameters() for run in runs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_closures(algorithm):
    with_closure, without = Run(algorithm), Run(algorithm)
    run = with_closure

    def closure():
        assert torch.is_grad_enabled()
        run.optimizer.zero_grad()
        losses = [loss_of(model, BATCHES[(run.time + 7 * a) % len(BATCHES)]) for a, model in enumerate(run.models)]
        for loss in losses:
            loss.backward()
        return sum(losses).item()

    for _ in range(2):
        assert run.optimizer.step(closure) > 0
        run.time += 1
        without.step()
    assert same_bits(weights(run), weights(without))
    with pytest.raises(ValueError, match="closure must return the loss"):
        run.optimizer.step(lambda: None)
    assert same_bits(weights(run), weights(without))


def test_clipping_clips_the_gradient_of_the_loss_alone():
    model = network().double()
    inner, outer = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    opt = EntropySGD(inner, outer, gamma=2.0, epsilon=0, L=3)
    w = [p.detach().clone() for p in model.parameters()]
    for t in range(2):
        opt.zero_grad()
        x, y = BATCHES[t]
        loss_of(model, (x.double(), y)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        assert abs(nn.utils.get_total_norm([p.grad for p in model.parameters()]) - 0.01) < 1e-5
        expected = [
            p.detach() - 0.1 * (p.grad + 2.0 * (p.detach() - a)) for p, a in zip(model.parameters(), w, strict=True)
        ]
        opt.step()
        for p, e in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(p.detach(), e, rtol=0, atol=1e-14)


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_grad_scaler(algorithm):
    scaled, plain = Run(algorithm), Run(algorithm)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(7):
        scaled.optimizer.zero_grad()
        for a, model in enumerate(scaled.models):
            scaler.scale(loss_of(model, BATCHES[(t + 7 * a) % len(BATCHES)])).backward()
        if t == 3:  # the order in which gradients are clipped
            scaler.unscale_(scaled.optimizer)
        scaler.step(scaled.optimizer)
        scaler.update()
        plain.optimizer.zero_grad()
        for a, model in enumerate(plain.models):
            loss_of(model, BATCHES[(t + 7 * a) % len(BATCHES)]).backward()
        plain.optimizer.step()
    assert same_bits(weights(scaled), weights(plain))  # a power of two changes no bit
    state = copy.deepcopy(scaled.state())
    scaled.optimizer.zero_grad()
    for model in scaled.models:
        scaler.scale(loss_of(model, BATCHES[0])).backward()
    next(scaled.models[-1].parameters()).grad[0] = float("inf")
    scaler.step(scaled.optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert same_bits(state["optimizer"], scaled.state()["optimizer"])
    for before, model in zip(state["models"], scaled.models, strict=True):
        assert same_bits([before[name] for name, _ in model.named_parameters()], [p.data for p in model.parameters()])


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_bfloat16(algorithm):
    """Autocast keeps weights and state in float32; a model in bfloat16 keeps them in bfloat16.  Both learn."""
    for convert in (False, True):
        run = Run(algorithm, epsilon=1e-4) if algorithm == "esgd" else Run(algorithm)
        dtype = torch.bfloat16 if convert else torch.float32
        for model in run.models:
            model.to(dtype)

        def loss(model, batch, convert=convert):
            inputs = batch[0].bfloat16() if convert else batch[0]
            with torch.autocast("cpu", torch.bfloat16, enabled=not convert):
                return nn.functional.cross_entropy(model(inputs).float(), batch[1])

        history = []
        for t in range(60):
            run.optimizer.zero_grad()
            losses = [loss(model, BATCHES[(t + 7 * a) % len(BATCHES)]) for a, model in enumerate(run.models)]
            sum(losses).backward()
            run.optimizer.step()
            history.append(sum(losses).item() / len(losses))
        assert {p.dtype for model in run.models for p in model.parameters()} == {dtype}
        if algorithm == "esgd":
            assert {t.dtype for state in run.optimizer.state.values() for t in state.values()} == {dtype}
        assert sum(history[-10:]) < 0.6 * sum(history[:10])


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_compiled_models(algorithm):
    """Compiled code reads the parameters in place: it follows the weights into centre(), without recompiling."""
    plain, compiled = Run(algorithm), Run(algorithm)
    torch.compiler.reset()
    compiled.models = [torch.compile(model, backend="aot_eager") for model in compiled.models]
    with torch.compiler.set_stance("default"):
        for t in range(6):
            if t == 1:
                torch.compiler.set_stance("fail_on_recompile")
            plain.step()
            compiled.step()
        torch.compiler.set_stance("default")
    for one, other in zip(plain.models[0].parameters(), compiled.models[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    with plain.optimizer.centre(), compiled.optimizer.centre(), torch.no_grad():
        for run in (plain, compiled):
            run.models[0].eval()
        x = BATCHES[0][0]
        torch.testing.assert_close(plain.models[0](x), compiled.models[0](x), rtol=0, atol=1e-5)


class Additive(nn.Module):
    """A table with sparse gradients and a dense layer whose losses add up, so that neither sees the other."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Embedding(6, 2, sparse=True, _weight=torch.randn(6, 2, generator=generator))
        self.dense = nn.Parameter(torch.randn(4, generator=generator))
        self.frozen = nn.Parameter(torch.randn(3, generator=generator), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(3, generator=generator))

    def loss(self, t):
        return (self.table(torch.tensor([t % 6, 2])) - 1).square().sum() + (self.dense - t).square().sum()


def test_sparse_frozen_and_unused_parameters_are_left_alone():
    """Table: the inner optimizer alone.  Dense: as if it were the only one.  The rest: untouched."""
    model, lone, table = Additive(0), Additive(0), Additive(0)
    inner = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (model, table)]
    outer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    opt = EntropySGD(inner[0], outer, gamma=0.5, epsilon=0.1, L=3, seed=0)
    bases = torch.optim.SGD([lone.dense], lr=0.05), torch.optim.SGD([lone.dense], lr=0.5, weight_decay=0.1)
    lone_opt = EntropySGD(*bases, gamma=0.5, epsilon=0.1, L=3, seed=0)
    untouched = model.frozen.clone(), model.unused.detach().clone()
    for t in range(7):
        for m, o in ((model, opt), (lone, lone_opt), (table, inner[1])):
            m.zero_grad()
            m.loss(t).backward()
            o.step()
    assert same_bits(model.dense.data, lone.dense.data)
    assert same_bits(model.table.weight.data, table.table.weight.data)
    assert same_bits(untouched, (model.frozen, model.unused.data))
    with opt.centre(), lone_opt.centre():
        assert same_bits(model.dense.data, lone.dense.data)
        assert same_bits(model.table.weight.data, table.table.weight.data)


def test_replicas_leave_sparse_and_frozen_parameters_alone():
    models, lone, tables = ([Additive(seed) for seed in range(2)] for _ in range(3))
    opt = ReplicatedSGD([torch.optim.SGD(m.parameters(), lr=0.05) for m in models], gamma=0.5, K=2)
    lone_opt = ReplicatedSGD([torch.optim.SGD([m.dense], lr=0.05) for m in lone], gamma=0.5, K=2)
    plain = [torch.optim.SGD(m.parameters(), lr=0.05) for m in tables]
    frozen = [m.frozen.clone() for m in models]
    for t in range(7):
        for m in itertools.chain(models, lone, tables):
            m.zero_grad()
            m.loss(t).backward()
        for o in (opt, lone_opt, *plain):
            o.step()
    for model, one, table, before in zip(models, lone, tables, frozen, strict=True):
        assert same_bits(model.dense.data, one.dense.data)
        assert same_bits(model.table.weight.data, table.table.weight.data)
        assert same_bits(model.frozen, before)
    with opt.centre():
        assert same_bits(models[0].frozen, frozen[0])
        torch.testing.assert_close(models[0].dense.data, (lone[0].dense.data + lone[1].dense.data) / 2)


def test_parameters_may_join_a_loop_late():
    """Without a gradient w' = μ = w; so joining late is exactly the algorithm with a gradient that was zero before."""
    p, q = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    inner, outer = (torch.optim.SGD([p, q], lr=lr) for lr in (0.1, 0.5))
    opt = EntropySGD(inner, outer, gamma=0.5, epsilon=0, L=4)
    for t in range(4):
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q) if t >= 2 else None
        opt.step()
    w, mu = 1.0, 1.0
    w_prime = w
    for t in range(4):
        w_prime -= 0.1 * ((t >= 2) + 0.5 * (w_prime - w))
        mu = 0.75 * mu + 0.25 * w_prime
    torch.testing.assert_close(
        q.detach(), torch.full((3,), w - 0.5 * (w - mu), dtype=torch.float64), rtol=0, atol=1e-14
    )
    assert (p < q).all()


def test_groups_are_added_to_the_wrapped_optimizers():
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    inner, outer = (torch.optim.SGD([p], lr=lr) for lr in (0.1, 0.5))
    opt = EntropySGD(inner, outer, gamma=0.5, epsilon=1e-3, L=2)
    with pytest.raises(ValueError, match=r"\.inner and \.outer"):
        opt.add_param_group({"params": [q]})
    for t in range(6):
        p.grad, q.grad = torch.ones(3), torch.ones(3)
        if t == 3:
            inner.add_param_group({"params": [q], "lr": 0.2})
            outer.add_param_group({"params": [q], "lr": 0.5})
        opt.step()
    assert (q < 1).all()
    assert len(opt.param_groups) == 2


class Operations(TorchDispatchMode):
    """Counts tensor operations, and refuses those that make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), function
        self.count += 1
        return function(*args, **(kwargs or {}))


def count_operations(algorithm, n_tensors):
    """Tensor operations of two loops of Entropy-SGD, or of as many steps of Replicated-SGD."""

    def make():
        return [nn.Parameter(torch.randn(3, 2)) for _ in range(n_tensors)]

    def base(params):
        return torch.optim.SGD(params, lr=0.1, foreach=True, **SGD)

    if algorithm == "esgd":
        models = [make()]
        opt = EntropySGD(base(models[0]), base(models[0]), gamma=0.5, epsilon=0.1, L=2)
    else:
        models = [make(), make()]
        opt = ReplicatedSGD([base(m) for m in models], gamma=0.5, K=2)
    for p in itertools.chain(*models):
        p.grad = torch.randn_like(p)
    for _ in range(4):  # makes momenta, w and μ
        opt.step()
    with Operations() as operations:
        for _ in range(4):
            opt.step()
    return operations.count


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_step_makes_no_operation_a_parameter_and_never_waits_for_the_device(algorithm):
    few, many = (count_operations(algorithm, n) for n in (2, 40))
    assert few == many


def batchnorm_twins():
    """A layer of known means behind BatchNorm, and dropout that must be off."""
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))


def test_batchnorm_statistics_are_those_of_the_current_weights():
    torch.manual_seed(0)
    model = batchnorm_twins()
    model[0].eval()  # modes are restored one by one
    data = [torch.randn(16, 2) + 3 for _ in range(4)]
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    with torch.no_grad():
        hidden = [model[1](x) for x in data]
    random_state = torch.get_rng_state()
    with batchnorm_statistics(model, [(x, None) for x in data]):
        torch.testing.assert_close(model[2].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
        torch.testing.assert_close(model[2].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
        assert not any(m.training for m in model.modules())
    assert torch.equal(random_state, torch.get_rng_state())
    assert same_bits(before, model.state_dict())
    assert [m.training for m in model.modules()] == modes
    assert model[2].momentum == 0.1
    with pytest.raises(ValueError, match="batches are empty"), batchnorm_statistics(model, []):
        pass
    assert same_bits(before, model.state_dict())
    with batchnorm_statistics(nn.Linear(2, 2), []):  # nothing to recompute
        pass


def test_batchnorm_of_entropy_sgd_follows_w_prime():
    """The statistics in centre() are those gathered along w'; recomputing gives those of w, and restores them."""
    run = Run("esgd")
    for _ in range(8):
        run.step()
    model, opt = run.models[0], run.optimizer
    gathered = copy.deepcopy(dict(model.named_buffers()))
    with opt.centre():
        assert same_bits(gathered, dict(model.named_buffers()))
        with torch.no_grad():
            expected = torch.stack([model[0](x).mean((0, 2, 3)) for x, _ in BATCHES]).mean(0)
        with batchnorm_statistics(model, BATCHES):
            torch.testing.assert_close(model[1].running_mean, expected, rtol=0, atol=1e-6)
            assert not torch.allclose(model[1].running_mean, gathered["1.running_mean"], atol=1e-3)
    assert same_bits(gathered, dict(model.named_buffers()))


def test_centre_averages_the_batchnorm_statistics_of_the_replicas():
    run = Run("rsgd")
    for _ in range(4):
        run.step()
    buffers = [copy.deepcopy(dict(model.named_buffers())) for model in run.models]
    with run.optimizer.centre():
        assert same_bits(buffers[0], dict(run.models[0].named_buffers()))
    with run.optimizer.centre(run.models):
        for name in ("1.running_mean", "1.running_var"):
            mean = sum(b[name] for b in buffers) / 3
            torch.testing.assert_close(run.models[0].get_buffer(name), mean, rtol=1e-6, atol=1e-7)
        assert same_bits(buffers[1:], [dict(model.named_buffers()) for model in run.models[1:]])
    assert same_bits(buffers, [dict(model.named_buffers()) for model in run.models])
    with (
        pytest.raises(ValueError, match="models are 1, but this process has 3 replicas"),
        run.optimizer.centre(run.models[:1]),
    ):
        pass
