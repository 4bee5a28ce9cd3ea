"""Options of the local energy of torch models: those that must not change it, low precision, augmentation."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from bpflat.flatness import local_energy
from bpflat.randomness import stream
from tests.bpflat.flatness.toy_models import SIGMAS, noise_of, same, untouched
from tests.naive import flatness as naive_flatness


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
        ids="-".join,
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
        """The cached low-precision weights must not outlive a perturbation, by option or around the call."""
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
