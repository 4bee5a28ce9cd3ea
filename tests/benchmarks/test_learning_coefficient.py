"""The benchmark of the learning coefficient: its exact values, its chains, how it tunes, and its table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from torch import nn

from benchmarks import langevin, solvable
from benchmarks import learning_coefficient as benchmark
from benchmarks.langevin import Length, Sampler
from tests.stored import RESULTS


class TestExactValues:
    @pytest.mark.parametrize("beta", [0.3, 1e3])
    def test_gaussian_crossing(self, beta):
        """``βw² + w²/2``: ``⟨βw²⟩ = β/(1 + 2β)``."""
        assert_allclose(solvable.of_crossing(solvable.crossing([1], beta))[0], beta / (1 + 2 * beta), rtol=1e-12)

    def test_crossing_of_two(self):
        """``w₁² w₂⁴`` has mean ``w₂⁴/(1 + 2βw₂⁴)`` at given w₂."""
        beta = 50.0
        z, mean = (
            quad(lambda w, p=p: np.exp(-w * w / 2) * (1 + 2 * beta * w**4) ** -p, -np.inf, np.inf, limit=200)[0]
            for p in (0.5, 1.5)
        )
        assert_allclose(solvable.of_crossing(solvable.crossing([1, 2], beta))[0], 0.5 * (1 - mean / z), rtol=1e-7)

    def test_losses(self):
        case = solvable.crossing([1, 2], 7.0)
        states = torch.tensor([[0.5, 2.0], [0.0, 1.0], [-3.0, -1.0]], dtype=torch.float64)
        assert case.name == "w₁² w₂⁴, nβ = 7" and case.nbeta == 7.0
        assert_allclose(case.energies(states), [0.5**2 * 2.0**4, 0.0, 9.0])

    def test_importance_of_a_linear_model(self):
        """``½ Σ s/(1 + s)`` over the eigenvalues s of ``βσ² X Xᵀ``."""

        class Linear(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))

            def forward(self, x):
                return self.w @ x.T

        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn((4, 6), generator=generator, dtype=torch.float64)
        model = Linear()
        case = solvable.Case("linear", model, (inputs, model(inputs).detach()), 0.5, 3.0)
        spread = 0.25 * 3.0 * np.linalg.eigvalsh((inputs @ inputs.T).numpy())
        value, error = solvable.by_importance(case, 20_000)
        assert abs(value - 0.5 * (spread / (1 + spread)).sum()) < 3 * error < 0.1

    def test_importance_of_a_committee_machine(self):
        """The value that samples of the prior alone give."""
        case = solvable.committee(11, 12, 1.0, 1.0)
        value, error = solvable.by_importance(case, 50_000)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn((100_000, 3, 11), generator=generator, dtype=torch.float64)
        energies = case.energies(case.model.w.detach() + noise)
        weights = torch.softmax(-energies, dim=0)
        counted = (weights @ energies).item()
        spread = (weights * (energies - counted)).square().sum().sqrt().item()
        assert abs(value - counted) < 3 * np.hypot(error, spread) < 0.05


class Plain(torch.optim.SGD):
    """SGLD in its plainest form."""

    def __init__(self, chains, nbeta, gamma, step):
        super().__init__([chains], lr=step / 2)
        self.chains, self.start, self.nbeta, self.gamma, self.noise = (
            chains,
            chains.detach().clone(),
            nbeta,
            gamma,
            step,
        )

    @torch.no_grad()
    def step(self):
        self.chains.grad.mul_(self.nbeta).add_(self.gamma * (self.chains - self.start))
        super().step()
        self.chains.add_(torch.randn_like(self.chains), alpha=self.noise**0.5)


class PlainSampler:
    """A sampler in the place of one of devinterp's."""

    def __init__(self, step, is_localized):
        self.step, self.is_localized = step, is_localized

    def optimizer(self, chains, nbeta, gamma):
        return Plain(chains, nbeta, gamma if self.is_localized else 0.0, self.step)


def of_langevin(beta, step):
    """λ̂ of ``βw² + w²/2`` by SGLD of a finite step ε: a variance ``1/(a (1 − εa/4))`` at the curvature a = 2β + 1."""
    return beta / ((2 * beta + 1) * (1 - step * (2 * beta + 1) / 4))


class TestChains:
    @pytest.mark.parametrize("is_localized", [True, False])
    def test_stationary_measure(self, is_localized):
        """The exact value of the discrete chain, half as large again as that of the measure."""
        beta, step = 2.0, 0.27
        values = langevin.estimates(
            solvable.crossing([1], beta), PlainSampler(step, is_localized), Length(50, 400, 50), 8, seed=0
        )
        error = values.std(ddof=1) / 8**0.5
        assert values.shape == (8,)
        assert abs(values.mean() - of_langevin(beta, step)) < 3 * error < 0.03

    def test_burn_in(self):
        """Chains start at w, whose loss is 0: it is left out."""
        run = [
            langevin.estimates(solvable.crossing([1], 2.0), PlainSampler(0.2, True), Length(3, n, burn), 1, seed=0)
            for n, burn in ((1, 0), (2, 0), (2, 1))
        ]
        assert run[0] == 0 and run[2] > 0
        assert_allclose(run[2], 2 * run[1])

    @pytest.mark.parametrize("sampler", [Sampler("SGLD", 0.02), Sampler("SGNHT", 0.1, 0.1)], ids=str)
    def test_devinterp(self, sampler):
        """Its samplers sample the same measure; RMSprop-SGLD only at gradients well below its eps."""
        pytest.importorskip("devinterp")
        values = langevin.estimates(solvable.crossing([1], 2.0), sampler, Length(50, 1000, 200), 8, seed=0)
        assert abs(values.mean() - 0.4) < 0.04


class TestTuning:
    def test_rms(self):
        assert langevin.rms(np.array([1.0, 3.0]), 2.0) == 1.0
        for bad in (np.nan, np.inf, 1e200):
            assert langevin.rms(np.array([1.0, bad]), 2.0) == np.inf

    @pytest.mark.parametrize("best", [1e-5, 10**-3.5, 1e-2])
    def test_step(self, best):
        """The nearest power of √10, however the shorter runs are off; runs that diverge are passed over."""
        seen = []

        def run(sampler, shorter):
            seen.append(shorter)
            if sampler.step > 0.03:
                return np.array([np.nan])
            return np.array([1.0 + abs(np.log10(sampler.step / best)) + (shorter > 4)])

        assert_allclose(langevin.tuned("SGLD", run, 1.0).step, best, rtol=1e-9)
        assert seen == [10] * len(langevin.STEPS) + [4] * 3

    def test_diffusion(self):
        def run(sampler, shorter):
            return np.array([abs(np.log10(sampler.step) + 4) + abs(np.log10(sampler.diffusion) + 1)])

        assert langevin.tuned("SGNHT", run, 0.0) == Sampler("SGNHT", 1e-4, 0.1)

    def test_names(self):
        assert str(Sampler("SGLD", 10**-3.5)) == "SGLD, ε = 3e−4"
        assert str(Sampler("SGNHT", 0.01, 0.1)) == "SGNHT, ε = 1e−2, A = 0.1"


def row(**changes):
    defaults = benchmark.Row("a, b", 2.0, 0.0, "bpflat", "", "bpflat 1", 0, 2.0, 0.1, 100.0, 0.0, 1.5)
    return replace(defaults, **changes)


class TestTable:
    rows = (
        row(estimate=2.2),
        row(estimate=1.8, run=1, forward=300.0),
        row(package="devinterp", sampler="SGLD, ε = 1e−3", made_by="devinterp 2", estimate=4.0, std_error=np.nan),
        row(package="devinterp", sampler="SGLD, ε = 1e−3", made_by="devinterp 2", estimate=2.0, run=1, backward=7.0),
    )

    def test_lines(self):
        _, ours, theirs = benchmark.table(self.rows)
        assert ours == ("a, b", "2.0000", "bpflat", "2.000 ± 0.200", "10.0 ± 0.0", "200", "0", "1.5")
        assert theirs[2:5] == ("devinterp SGLD, ε = 1e−3", "3.000 ± 1.000", "70.7 ± 35.4")
        text = benchmark.text(self.rows)
        assert "(2 of bpflat, 2 of devinterp)" in " ".join(text.split()) and "devinterp 2" in text

    def test_file(self, tmp_path):
        benchmark.write(tmp_path / "deep" / "rows.csv", self.rows)
        assert list(map(repr, benchmark.read(tmp_path / "deep" / "rows.csv"))) == list(map(repr, self.rows))

    def test_stored(self):
        """The stored table is what its runs say."""
        folder = RESULTS / "learning-coefficient"
        rows = benchmark.read(folder / "learning_coefficient.csv")
        assert (folder / "learning_coefficient.md").read_text(encoding="utf-8") == benchmark.text(rows)


class TestProgram:
    def test_a_wrong_answer_is_not_timed(self, monkeypatch):
        case = solvable.crossing([1], 1.0)
        curve = benchmark.curve_of(case, seed=0)
        monkeypatch.setattr(benchmark, "curve_of", lambda case, seed: curve)
        (found,) = benchmark.measured(case, solvable.of_crossing(case), 1)
        assert found.package == "bpflat" and found.forward == curve.passes[0]
        with pytest.raises(AssertionError, match="standard errors off"):
            benchmark.measured(case, (2 * found.exact, 0.0), 1)

    def test_rows_of_devinterp_are_kept(self, monkeypatch, tmp_path, capsys):
        """Where it is not installed."""
        case = solvable.crossing([1], 1.0)
        path = tmp_path / "learning_coefficient.csv"
        kept = [
            row(problem=case.name, package="devinterp", sampler="x", run=i, std_error=0.0, estimate=2.2)
            for i in range(2)
        ]
        benchmark.write(path, [row(problem=case.name), *kept])
        new = [row(problem=case.name, estimate=2.1 + i, run=i) for i in range(2)]
        monkeypatch.setattr(benchmark, "cases", lambda: iter([(case, (2.0, 0.0))]))
        monkeypatch.setattr(benchmark, "measured", lambda *_: new)
        monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
        n_threads = torch.get_num_threads()
        benchmark.main(["--results", str(tmp_path)])
        torch.set_num_threads(n_threads)
        assert benchmark.read(path) == [*new, *kept]
        assert "pip install devinterp" in capsys.readouterr().out
        assert path.with_suffix(".md").read_text(encoding="utf-8") == benchmark.text([*new, *kept])

    def test_cost(self, monkeypatch):
        """Counts of a run, and its time."""
        case = solvable.crossing([1], 1.0)
        monkeypatch.setattr(benchmark.importlib.metadata, "version", lambda name: "0")
        monkeypatch.setattr(benchmark, "tuned", lambda name, run, exact: Sampler(name, 1e-3))
        monkeypatch.setattr(benchmark, "seconds_of_step", lambda *_: 0.5)
        lengths = []

        def estimates(case, sampler, length, n_runs, *, seed):
            lengths.append(length)
            return np.full(n_runs, 0.3)

        monkeypatch.setattr(benchmark, "estimates", estimates)
        rows = benchmark.measured_of_devinterp(case, (0.3, 0.0), 2)
        assert lengths == [Length(4, 200, 0), *[Length(4, 5000, 1000)] * 3]
        assert_array_equal([r.forward for r in rows], [800] * 2 + [20_000] * 6)
        assert_array_equal([r.backward for r in rows], [800] * 2 + [20_000] * 6)
        assert_array_equal([r.seconds for r in rows], [100.0] * 2 + [2500.0] * 6)
