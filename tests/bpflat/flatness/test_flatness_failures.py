"""When the device runs out of memory, or somebody interrupts: the model is left as it was."""

import copy

import pytest
import torch
from torch import nn

from bpflat.flatness import fingerprint, local_energy
from tests.bpflat.flatness.toy_models import SIGMAS, Fails, same, untouched

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
