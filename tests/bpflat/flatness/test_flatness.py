"""The local energy of torch models: a plain twin, closed forms, options that must not matter, and bad input."""

import contextlib
import copy
import functools
import math
import socket

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

import bpflat
from bpflat import LocalEnergyProfile
from bpflat.flatness import fingerprint, local_energy
from bpflat.flatness.models import choose
from bpflat.flatness.noise import Perturbation
from bpflat.randomness import stream
from tests.bpflat.estimators.test_bp import random_instance
from tests.naive import flatness as naive_flatness

SIGMAS = [0.2, 0.5]


class SmallNet(nn.Module):
    """Convolutions with BatchNorm and dropout; the last two layers share their weights."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.first = nn.Linear(6 * 4, 24)
        self.second = nn.Linear(24, 24)
        self.second.weight = nn.Parameter(torch.randn(24, 24) / 5)
        self.third = nn.Linear(24, 24)
        self.third.weight = self.second.weight
        self.last = nn.Linear(24, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1)
        x = self.dropout(F.relu(self.first(x)))
        return self.last(F.relu(self.third(F.relu(self.second(x)))))


@functools.cache
def trained():
    """A small net after a short training on four noisy classes, and 90 patterns."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, centres = SmallNet(), torch.randn(4, 2, 4, 4)
        targets = torch.randint(4, (90,))
        inputs = centres[targets] + torch.randn(90, 2, 4, 4)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    model.dropout.eval()  # mixed flags, to be found as they were, and gradients
    model.last.bias.requires_grad_(False)
    return model, inputs, targets


@pytest.fixture
def small():
    model, inputs, targets = trained()
    return _copy_with_gradients(model), inputs.clone(), targets.clone()


def _copy_with_gradients(model):
    twin = copy.deepcopy(model)
    for p, old in zip(twin.parameters(), model.parameters(), strict=True):
        p.grad = None if old.grad is None else old.grad.clone()
    return twin


@contextlib.contextmanager
def untouched(model, *tensors):
    """The same objects, bits, flags, gradients and random numbers after as before."""
    before = _copy_with_gradients(model)
    kept = [t.clone() for t in tensors]
    own = [(id(t), t.data_ptr(), t._version) for t in (*model.parameters(), *model.buffers())]
    numbers = torch.get_rng_state()
    try:
        yield
    finally:
        assert own == [(id(t), t.data_ptr(), t._version) for t in (*model.parameters(), *model.buffers())]
        for (name, t), (_, old) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
            assert torch.equal(t, old) and t.device == old.device, name
        for p, old in zip(model.parameters(), before.parameters(), strict=True):
            assert p.requires_grad == old.requires_grad and (p.grad is None) == (old.grad is None)
            assert p.grad is None or torch.equal(p.grad, old.grad)
        assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
        assert all(torch.equal(t, old) for t, old in zip(tensors, kept, strict=True))
        assert torch.equal(torch.get_rng_state(), numbers)


def noise_of(model, seed, n_samples, key=0, parameters=None):
    """The draws z of `local_energy`, by parameter name."""
    chosen = choose(model, parameters)
    w = list(chosen.values())
    perturbation = Perturbation(w, w, stream(np.random.SeedSequence(seed), 0))
    for i in range(n_samples):
        yield {name: z.clone() for name, z in zip(chosen, perturbation.draw(key, i), strict=True)}


def same(a, b, **tolerance):
    """Equal errors, and equal losses to rounding."""
    assert_array_equal(a.delta_error, b.delta_error)
    assert_array_equal(a.std_error, b.std_error)
    assert a.train_error == b.train_error
    for name in ("delta_loss", "loss_std_error", "train_loss"):
        assert_allclose(getattr(a, name), getattr(b, name), **{"rtol": 1e-5, "atol": 1e-7, **tolerance})


class TestNaive:
    """SmallNet: BatchNorm, dropout, shared and frozen parameters."""

    @pytest.mark.parametrize("parameters", [None, "weights", ["last.bias", "third.weight"], lambda n: "norm" in n])
    def test_same_noise(self, small, parameters):
        model, inputs, targets = small
        with untouched(model, inputs, targets):
            profile = local_energy(model, (inputs, targets), SIGMAS, n_samples=6, seed=5, parameters=parameters)
        error, loss = naive_flatness.error_and_loss(copy.deepcopy(model), inputs, targets)
        assert profile.train_error == error
        assert_allclose(profile.train_loss, loss, rtol=1e-6, atol=1e-7)
        for s, sigma in enumerate(SIGMAS):
            noise = noise_of(model, 5, 6, parameters=parameters)
            rises = naive_flatness.rises(copy.deepcopy(model), inputs, targets, sigma, noise).numpy()
            assert_allclose([profile.delta_error[s], profile.delta_loss[s]], rises.mean(0), rtol=1e-4, atol=1e-6)
            expected = rises.std(0, ddof=1) / math.sqrt(6)
            assert_allclose([profile.std_error[s], profile.loss_std_error[s]], expected, rtol=1e-4, atol=1e-6)
        assert profile.delta_loss[-1] > 1e-5

    def test_other_noise(self, small):
        """Within 3 standard errors of their difference."""
        model, inputs, targets = small
        profile = local_energy(model, (inputs, targets), SIGMAS, n_samples=200, seed=0)
        rng = torch.Generator().manual_seed(1)
        for s, sigma in enumerate(SIGMAS):
            noise = (
                {n: torch.randn(p.shape, generator=rng) for n, p in model.named_parameters() if p.requires_grad}
                for _ in range(30)
            )
            rises = naive_flatness.rises(copy.deepcopy(model), inputs, targets, sigma, noise).numpy()
            error = np.hypot(rises.std(0, ddof=1) / math.sqrt(30), [profile.std_error[s], profile.loss_std_error[s]])
            assert (abs(rises.mean(0) - [profile.delta_error[s], profile.delta_loss[s]]) < 3 * error).all()

    def test_recomputed_statistics(self, small):
        """As torch's own update of BatchNorm over the same shuffled blocks, before each measurement."""
        model, inputs, targets = small
        order = np.random.default_rng(stream(np.random.SeedSequence(2), 3)).permutation(90)
        blocks = inputs[order].tensor_split(3)

        def measure(twin, inputs, targets):
            torch.optim.swa_utils.update_bn(blocks, twin.eval())
            return naive_flatness.error_and_loss(twin, inputs, targets)

        twin = copy.deepcopy(model)
        twin.dropout = nn.Identity()  # update_bn switches everything to training
        noise = noise_of(model, 2, 4)
        rises = naive_flatness.rises(twin, inputs, targets, 0.5, noise, measure).mean(0)
        with untouched(model, inputs):
            options = {"n_samples": 4, "seed": 2, "batch_norm": "recompute", "block_size": 40}
            profile = local_energy(model, (inputs, targets), [0.5], **options)
            again = local_energy(model, (inputs, targets), [0.5], batch_size=7, **options)
        assert_allclose([profile.delta_error[0], profile.delta_loss[0]], rises, rtol=1e-4, atol=1e-6)
        same(profile, again)
        frozen = local_energy(model, (inputs, targets), [0.5], n_samples=4, seed=2)
        assert frozen.delta_loss[0] != profile.delta_loss[0]


class TestSolvable:
    def test_linear_classifier(self):
        """Two logits: the margin is Gaussian, of variance σ² Σ (w x)² over all weights and biases."""
        rng = torch.Generator().manual_seed(0)
        inputs = torch.randn(400, 30, generator=rng)
        model = nn.Linear(30, 2)
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 30, generator=rng))
            model.bias.copy_(torch.tensor([0.5, -0.3]))
            w, b = model.weight.double().numpy(), model.bias.double().numpy()
        x = inputs.double().numpy()
        targets = (x @ (w[1] - w[0]) + b[1] - b[0] > 0).astype(np.int64)
        targets[:40] = 1 - targets[:40]
        margin = (2 * targets - 1) * (x @ (w[1] - w[0]) + b[1] - b[0])
        spread = np.sqrt(x**2 @ (w**2).sum(0) + (b**2).sum())
        sigmas = np.array([0.05, 0.3, 1.0, 3.0])
        expected = norm.cdf(-margin / spread / sigmas[:, None]).mean(1) - 0.1
        data = (inputs, torch.from_numpy(targets))
        for options in ({}, {"antithetic": True}, {"common": False}):
            profile = local_energy(model, data, sigmas, n_samples=2000, seed=1, **options)
            assert profile.train_error == 0.1
            assert (profile.std_error < 0.003).all() and (profile.std_error > 0).all()
            assert (abs(profile.delta_error - expected) < 3 * profile.std_error).all(), options

    @pytest.mark.parametrize("column", [False, True])
    def test_committee_machine(self, column):
        """Sign outputs of one unit: `bpflat.local_energy`, exact, within 3 standard errors."""
        weights, patterns, labels = random_instance(101, 5, 60)

        class Committee(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.from_numpy(weights))

            def forward(self, x):
                votes = torch.where(x @ self.w.T >= 0, 1.0, -1.0).sum(1).sign().double()
                return votes[:, None] if column else votes

        sigmas = [0.2, 1.0, 2.0]
        profile = local_energy(Committee(), (patterns, labels), sigmas, n_samples=1000, seed=1)
        exact = bpflat.local_energy(weights, patterns, labels, sigmas, method="exact")
        assert profile.train_error == exact.train_error
        assert (abs(profile.delta_error - exact.delta_error) < 3 * profile.std_error).all()
        zero_one = local_energy(Committee(), (patterns, (labels > 0).astype(int)), sigmas, n_samples=1000, seed=1)
        same(profile, zero_one)

    def test_no_noise(self, small):
        model, inputs, targets = small
        profile = local_energy(model, (inputs, targets), [0.0, 1e-9], n_samples=2, seed=0)
        assert_array_equal(profile.delta_error, [0, 0])
        assert profile.delta_loss[0] == 0 and abs(profile.delta_loss[1]) < 1e-7


class TestSameNumbers:
    """Options that must not change what comes out."""

    @pytest.fixture
    def plain(self, small):
        return local_energy(small[0], small[1:], SIGMAS, n_samples=5, seed=7)

    @pytest.mark.parametrize(
        "options",
        [
            {"batch_size": 1},
            {"batch_size": 37},
            {"resident": False, "batch_size": 16},
            {"channels_last": True},
            {"precision": "float32"},
            {"precision": "tf32"},
            {"device": "cpu"},
            {"parameters": lambda name: True},
            {"tolerance": 1e-12},
            {"progress": True},
        ],
        ids=str,
    )
    def test_option(self, small, plain, options):
        with untouched(*small):
            same(local_energy(small[0], small[1:], SIGMAS, n_samples=5, seed=7, **options), plain, rtol=1e-4)

    @pytest.mark.parametrize("resident", [None, True, False])
    def test_loader(self, small, plain, resident):
        model, inputs, targets = small
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=25)
        same(local_energy(model, loader, SIGMAS, n_samples=5, seed=7, resident=resident), plain)
        batches = [(inputs[:50].numpy(), targets[:50].int().numpy()), (inputs[50:], targets[50:])]
        same(local_energy(model, batches, SIGMAS, n_samples=5, seed=7, resident=resident), plain)
        if resident is not False:
            same(local_energy(model, iter(batches), SIGMAS, n_samples=5, seed=7, resident=resident), plain)

    def test_streams_what_does_not_fit(self, small, plain, monkeypatch):
        monkeypatch.setattr("bpflat.flatness.patterns._CPU_BYTES", 1000)
        model, inputs, targets = small
        batches = list(zip(inputs.split(20), targets.split(20), strict=True))
        same(local_energy(model, batches, SIGMAS, n_samples=5, seed=7), plain)
        with pytest.raises(ValueError, match="can be read only once"):
            local_energy(model, iter(batches), SIGMAS, n_samples=5, seed=7)

    def test_compiled_and_wrapped(self, small, plain):
        model, inputs, targets = small
        same(local_energy(nn.DataParallel(model), (inputs, targets), SIGMAS, n_samples=5, seed=7), plain)
        compiled = torch.compile(model, backend="eager")
        same(local_energy(compiled, (inputs, targets), SIGMAS, n_samples=5, seed=7), plain)

    def test_compile(self, small, plain, monkeypatch):
        """The compiled model sees every perturbation; the compiler proper is left to the benchmark."""
        modes = []

        def compile(model, mode):
            modes.append(mode)
            return original(model, backend="eager")

        original = torch.compile
        monkeypatch.setattr("torch.compile", compile)
        for option, mode in ((True, None), ("reduce-overhead", "reduce-overhead")):
            same(local_energy(small[0], small[1:], SIGMAS, n_samples=5, seed=7, compile=option), plain)
            assert modes.pop() == mode

    def test_seed(self, small, plain):
        model, inputs, targets = small
        same(local_energy(model, (inputs, targets), SIGMAS, n_samples=5, seed=np.random.SeedSequence(7)), plain)
        other = local_energy(model, (inputs, targets), SIGMAS, n_samples=5, seed=8)
        fresh = [local_energy(model, (inputs, targets), SIGMAS, n_samples=5) for _ in range(2)]
        assert len({p.delta_loss[1] for p in (plain, other, *fresh)}) == 4

    def test_common_noise(self, small, plain):
        """Another σ in the grid changes nothing; without `common` each place in the grid has its own draws."""
        model, inputs, targets = small
        more = local_energy(model, (inputs, targets), [0.1, *SIGMAS], n_samples=5, seed=7)
        assert_array_equal(more.delta_error[1:], plain.delta_error)
        options = {"n_samples": 5, "seed": 7, "common": False}
        own = local_energy(model, (inputs, targets), SIGMAS, **options)
        shifted = local_energy(model, (inputs, targets), [0.1, *SIGMAS], **options)
        assert (own.delta_loss != shifted.delta_loss[1:]).all() and (own.delta_loss != plain.delta_loss).all()

    def test_tied_by_storage(self, small, plain):
        model, inputs, targets = small
        model.third.weight = nn.Parameter(model.second.weight.data)
        assert model.third.weight is not model.second.weight
        same(local_energy(model, (inputs, targets), SIGMAS, n_samples=5, seed=7), plain)

    def test_model_that_works_in_place(self, small, plain):
        model, inputs, targets = small

        class InPlace(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = model

            def forward(self, x):
                return self.net(x.mul_(2).div_(2).add_(1).sub_(1).neg_()) * 1.0

        wrapped = InPlace()
        with untouched(model, inputs):
            profile = local_energy(wrapped, (-inputs, targets), SIGMAS, n_samples=5, seed=7)
            same(local_energy(wrapped, (kept := -inputs, targets), SIGMAS, n_samples=5, seed=7), profile)
        assert torch.equal(kept, -inputs)
        assert_allclose(profile.delta_loss, plain.delta_loss, rtol=1e-4)

    def test_autocast(self, small):
        """By option, or around the call: the cached low-precision weights must not outlive a perturbation."""
        model, inputs, targets = small
        options = {"n_samples": 5, "seed": 7, "batch_size": 30}
        inside = local_energy(model, (inputs, targets), SIGMAS, precision="bfloat16", **options)
        with torch.autocast("cpu", torch.bfloat16):
            same(local_energy(model, (inputs, targets), SIGMAS, **options), inside)
        assert len(set(inside.delta_loss)) == 2

    def test_precision_is_put_back(self, small):
        torch.set_float32_matmul_precision("high")
        try:
            local_energy(small[0], small[1:], SIGMAS, n_samples=2, precision="float32")
            assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
        finally:
            torch.set_float32_matmul_precision("highest")


class TestBfloat16:
    def test_effect(self, small):
        """Far below the standard error of the same 20 draws: rounding flips outputs at w and w + σ z⊙w alike."""
        exact = local_energy(small[0], small[1:], SIGMAS, n_samples=20, seed=0)
        coarse = local_energy(small[0], small[1:], SIGMAS, n_samples=20, seed=0, precision="bfloat16")
        assert (abs(coarse.delta_error - exact.delta_error) < exact.std_error).all()
        assert_allclose(coarse.delta_loss, exact.delta_loss, rtol=0.05)
        assert (coarse.delta_loss != exact.delta_loss).all()


class TestAugmentation:
    @staticmethod
    def augment(x):
        return x.add_(0.5 * torch.randn_like(x))

    def test_against_plain(self, small):
        """Paired with w under the same augmentation, which a draw's seed fixes."""
        model, inputs, targets = small
        options = {"n_samples": 4, "seed": 3, "augment": self.augment, "block_size": 30}
        with untouched(*small):
            profile = local_energy(model, (inputs, targets), SIGMAS, **options)
            same(local_energy(model, (inputs, targets), SIGMAS, batch_size=11, **options), profile)
            own = local_energy(model, (inputs, targets), SIGMAS, common=False, **options)
        expected, at_w = [], []
        for i, z in enumerate(noise_of(model, 3, 4)):
            seed = int(stream(np.random.SeedSequence(3), 1, i).generate_state(1, np.uint64)[0] >> 2)
            with torch.random.fork_rng():
                blocks = []
                for k, block in enumerate(inputs.split(30)):
                    torch.manual_seed(seed + k)
                    blocks.append(self.augment(block.clone()))
            seen = torch.cat(blocks)
            at_w.append(naive_flatness.error_and_loss(copy.deepcopy(model), seen, targets))
            expected.append(
                [naive_flatness.rises(copy.deepcopy(model), seen, targets, s, [z])[0].tolist() for s in SIGMAS]
            )
        mean = np.mean(expected, axis=0)
        assert_allclose(profile.delta_error, mean[:, 0], atol=1e-9)
        assert_allclose(profile.delta_loss, mean[:, 1], rtol=1e-4)
        assert_allclose([profile.train_error, profile.train_loss], np.mean(at_w, axis=0), rtol=1e-5)
        assert own.train_error == profile.train_error and own.delta_loss[0] != profile.delta_loss[0]

    def test_wrong_shape(self, small):
        for augment in (lambda x: x[:-1], lambda x: None):
            with pytest.raises(ValueError, match="augment must return one input for each"), untouched(*small):
                local_energy(small[0], small[1:], SIGMAS, augment=augment)


class TestVariance:
    """What the options save, as ratios of variances over many draws."""

    @pytest.fixture
    def linear(self):
        """A linear classifier at 20 % errors: no minimum, so the loss has a slope."""
        rng = torch.Generator().manual_seed(0)
        inputs = torch.randn(300, 50, generator=rng)
        model = nn.Linear(50, 2)
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 50, generator=rng))
            model.bias.zero_()
            targets = model(inputs).argmax(1)
        targets[:60] = 1 - targets[:60]
        return model, (inputs, targets)

    def test_antithetic(self, linear):
        """At small σ the loss is odd in z, and its variance falls at least 20-fold; that of the error by a little."""
        plain = local_energy(*linear, [0.05], n_samples=1000, seed=0)
        pairs = local_energy(*linear, [0.05], n_samples=1000, seed=0, antithetic=True)
        assert (plain.loss_std_error / pairs.loss_std_error)[0] ** 2 > 20
        assert (plain.std_error / pairs.std_error)[0] ** 2 > 1.2
        error = np.hypot(plain.std_error, pairs.std_error)
        assert (abs(plain.delta_error - pairs.delta_error) < 3 * error).all()

    def test_antithetic_pairs(self, linear):
        """Draws 2i and 2i + 1 are z and −z; the standard error is over their means."""
        model, data = linear
        pairs = local_energy(model, data, [0.3], n_samples=6, seed=4, antithetic=True)
        noise = noise_of(model, 4, 3)
        rises = naive_flatness.rises(
            model, *data, 0.3, [{n: s * v for n, v in z.items()} for z in noise for s in (1, -1)]
        ).numpy()
        assert_allclose(pairs.delta_error[0], rises[:, 0].mean(), rtol=1e-6)
        means = rises[:, 0].reshape(3, 2).mean(1)
        assert_allclose(pairs.std_error[0], means.std(ddof=1) / math.sqrt(3), rtol=1e-6)

    def test_common(self, small):
        """The difference between neighbouring σ: its variance over seeds falls at least 3-fold."""

        def variance(common):
            options = {"n_samples": 8, "common": common}
            profiles = [local_energy(small[0], small[1:], [0.4, 0.5], seed=seed, **options) for seed in range(40)]
            return np.var([np.diff(p.delta_error) for p in profiles])

        assert variance(False) / variance(True) > 3

    def test_subset(self, linear):
        """Each draw on its own patterns, against w on the same ones; all patterns for E_train(w)."""
        model, (inputs, targets) = linear
        options = {"n_samples": 3, "seed": 4, "subset": 40}
        profile = local_energy(model, (inputs, targets), [0.3], **options)
        rises = []
        for i, z in enumerate(noise_of(model, 4, 3)):
            rng = np.random.default_rng(stream(np.random.SeedSequence(4), 2, i))
            rows = np.sort(rng.choice(300, 40, replace=False, shuffle=False))
            assert len(set(rows)) == 40
            rises.append(naive_flatness.rises(model, inputs[rows], targets[rows], 0.3, [z])[0].numpy())
        assert_allclose([profile.delta_error[0], profile.delta_loss[0]], np.mean(rises, axis=0), rtol=1e-5)
        assert_allclose(profile.std_error[0], np.std(rises, axis=0, ddof=1)[0] / math.sqrt(3), rtol=1e-5)
        assert profile.train_error == 0.2
        same(local_energy(model, (inputs, targets), [0.3], batch_size=7, **options), profile)
        augmented = local_energy(model, (inputs, targets), [0.3], augment=lambda x: x, **options)
        assert augmented.delta_error == profile.delta_error and augmented.train_loss != profile.train_loss
        whole = local_energy(model, (inputs, targets), [0.3], n_samples=3, seed=4)
        same(local_energy(model, (inputs, targets), [0.3], n_samples=3, seed=4, subset=300), whole)

    def test_subset_saves_evaluations(self, small):
        """Patterns times draws for a given variance: a quarter of the patterns at least halves them; no bias."""
        model, inputs, targets = small
        whole = local_energy(model, (inputs, targets), [0.5], n_samples=300, seed=0)
        part = local_energy(model, (inputs, targets), [0.5], n_samples=300, seed=1, subset=22)
        assert (whole.std_error / part.std_error)[0] ** 2 * 90 / 22 > 2
        error = np.hypot(whole.std_error, part.std_error)
        assert (abs(whole.delta_error - part.delta_error) < 3 * error).all()

    def test_tolerance(self, linear):
        profile = local_energy(*linear, [0.0, 0.01, 0.3, 1.0], n_samples=400, seed=0, tolerance=0.003)
        whole = local_energy(*linear, [0.0, 0.01, 0.3, 1.0], n_samples=400, seed=0)
        assert profile.n_samples[0] == 0 and profile.n_samples[1] < profile.n_samples[2] < 400
        assert (profile.n_samples % 16 == 0).all()
        assert (profile.std_error <= 0.003).all()
        same(local_energy(*linear, [0.3], n_samples=int(profile.n_samples[2]), seed=0), _point(profile, 2))
        capped = local_energy(*linear, [0.3], n_samples=33, seed=0, tolerance=1e-9)
        assert capped.n_samples == [33] and capped.std_error[0] > 1e-9
        assert (abs(whole.delta_error - profile.delta_error) <= 4 * profile.std_error).all()


def _point(profile, s):
    """The profile at its s-th σ alone."""
    arrays = {k: v[s : s + 1] for k, v in vars(profile).items() if isinstance(v, np.ndarray)}
    return LocalEnergyProfile(**{**vars(profile), **arrays})


class Fails(nn.Module):
    """A model whose forward fails at some calls, as the list `calls` and `when` say."""

    calls: list = []  # noqa: RUF012  (shared with copies of the model, on purpose)
    when = staticmethod(lambda n_call, n_rows: None)

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        self.calls.append(len(x))
        error = Fails.when(len(self.calls), len(x))
        if error is not None:
            raise error
        return self.net(x)


@pytest.fixture
def fails(monkeypatch):
    monkeypatch.setattr(Fails, "calls", [])

    def set_when(when):
        monkeypatch.setattr(Fails, "when", staticmethod(when))

    return set_when


OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory")


class TestMemory:
    def test_halved(self, small, fails):
        model, inputs, targets = small
        plain = local_energy(model, (inputs, targets), SIGMAS, n_samples=5, seed=7)
        fails(lambda n_call, n_rows: OUT_OF_MEMORY if n_rows > 12 else None)
        with untouched(*small):
            same(local_energy(Fails(model), (inputs, targets), SIGMAS, n_samples=5, seed=7), plain)
        assert Fails.calls[:5] == [90, 64, 32, 16, 8]  # from 128 down
        assert max(Fails.calls[4:]) == 8

    def test_in_the_middle(self, small, fails):
        model, inputs, targets = small
        plain = local_energy(model, (inputs, targets), SIGMAS, n_samples=5, seed=7)
        fails(lambda n_call, n_rows: OUT_OF_MEMORY if n_call == 8 else None)
        same(local_energy(Fails(model), (inputs, targets), SIGMAS, n_samples=5, seed=7, batch_size=40), plain)
        assert 40 in Fails.calls and Fails.calls[8] == 20

    def test_nothing_left(self, small, fails):
        fails(lambda n_call, n_rows: OUT_OF_MEMORY)
        with pytest.raises(MemoryError, match="set resident=False"), untouched(*small):
            local_energy(Fails(small[0]), small[1:], SIGMAS)

    def test_block(self, small, fails):
        fails(lambda n_call, n_rows: OUT_OF_MEMORY if n_rows > 20 else None)
        with pytest.raises(MemoryError, match="set a smaller block_size"), untouched(*small):
            local_energy(Fails(small[0]), small[1:], SIGMAS, batch_norm="recompute")
        local_energy(Fails(small[0]), small[1:], SIGMAS, n_samples=2, batch_norm="recompute", block_size=20)


class TestUntouched:
    @pytest.mark.parametrize("n_call", [1, 2, 5])
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug")])
    def test_interrupted(self, small, fails, n_call, error):
        fails(lambda n, n_rows: error if n == n_call else None)
        model = Fails(small[0])
        wanted = (type(error), ValueError)  # ValueError: the model does not suit the inputs, or so it seems
        with pytest.raises(wanted), untouched(model, *small[1:]):
            local_energy(model, small[1:], SIGMAS, batch_norm="recompute" if n_call == 2 else "frozen")
        assert len(Fails.calls) == n_call

    def test_settings_after_an_interrupt(self, small, fails):
        fails(lambda n, n_rows: KeyboardInterrupt() if n == 3 else None)
        with pytest.raises(KeyboardInterrupt):
            local_energy(Fails(small[0]), small[1:], SIGMAS, precision="tf32")
        assert torch.get_float32_matmul_precision() == "highest" and not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()

    def test_fingerprint(self, small):
        model, inputs, targets = small
        mark = fingerprint(model)
        assert local_energy(model, (inputs, targets), SIGMAS, n_samples=2).reference == mark
        assert fingerprint(copy.deepcopy(model)) == mark == fingerprint(nn.DataParallel(model))
        with torch.no_grad():
            model.norm.running_mean[0] += 1e-6
        assert fingerprint(model) != mark


class Sized(nn.Module):
    """Gives outputs of any form."""

    def __init__(self, form):
        super().__init__()
        self.form, self.layer = form, nn.Linear(5, 3)

    def forward(self, x):
        return self.form(self.layer(x))


def test_bad_input(small):
    model, inputs, targets = small
    data = (inputs, targets)
    flat, classes = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    nan = copy.deepcopy(model)
    with torch.no_grad():
        nan.norm.bias[2] = torch.nan
    frozen = copy.deepcopy(model).requires_grad_(False)
    locked = copy.deepcopy(model)
    locked.sock = socket.socket()
    complex_ = nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    cases = [
        (frozen, data, {}, "no trainable parameters"),
        (nn.ReLU(), data, {}, "no trainable parameters"),
        (nan, data, {}, r"parameter norm.bias has NaN or infinite"),
        (nn.LazyLinear(3), data, {}, "parameter weight has no values yet"),
        (nn.Linear(5, 3, device="meta"), data, {}, "parameter weight has no values yet"),
        (locked, data, {}, "the model cannot be copied"),
        (complex_, data, {}, "only real floating-point"),
        (lambda x: x, data, {}, "must be a torch.nn.Module, not function"),
        (model, (inputs[:0], targets[:0]), {}, "the data set is empty"),
        (model, [], {}, "the data set is empty"),
        (model, [], {"resident": False}, "the data set is empty"),
        (model, [(inputs[:0], targets[:0])], {}, "the data set is empty"),
        (model, (inputs, targets[:5]), {}, r"inputs have shape \(90, 2, 4, 4\), targets \(5,\)"),
        (model, (inputs, F.one_hot(targets)), {}, r"targets must have shape \(N,\)"),
        (model, inputs, {}, "batches of such, not batches of Tensor"),
        (model, 3, {}, "an iterable of such batches, not int"),
        (model, [(inputs, "cats")], {}, "must be tensors or arrays"),
        (model, [data, (inputs[:, :1], targets)], {}, r"cannot be applied to inputs of shape \(90, 1, 4, 4\)"),
        (model, iter([data]), {"resident": False}, "can be read only once"),
        (model, (inputs, targets + 1), {}, "class indices from 0 to 3; found 4"),
        (model, (inputs, targets - 1), {}, "class indices from 0 to 3; found -1"),
        (model, (inputs, targets.float()), {}, "class indices"),
        (Sized(lambda x: x[:, 0]), (flat, classes), {}, r"with one output, targets must be 0 and 1 or -1 and 1"),
        (Sized(lambda x: x[:-1]), (flat, classes), {}, r"outputs of shape \(6, C\).*not \(5, 3\)"),
        (Sized(lambda x: x[..., None]), (flat, classes), {}, r"outputs of shape \(6, C\).*not \(6, 3, 1\)"),
        (Sized(lambda x: (x,)), (flat, classes), {}, r"outputs of shape \(6, C\).*not tuple"),
        (Sized(lambda x: x[:, :0]), (flat, classes), {}, r"outputs of shape \(6, C\).*not \(6, 0\)"),
        (Sized(lambda x: x.long()), (flat, classes), {}, "floating-point outputs, not torch.int64"),
        (model, (inputs[:, 0], targets), {}, r"cannot be applied to inputs of shape \(90, 4, 4\) and torch.float32"),
        (model, data, {"sigmas": [-0.1, 0.2]}, "sigmas must be at least 0"),
        (model, data, {"sigmas": [0.2, 0.1]}, "sigmas must rise"),
        (model, data, {"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        (model, data, {"device": "hal9000"}, "device 'hal9000' cannot be used"),
        (model, data, {"device": "meta"}, "it holds no numbers"),
        (model, data, {"parameters": "biases"}, "not 'biases'"),
        (model, data, {"parameters": ["conv.wait"]}, r"no parameters \['conv.wait'\]; it has conv.weight"),
        (model, data, {"parameters": []}, "chooses none of conv.weight"),
        (model, data, {"parameters": lambda name: False}, "chooses none of conv.weight"),
        (model, data, {"n_samples": 1}, "n_samples must be a whole number, at least 2"),
        (model, data, {"n_samples": 2, "antithetic": True}, "even and at least 4"),
        (model, data, {"n_samples": 7, "antithetic": True}, "even and at least 4"),
        (model, data, {"tolerance": 0}, "tolerance must be finite and greater than 0"),
        (model, data, {"batch_norm": "train"}, "batch_norm .* is unknown"),
        (model, data, {"precision": "int8"}, "precision .* is unknown"),
        (model, data, {"batch_size": 0}, "batch_size must be a whole number, at least 1"),
        (model, data, {"block_size": -1}, "block_size must be a whole number, at least 1"),
        (model, data, {"seed": -1}, "seed must be"),
        (model, data, {"subset": 0}, "subset must be a whole number, at least 1"),
        (model, data, {"subset": 91}, "subset is 91, but there are 90 patterns"),
        (model, data, {"subset": 9, "batch_norm": "recompute"}, "set batch_norm='frozen'"),
        (model, [data], {"subset": 9, "resident": False}, "cannot be drawn from data that are streamed"),
    ]
    for bad, given, options, message in cases:
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.raises(ValueError, match=message))
            if bad is model:
                stack.enter_context(untouched(model, inputs, targets))
            local_energy(bad, given, **{"sigmas": [0.1], "n_samples": 4, **options})
            pytest.fail(message)
    locked.sock.close()


def test_not_a_number_is_wrong():
    """Weights that overflow under noise make NaN outputs: errors, not class 0."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1e30)
        model[1].weight.fill_(1e-30)
    inputs = torch.ones(8, 4)
    profile = local_energy(model, (inputs, torch.zeros(8, dtype=torch.long)), [1e20], n_samples=4, seed=0)
    assert profile.train_error == 0 and profile.delta_error[0] == 1


class TestStored:
    def test_round_trip(self, small, tmp_path):
        profile = local_energy(small[0], small[1:], SIGMAS, n_samples=20, seed=0, tolerance=1e-9)
        profile.save(tmp_path / "profile.npz")
        back = LocalEnergyProfile.load(tmp_path / "profile.npz")
        assert list(vars(back)) == list(vars(profile))
        for name, value in vars(profile).items():
            assert_array_equal(getattr(back, name), value)

    def test_files_of_committee_machines(self, tmp_path):
        """Without losses, as stored before there were any."""
        weights, patterns, labels = random_instance(21, 3, 10)
        profile = bpflat.local_energy(weights, patterns, labels, [0.5], seed=0)
        profile.save(tmp_path / "profile.npz")
        assert "delta_loss" not in np.load(tmp_path / "profile.npz").files
        assert LocalEnergyProfile.load(tmp_path / "profile.npz").delta_loss is None
