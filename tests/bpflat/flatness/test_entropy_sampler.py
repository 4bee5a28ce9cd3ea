"""Elliptical slice sampling with replica exchange: a plain twin, a determinant, coverage of the intervals, memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bpflat.estimators import tempering
from bpflat.estimators.point import point_of_samples
from bpflat.flatness import ensemble
from bpflat.flatness.ensemble import Ensemble
from tests.naive import flatness as naive
from tests.stored import ROOT


class Quadratic:
    """``U = Σ_i a_i z_i²/2``, an energy whose partition function is a determinant; infinite beyond a wall."""

    def __init__(self, a, together=64, wall=np.inf):
        self.w, self.together, self.wall = torch.tensor(a, dtype=torch.float64), together, wall
        self.n_weights = len(a)

    def draw(self, out, generator):
        out.normal_(generator=generator)

    def __call__(self, states, limits):
        energies = (states.square() @ self.w / 2).numpy()
        energies[(states[:, 0].abs() > self.wall).numpy()] = np.inf
        states.fill_(np.nan)  # as it may
        return np.where(energies <= limits, energies, np.inf)

    def log_z(self, beta):
        return -0.5 * np.log1p(beta * self.w.numpy()).sum()


def sample(energy, betas, n_sweeps, n_chains=2, seed=0):
    """Energies and norms after each temperature was added, and some sweeps."""
    states = Ensemble(energy, n_chains, np.random.SeedSequence(seed))
    for last in range(1, len(betas) + 1):
        states.run(np.array(betas[:last]), 10)
        if last < len(betas):
            states.grow()
    states.run(np.array(betas), 20)
    return states.run(np.array(betas), n_sweeps)


class TestTwin:
    @pytest.mark.parametrize("together", [1, 3, 64])
    @pytest.mark.parametrize(("tries", "cold"), [(3, []), (40, []), (3, [2, 3, 4, 5]), (40, [1, 2, 3, 4, 5])])
    def test_plain_loops(self, together, tries, cold, monkeypatch):
        """The same energies from the same random numbers, whatever is evaluated together; few tries; lines."""
        monkeypatch.setattr(ensemble, "_TRIES", tries)
        betas, a = [0.0, 0.7, 1.3, 2.5, 4.0, 6.0], [3.0, 0.5, 1.0, 8.0]
        fast = Ensemble(Quadratic(a, together), 2, np.random.SeedSequence(3))
        plain = Ensemble(Quadratic(a), 2, np.random.SeedSequence(3))
        for states in (fast, plain):
            states.run(np.array([0.0]), 5)
            for _ in betas[1:]:
                states.grow()
            states.run(np.array(betas), 2)  # different states, as a line needs
            states.turns = np.where(np.isin(np.arange(6), cold), 0.0, 1.0)

        def normal():
            row = torch.empty(4, dtype=torch.float64)
            row.normal_(generator=plain.generator)
            return row.tolist()

        energies, norms = fast.run(np.array(betas), 30)
        z = [[state.tolist() for state in chain] for chain in plain.z]
        expected = naive.replica_exchange(
            lambda z: sum(c * v * v for c, v in zip(a, z, strict=True)) / 2,
            z,
            betas,
            30,
            plain.rng,
            normal,
            tries,
            cold,
        )
        assert_allclose(energies, expected[0], rtol=1e-9)
        assert_allclose(norms, expected[1], rtol=1e-9)

    def test_samples_of_the_prior(self):
        """A single temperature: independent, and the same whatever is evaluated together."""
        energies, norms = Ensemble(Quadratic([1.0] * 5, 7), 4, np.random.SeedSequence(0)).run(np.zeros(1), 500)
        assert energies.shape == (4, 500, 1)
        assert_allclose(2 * energies[..., 0], norms)
        assert abs(norms.mean() - 5) < 4 * np.sqrt(10 / norms.size)
        other = Ensemble(Quadratic([1.0] * 5, 1), 4, np.random.SeedSequence(0)).run(np.zeros(1), 500)
        assert_allclose(energies, other[0], rtol=1e-12)


class TestKnownAnswers:
    def test_coverage(self):
        """The 95 % intervals of log Z, of ⟨U⟩ and of Φ hold the exact values in 91 to 99 % of 100 runs of 2 chains.

        All runs are made at once, with one ladder.
        """
        energy, betas = Quadratic([4.0, 4.0, 1.0, 0.3], together=4096), np.array([0.0, 0.3, 1.0])
        energies, norms = sample(energy, betas, 300, n_chains=200)
        spread = energy.w.numpy() / (1 + energy.w.numpy())
        mean = 0.5 * spread.sum()
        excess = -spread.sum() / 4
        exact = np.array([energy.log_z(1.0), mean, energy.log_z(1.0) + mean + 2 * (excess - np.log1p(excess))])
        z = []
        for run in range(100):
            rows = slice(2 * run, 2 * run + 2)
            point, found = point_of_samples(
                energies[rows],
                norms[rows],
                betas,
                0.0,
                1.0,
                delta=1.0,
                n_weights=4,
                n_sampled=4,
                reached=True,
                rhat=1.0,
            )
            values = np.array([found.log_z, found.energy, 4 * point.phi])
            errors = [tempering.standard_error(i) for i in (found.log_z_influence, found.energy_influence)]
            z.append((values - exact) / [*errors, 4 * point.std_error])
        held = np.mean(np.abs(z) < 1.96, axis=0)
        assert ((held >= 0.91) & (held <= 0.99)).all(), held

    def test_narrow_valley(self):
        """Four directions of width 0.01 beside four free ones, which the angles that they allow hardly turn."""
        energy, betas = Quadratic([1e4] * 4 + [0.3] * 4, together=256), np.geomspace(1e-4, 1.0, 5)
        betas[0] = 0.0
        energies, norms = sample(energy, betas, 800, n_chains=8)
        assert tempering.rhat(norms[..., None]) < 1.3
        found = tempering.estimate(energies, norms, betas, 0.0, 1.0)
        assert abs(found.log_z - energy.log_z(1.0)) < 3 * tempering.standard_error(found.log_z_influence) < 1.5

    def test_lines(self):
        """Steps along differences of states keep the measure: energies at every temperature and |z|² at the last."""
        energy, betas = Quadratic([100.0, 0.3], together=512), np.array([0.0, 0.03, 0.1, 0.3, 1.0])
        states = Ensemble(energy, 64, np.random.SeedSequence(0))
        for last in range(1, 6):
            states.run(betas[:last], 5)
            if last < 5:
                states.grow()
        states.run(betas, 20)
        states.turns = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
        energies, norms = states.run(betas, 150)
        a = energy.w.numpy()
        expected = [*(0.5 * a / (1 + np.outer(betas, a))).sum(axis=1), (1 / (1 + a)).sum()]
        means = np.concatenate([energies, norms[..., None]], axis=2).mean(axis=1)  # of each chain
        z = (means.mean(axis=0) - expected) / (means.std(axis=0, ddof=1) / 8)
        assert (abs(z) < 3.5).all(), z

    def test_infinite_energies(self):
        """Half of the prior at infinite energy: ``Z(β → 0⁺)`` is its other half."""
        energy = Quadratic([0.0, 1.0], wall=0.6744897501960817)
        energies, norms = sample(energy, [0.0, 1.0], 2000)
        found = tempering.estimate(energies, norms, np.array([0.0, 1.0]), 0.0, 1.0)
        error = tempering.standard_error(found.log_z_influence)
        assert abs(found.log_z - np.log(0.5) + 0.5 * np.log(2)) < 4 * error < 0.2

    def test_cumulants(self):
        """On the ladder, between its temperatures and a little beyond; NaN far beyond."""
        energy, betas, grid = (
            Quadratic([4.0, 4.0, 1.0]),
            np.array([0.0, 0.4, 1.0]),
            np.array([0, 0.2, 0.4, 0.9, 1.2, 1e3]),
        )
        energies = sample(energy, betas, 1500, 4)[0]
        rhats = tempering.rhat(tempering.observables(energies, betas))
        log_z, error, mean, mean_error = tempering.cumulants(energies, betas, grid, rhats)
        a = energy.w.numpy()
        assert np.isnan(log_z[-1]) and log_z[0] == 0
        assert (np.abs(log_z - [energy.log_z(b) for b in grid])[1:-1] < 4 * error[1:-1]).all()
        assert (np.abs(mean - [0.5 * (a / (1 + b * a)).sum() for b in grid])[:-1] < 4 * mean_error[:-1]).all()
        assert error[1:-1].max() < 0.1


class TestLadder:
    def test_step(self):
        """Of Gaussian energies as of counts 0.8 deviations; heavy tails and other units change nothing but the unit."""
        rng = np.random.default_rng(0)
        gaussian = 100 + 3 * rng.standard_normal(100_000)
        assert_allclose(tempering.next_step(gaussian), 0.8 / 3, rtol=0.03)
        assert tempering.next_step(np.round(gaussian)) == pytest.approx(0.8 / 3, rel=0.03)
        tailed = np.append(gaussian, [np.inf] * 20)
        assert_allclose(tempering.next_step(tailed), tempering.next_step(gaussian), rtol=0.01)
        assert_allclose(tempering.next_step(1e-6 * gaussian), 1e6 * tempering.next_step(gaussian), rtol=1e-2)

    def test_ends(self):
        """No step from infinite energies, none needed from equal ones."""
        assert tempering.next_step(np.full(9, np.inf)) == 0
        assert tempering.next_step(np.array([0.5, 0.5, 0.5, np.inf])) == np.inf

    def test_standard_error_of_what_is_not_finite(self):
        assert np.isnan(tempering.standard_error(np.array([[1.0, np.inf]])))


MEMORY = """
import sys
import numpy as np, torch
from torch import nn
from bpflat.flatness.ensemble import Ensemble
from bpflat.flatness.objective import Objective
from bpflat.flatness.passes import Passes
from bpflat.flatness.preparation import prepare
from tests.memory import peak_memory

class Sparse(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.w = nn.Parameter(torch.ones(n))
    def forward(self, x):
        return x @ self.w[:4]

def sample(n, together):
    model, data = Sparse(n), (torch.ones(8, 4), torch.ones(8))
    options = dict(seed=np.random.SeedSequence(0), batch_size=None, block_size=256, batch_norm="frozen", resident=None)
    evaluation, (w,) = prepare(model, {"w": model.w}, data, torch.device("cpu"), Objective(), precision=None, **options)
    evaluation.totals(check=True)
    passes = Passes(evaluation, [model.w], [torch.ones(1).expand(n)], {"w": w}, 0.0, together)
    states = Ensemble(passes, 4, np.random.SeedSequence(0))
    betas = [0.0, 0.1, 0.2, 0.3, 0.4]
    for last in range(1, 6):
        states.run(np.array(betas[:last]), 1)
        if last < 5:
            states.grow()
    states.run(np.array(betas), 2)
    return peak_memory()

n, together = 2_000_000, int(sys.argv[1])
before = sample(100, together)  # with all that torch loads
print((sample(n, together) - before) / (4 * n) - 1)  # but for the model itself
"""


@pytest.mark.parametrize("together", [1, 8])
def test_memory(together):
    """Numbers for each weight at the peak: states, the two rows of each that is evaluated, and what is said besides."""
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(together)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    stated = 4 * 5 + 2 * together + 4 + (together / 2 if together > 1 else 0)
    assert 0.7 * stated < float(out.stdout) < stated + 2
