"""Which tensors the optimizers touch and how: sparse and frozen ones, BatchNorm, operations."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bpflat.optim import EntropySGD, ReplicatedSGD, batchnorm_statistics
from tests.bpflat.optim.toy_networks import BATCHES, SGD, Run, same_bits


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
    """Joining late is the algorithm with a gradient that was zero before: w' = μ = w where there is none."""
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
