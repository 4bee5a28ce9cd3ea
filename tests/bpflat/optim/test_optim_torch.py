"""What torch users expect: resuming, schedulers, closures, clipping, mixed precision, compiled models."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from bpflat.optim import EntropySGD, ReplicatedSGD
from tests.bpflat.optim.toy_networks import BASES, BATCHES, Run, loss_of, network, same_bits, through_file, weights


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


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_a_closure_that_returns_none_and_leaves_no_gradients_is_a_skipped_step(algorithm):
    """Nothing of it in weights, states, noise and counts.  With gradients it is a step, as in torch."""
    skipping, plain = Run(algorithm), Run(algorithm)
    for t in range(7):
        if t in (2, 4):
            assert skipping.optimizer.step(skipping.optimizer.zero_grad) is None
        skipping.step()
        plain.step()
    assert same_bits(skipping.state(), plain.state())
    for run, closure in ((skipping, lambda: None), (plain, None)):
        gradients(run, 0)
        run.optimizer.step(closure)
    assert same_bits(skipping.state(), plain.state())


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_state_tensors_may_be_replaced_by_equal_ones(algorithm):
    """Trainers do so that move a state to a device."""
    disturbed, quiet = Run(algorithm), Run(algorithm)
    for t in range(12):
        if t % 2:
            states = [disturbed.optimizer.state, *(o.state for o in wrapped(disturbed))]
            for state in states:
                for p, own in state.items():
                    state[p] = {k: v.clone() if torch.is_tensor(v) else v for k, v in own.items()}
        disturbed.step()
        quiet.step()
    assert same_bits(disturbed.state(), quiet.state())


SCHEDULERS = {
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=3),
}


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_of_the_momentum(algorithm, scheduler):
    """They read the defaults, and schedule the outer optimizer or the replicas as they schedule those alone."""
    run, alone = Run(algorithm), Run(algorithm)
    ours = SCHEDULERS[scheduler](run.optimizer)
    scheduled = [alone.optimizer.outer] if algorithm == "esgd" else alone.optimizer.replicas
    theirs = [SCHEDULERS[scheduler](o) for o in scheduled]
    assert run.optimizer.defaults["momentum"] == 0.9
    for _ in range(5):
        run.optimizer.step()
        ours.step()
        for optimizer, other in zip(scheduled, theirs, strict=True):
            optimizer.step()
            other.step()
        expected = [(g["lr"], g["momentum"]) for o in scheduled for g in o.param_groups]
        assert [(g["lr"], g["momentum"]) for g in run.optimizer.param_groups] == expected
    assert expected[0][1] < 0.9


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_copied_with_its_models_it_goes_on_alike(algorithm):
    run = Run(algorithm)
    for _ in range(7):
        run.step()
    models, optimizer = copy.deepcopy((run.models, run.optimizer))
    twin = Run(algorithm)
    twin.models, twin.optimizer, twin.time = models, optimizer, run.time
    twin.schedulers = run.schedulers = []
    assert same_bits(twin.state(), run.state())
    for _ in range(6):
        twin.step()
    before = weights(run)
    for _ in range(6):
        run.step()
    assert same_bits(twin.state(), run.state())
    assert not same_bits(before, weights(run))


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_compiled_steps(algorithm):
    """``torch.compile(optimizer.step)`` and compiled functions around it do what the step does."""
    plain, compiled, around = Run(algorithm), Run(algorithm), Run(algorithm)
    torch.compiler.reset()
    step, function = (
        torch.compile(f, backend="eager") for f in (compiled.optimizer.step, lambda: around.optimizer.step())
    )
    for t in range(7):
        for run, take in ((plain, plain.optimizer.step), (compiled, step), (around, function)):
            gradients(run, t)
            take()
    assert same_bits(weights(plain), weights(compiled))
    assert same_bits(weights(plain), weights(around))


def gradients(run, t):
    run.optimizer.zero_grad()
    for a, model in enumerate(run.models):
        loss_of(model, BATCHES[(t + 7 * a) % len(BATCHES)]).backward()


def wrapped(run):
    return [run.optimizer.inner, run.optimizer.outer] if hasattr(run.optimizer, "inner") else run.optimizer.replicas


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
