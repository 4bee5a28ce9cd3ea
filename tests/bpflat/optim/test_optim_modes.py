"""Entropy-SGD between eval() and train(), and optimizers made of one base class."""

import copy
import functools

import pytest
import torch
from torch import nn

from bpflat.optim import EntropySGD, ReplicatedSGD
from tests.bpflat.optim.toy_networks import SGD, Run, network, same_bits, through_file, weights


def test_eval_shows_w_and_train_gives_w_prime_back():
    switched, quiet = Run("esgd"), Run("esgd")
    for _ in range(12):
        with quiet.optimizer.centre():
            centre = weights(quiet)
        before = weights(switched)
        for _ in range(2):  # the second changes nothing
            switched.optimizer.eval()
            assert same_bits(weights(switched), centre)
        with switched.optimizer.centre(), torch.no_grad():
            assert same_bits(weights(switched), centre)
            next(switched.models[0].parameters()).add_(1.0)
        assert same_bits(weights(switched), centre)
        for _ in range(2):
            switched.optimizer.train()
            assert same_bits(weights(switched), before)
        switched.step()
        quiet.step()
    assert same_bits(switched.state(), quiet.state())


def test_no_step_after_eval_and_no_switch_inside_centre():
    run = Run("esgd")
    run.step()
    with run.optimizer.centre():
        for switch in (run.optimizer.eval, run.optimizer.train):
            with pytest.raises(RuntimeError, match="leave it first"):
                switch()
    run.optimizer.eval()
    before = copy.deepcopy(run.optimizer.state_dict())
    with pytest.raises(RuntimeError, match=r"call train\(\) of the optimizer"):
        run.optimizer.step(lambda: pytest.fail("the closure was evaluated"))
    assert same_bits(before, run.optimizer.state_dict())


@pytest.mark.parametrize("steps", [5, 7])
def test_what_is_saved_after_eval_holds_w_and_goes_on_from_w_prime(steps):
    whole, stopped, resumed = Run("esgd"), Run("esgd"), Run("esgd", seed=100)
    for _ in range(steps):  # to the end of a loop of 5, and to the middle of one
        whole.step()
        stopped.step()
    stopped.optimizer.eval()
    saved = through_file(stopped.state())
    with whole.optimizer.centre():
        assert same_bits(saved["models"], weights(whole))
    resumed.load(saved)
    twin = Run("esgd")
    twin.models, twin.optimizer, twin.time, twin.schedulers = *copy.deepcopy((stopped.models, stopped.optimizer)), 0, []
    for run in (resumed, twin):
        with pytest.raises(RuntimeError, match="call train"):
            run.optimizer.step()
        run.optimizer.train()
        assert same_bits(weights(run), weights(whole))
    for _ in range(6):
        whole.step()
        resumed.step()
    assert same_bits(whole.state(), resumed.state())


def test_entropy_sgd_from_one_base_class():
    """The same as the two optimizers made by hand, groups with options of their own included."""
    runs = [Run("esgd"), Run("esgd")]
    options = {"momentum": 0.9, "nesterov": True}
    loop = {"gamma": 0.5, "L": 3, "epsilon": 1e-3, "alpha": 0.5, "reset_inner": True, "seed": 3}

    def groups(model, **head):
        params = list(model.parameters())
        return [{"params": params[:2], "weight_decay": 0.1}, {"params": iter(params[2:]), **head}]

    inner = torch.optim.SGD(groups(runs[0].models[0], lr=0.2), lr=0.1, **options)
    outer = torch.optim.SGD(groups(runs[0].models[0]), lr=0.7, **options)
    runs[0].optimizer = EntropySGD(inner, outer, **loop)
    given = groups(runs[1].models[0], lr=0.2)
    runs[1].optimizer = EntropySGD.from_base(given, torch.optim.SGD, lr=0.1, outer_lr=0.7, **loop, **options)
    for run in runs:
        run.schedulers = []
        for _ in range(7):
            run.step()
    assert same_bits(runs[0].state(), runs[1].state())
    assert runs[1].optimizer.defaults["lr"] == 0.7


def test_any_base_class_over_any_parameters():
    model = network()
    base = functools.partial(torch.optim.RMSprop, alpha=0.8)
    opt = EntropySGD.from_base(model.parameters(), base, lr=0.01, gamma=1.0, outer_lr=0.5)
    assert [o.defaults["alpha"] for o in (opt.inner, opt.outer)] == [0.8, 0.8]
    assert [o.param_groups[0]["lr"] for o in (opt.inner, opt.outer)] == [0.01, 0.5]
    for cls, params in ((EntropySGD, model.parameters()), (ReplicatedSGD, [model.parameters()])):
        rate = {"outer_lr": 0.5} if cls is EntropySGD else {}
        with pytest.raises(ValueError, match=r"base must be a class of torch optimizers.* not 'SGD'"):
            cls.from_base(params, "SGD", gamma=1.0, **rate)
    with pytest.raises(ValueError, match="inner must be a torch optimizer"):
        EntropySGD.from_base(model.parameters(), lambda params, lr=None: params, gamma=1.0, outer_lr=0.5)
    with pytest.raises(ValueError, match="outer_lr must be a number"):
        EntropySGD.from_base(model.parameters(), torch.optim.SGD, gamma=1.0, outer_lr="fast")


def test_replicated_sgd_from_one_base_class():
    runs = [Run("rsgd"), Run("rsgd")]
    runs[1].optimizer = ReplicatedSGD.from_base(
        [model.parameters() for model in runs[1].models], torch.optim.SGD, lr=0.05, gamma=0.5, K=3, **SGD
    )
    for run in runs:
        run.schedulers = []
        for _ in range(7):
            run.step()
    assert same_bits(weights(runs[0]), weights(runs[1]))
    with pytest.raises(ValueError, match="replicas must be a sequence"):
        ReplicatedSGD.from_base(nn.Linear(2, 2).parameters(), torch.optim.SGD, lr=0.1, gamma=1.0)
