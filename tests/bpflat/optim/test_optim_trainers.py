"""Lightning's Trainer and accelerate run both optimizers: to the bit as a plain loop does, resumed or not."""

import logging
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bpflat.optim import EntropySGD, ReplicatedSGD
from tests.bpflat.optim.toy_networks import BATCHES, SGD, network, same_bits

EPOCHS, STEPS = 2, 8  # a loop of Entropy-SGD takes 5 steps, so epochs end in the middle of one
GAMMAS = 0.5, 0.9
SETTINGS = {"float32": {}, "bfloat16": {"bfloat16": True}, "accumulated": {"accumulate": 2}}


class System(nn.Module):
    """One network or three replicas; outputs (networks, patterns, classes)."""

    def __init__(self, algorithm):
        super().__init__()
        self.networks = nn.ModuleList(network(a) for a in range(1 if algorithm == "esgd" else 3))

    def forward(self, x):
        return torch.stack([net(x) for net in self.networks])


def optimizer_of(system):
    params = [net.parameters() for net in system.networks]
    if len(params) == 1:
        loop = {"gamma": GAMMAS[0], "L": 5, "epsilon": 1e-3, "seed": 0}
        return EntropySGD.from_base(params[0], torch.optim.SGD, lr=0.05, outer_lr=0.5, **loop, **SGD)
    return ReplicatedSGD.from_base(params, torch.optim.SGD, lr=0.05, gamma=GAMMAS[0], K=3, **SGD)


def scheduler_of(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=EPOCHS + 1)


def loss_of(outputs, labels):
    return sum(nn.functional.cross_entropy(one.float(), labels) for one in outputs)


def loader():
    x, y = (torch.cat(parts) for parts in zip(*BATCHES[:STEPS], strict=True))
    return DataLoader(TensorDataset(x, y), batch_size=8)


def plain(algorithm, *, bfloat16=False, accumulate=1):
    """The reference: system and optimizer after a loop over epochs and batches."""
    system = System(algorithm)
    optimizer = optimizer_of(system)
    scheduler = scheduler_of(optimizer)
    for epoch in range(EPOCHS):
        optimizer.gamma = GAMMAS[epoch]
        for t, (x, y) in enumerate(loader()):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                outputs = system(x)
            (loss_of(outputs, y) / accumulate).backward()
            if (t + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        scheduler.step()
    return system, optimizer


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert same_bits(ours.state_dict(), theirs.state_dict())


# --- Lightning ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lightning():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return module


def lit(lightning, algorithm, *, automatic=True, accumulate=1, skipped=()):
    """A LightningModule of a system; of the batches `skipped` the training step returns None."""

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.system = System(algorithm)
            self.automatic_optimization = automatic
            self.validated = []

        def configure_optimizers(self):
            optimizer = optimizer_of(self.system)
            return [optimizer], [scheduler_of(optimizer)]

        def on_train_epoch_start(self):
            self.optimizers().gamma = GAMMAS[self.current_epoch]

        def training_step(self, batch, t):
            loss = loss_of(self.system(batch[0]), batch[1])
            if automatic:
                return None if t in skipped else loss
            self.manual_backward(loss / accumulate)
            if (t + 1) % accumulate == 0:
                self.optimizers().step()
                self.optimizers().zero_grad()
            if t + 1 == STEPS:
                self.lr_schedulers().step()
            return None

        def on_validation_start(self):
            if algorithm == "esgd":
                self.optimizers().eval()

        def validation_step(self, batch, t):
            if t == 0:
                self.validated.append([p.detach().clone() for p in self.system.parameters()])

        def on_validation_end(self):
            if algorithm == "esgd":
                self.optimizers().train()

    return Lit()


def fit(lightning, module, folder, epochs=EPOCHS, ckpt_path=None, validate=False, **options):
    """Fit `module`; returns the system and the optimizer, and leaves a checkpoint in `folder`."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=None if validate else 0,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few workers, shuffling: nothing of ours
        trainer.fit(module, loader(), loader() if validate else None, ckpt_path=ckpt_path)
        trainer.save_checkpoint(folder / "last.ckpt")
    return module.system, trainer.optimizers[0]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_lightning(lightning, tmp_path, algorithm, automatic, setting):
    """γ is set on Lightning's stand-in for the optimizer, and must arrive."""
    accumulate = SETTINGS[setting].get("accumulate", 1)
    options = {"precision": "bf16-mixed" if setting == "bfloat16" else "32-true"}
    if automatic:
        options["accumulate_grad_batches"] = accumulate
    module = lit(lightning, algorithm, automatic=automatic, accumulate=accumulate)
    assert_same(fit(lightning, module, tmp_path, **options), plain(algorithm, **SETTINGS[setting]))


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_lightning_resumes(lightning, tmp_path, algorithm):
    fit(lightning, lit(lightning, algorithm), tmp_path, epochs=1)
    resumed = fit(lightning, lit(lightning, algorithm), tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert_same(resumed, plain(algorithm))


def test_lightning_validates_w(lightning, tmp_path):
    module = lit(lightning, "esgd")
    system, optimizer = fit(lightning, module, tmp_path, validate=True)
    assert_same([system, optimizer], plain("esgd"))
    assert not same_bits(module.validated[-1], [p.data for p in system.parameters()])
    with optimizer.centre():
        assert same_bits(module.validated[-1], [p.data for p in system.parameters()])


def test_lightning_skips_a_batch_without_a_loss(lightning, tmp_path):
    """The batch is seen by BatchNorm, but no step of the loop of 5 is taken."""
    _, optimizer = fit(lightning, lit(lightning, "esgd", skipped=(1, 2, 3)), tmp_path, epochs=1)
    assert optimizer.state_dict()["inner_steps"] == 0
    _, optimizer = fit(lightning, lit(lightning, "esgd", skipped=(3,)), tmp_path, epochs=1)
    assert optimizer.state_dict()["inner_steps"] == 2


# --- accelerate ---------------------------------------------------------------------------------


@pytest.fixture
def accelerator():
    """Return a maker of accelerators, which keep their settings in states of the process."""
    accelerate = pytest.importorskip("accelerate")
    yield lambda **options: accelerate.Accelerator(cpu=True, **options)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def run_epoch(accelerator, epoch, system, optimizer, scheduler, batches):
    optimizer.optimizer.gamma = GAMMAS[epoch]
    for x, y in batches:
        with accelerator.accumulate(system):
            accelerator.backward(loss_of(system(x), y))
            optimizer.step()
            optimizer.zero_grad()
    scheduler.step()


def prepared(accelerator, algorithm):
    system = System(algorithm)
    optimizer = optimizer_of(system)
    return accelerator.prepare(system, optimizer, scheduler_of(optimizer), loader())


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_accelerate(accelerator, algorithm, setting):
    options = SETTINGS[setting]
    own = accelerator(
        mixed_precision="bf16" if "bfloat16" in options else "no",
        gradient_accumulation_steps=options.get("accumulate", 1),
        step_scheduler_with_optimizer=False,
    )
    everything = prepared(own, algorithm)
    for epoch in range(EPOCHS):
        run_epoch(own, epoch, *everything)
    system, optimizer = own.unwrap_model(everything[0]), everything[1].optimizer
    assert_same([system, optimizer], plain(algorithm, **options))


@pytest.mark.parametrize("algorithm", ["esgd", "rsgd"])
def test_accelerate_resumes(accelerator, tmp_path, algorithm):
    """Entropy-SGD resumes from a checkpoint that holds w, saved between eval() and train()."""
    own = accelerator(step_scheduler_with_optimizer=False)
    stopped = prepared(own, algorithm)
    run_epoch(own, 0, *stopped)
    stopped[1].eval()
    own.save_state(tmp_path)
    own.free_memory()
    resumed = prepared(own, algorithm)
    own.load_state(tmp_path)
    resumed[1].train()
    run_epoch(own, 1, *resumed)
    assert_same([resumed[0], resumed[1].optimizer], plain(algorithm))
