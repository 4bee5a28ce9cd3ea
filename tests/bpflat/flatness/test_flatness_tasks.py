"""`local_energy` of regression, segmentation, language models and others: closed forms, and means written out."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn import functional as F

from bpflat.flatness import local_energy
from tests.bpflat.flatness.toy_models import noise_of, untouched


class TestPhysics:
    def test_quadratic_loss(self):
        """δL = ½σ² Σ H_ii w_i², whatever σ, where the loss is quadratic in w."""
        rng = torch.Generator().manual_seed(0)
        x, y = torch.randn(200, 12, generator=rng), torch.randn(200, 2, generator=rng)
        model = nn.Linear(12, 2)
        sigmas = np.array([0.1, 1.0, 3.0])
        hessian = torch.cat([(x**2).mean(0).repeat(2, 1), torch.ones(2, 1)], dim=1)  # diagonal, weights and biases
        w = torch.cat([model.weight, model.bias[:, None]], dim=1).detach()
        expected = 0.5 * sigmas**2 * (hessian * w**2).sum().item()
        for options in ({}, {"antithetic": True}, {"common": False}):
            profile = local_energy(
                model,
                {"x": x, "y": y},
                sigmas,
                n_samples=1000,
                seed=1,
                batch_size=200,
                forward=lambda model, batch: model(batch["x"]),
                loss=lambda outputs, batch: 0.5 * (outputs - batch["y"]).square().sum(1),
                **options,
            )
            assert (abs(profile.delta_loss - expected) < 3 * profile.loss_std_error).all(), options
            assert (profile.loss_std_error < 0.2 * expected).all()

    def test_tolerance_of_the_loss(self):
        """Where there is no error, `tolerance` is the standard error of δL."""
        torch.manual_seed(7)
        x, y, model = torch.randn(60, 4), torch.randn(60, 1), nn.Linear(4, 1)
        loss = {"loss": lambda outputs, batch: (outputs - batch[1]).square()[:, 0]}
        profile = local_energy(model, (x, y), [0.01, 1.0], n_samples=600, seed=0, tolerance=0.1, **loss)
        assert profile.n_samples[0] == 16 < profile.n_samples[1] < 600
        assert (profile.loss_std_error <= 0.1).all()


class TestTasks:
    """Agreement with means that are written out, with the same noise."""

    @staticmethod
    def rises(model, sigma, n_samples, seed, measure):
        """Mean rise (2,) of ``measure(model)``, (error, loss), over draws that are put in by hand."""
        names = dict(model.named_parameters())
        before = {name: p.detach().clone() for name, p in names.items()}
        found, at_w = [], measure(model)
        for z in noise_of(model, seed, n_samples):
            with torch.no_grad():
                for name, p in names.items():
                    p.copy_(before[name] * (1 + sigma * z[name]))
                found.append([a - b for a, b in zip(measure(model), at_w, strict=True)])
                for name, p in names.items():
                    p.copy_(before[name])
        return np.mean(found, axis=0), at_w

    def check(self, model, data, measure, **options):
        with untouched(model):
            profile = local_energy(model, data, [0.4], n_samples=5, seed=2, **options)
        expected, at_w = self.rises(model, 0.4, 5, 2, measure)
        assert_allclose([profile.delta_error[0], profile.delta_loss[0]], expected, rtol=1e-4, atol=1e-6)
        assert_allclose([profile.train_error, profile.train_loss], at_w, rtol=1e-5)
        assert profile.delta_loss[0] != 0
        return profile

    def test_language_model(self):
        """Batches padded to lengths of their own; positions of the padding do not count, in all 3 forms of data."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 11))
        batches = []
        for n_rows, length in ((4, 7), (3, 5), (1, 9)):
            tokens = torch.randint(11, (n_rows, length))
            labels = tokens.roll(-1, 1)
            labels[:, -1] = -100
            labels[0, length // 2 :] = -100
            batches.append({"tokens": tokens, "labels": labels})

        def loss(logits, batch):
            labels = batch["labels"]
            return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none"), labels != -100

        def error(logits, batch):
            return logits.argmax(-1) != batch["labels"], batch["labels"] != -100

        @torch.no_grad()
        def measure(model):
            wrong, losses = [], []
            for batch in batches:
                for row, labels in zip(batch["tokens"], batch["labels"], strict=True):
                    for token, label in zip(row, labels, strict=True):
                        if label != -100:
                            logits = model(token[None])[0]
                            wrong.append(float(logits.argmax() != label))
                            losses.append(F.cross_entropy(logits, label).item())
            return np.mean(wrong), np.mean(losses)

        functions = {"forward": lambda model, batch: model(batch["tokens"]), "loss": loss, "error": error}
        profile = self.check(model, batches, measure, **functions)
        assert 0.5 < profile.train_error < 1
        streamed = local_energy(model, batches, [0.4], n_samples=5, seed=2, resident=False, **functions)
        by_row = local_energy(model, batches, [0.4], n_samples=5, seed=2, batch_size=1, **functions)
        for other in (streamed, by_row):
            assert_allclose(other.delta_loss, profile.delta_loss, rtol=1e-5)
            assert other.train_error == profile.train_error
        with pytest.raises(ValueError, match=r"a subset cannot be drawn from data .* cannot be joined"):
            local_energy(model, batches, [0.4], n_samples=5, subset=2, **functions)

    def test_segmentation(self):
        """Pairs of images and maps of classes, one of them ignored."""
        torch.manual_seed(1)
        model = nn.Conv2d(2, 3, 3, padding=1)
        images, maps = torch.randn(10, 2, 5, 5), torch.randint(-1, 3, (10, 5, 5))

        def loss(outputs, batch):
            return F.cross_entropy(outputs, batch[1], ignore_index=-1, reduction="none"), batch[1] >= 0

        @torch.no_grad()
        def measure(model):
            outputs, known = model(images), maps >= 0
            wrong = (outputs.argmax(1) != maps)[known].double().mean().item()
            return wrong, F.cross_entropy(outputs, maps, ignore_index=-1).item()

        def error(outputs, batch):
            return outputs.argmax(1) != batch[1], (batch[1] >= 0).float()

        self.check(model, (images, maps), measure, loss=loss, error=error)
        self.check(model, (images, maps), measure, loss=loss, error=error, batch_size=3)

    def test_multi_label_and_soft_labels(self):
        torch.manual_seed(2)
        model, inputs = nn.Linear(6, 4), torch.randn(30, 6)
        labels = torch.randint(2, (30, 4))

        def bce(outputs, batch):
            return F.binary_cross_entropy_with_logits(outputs, batch[1].float(), reduction="none")

        @torch.no_grad()
        def measure(model):
            outputs = model(inputs)
            wrong = ((outputs > 0) != labels.bool()).double().mean().item()
            return wrong, F.binary_cross_entropy_with_logits(outputs, labels.float()).item()

        hamming = {"loss": bce, "error": lambda outputs, batch: (outputs > 0) != batch[1].bool()}
        self.check(model, (inputs, labels), measure, **hamming)
        soft = torch.rand(30, 4).softmax(1)

        @torch.no_grad()
        def soft_measure(model):
            return math.nan, F.cross_entropy(model(inputs), soft).item()

        loss = {"loss": lambda outputs, batch: F.cross_entropy(outputs, batch[1], reduction="none")}
        self.check(model, (inputs, soft), soft_measure, **loss)

    def test_subset_of_weighted_patterns(self):
        """Sums over a subset are divided by the average weight of so many patterns, hence without bias."""
        torch.manual_seed(3)
        model, inputs = nn.Linear(3, 1), torch.randn(4, 3)
        weights = torch.tensor([[1.0, 0.0], [3.0, 1.0], [0.0, 0.0], [2.0, 0.5]])
        targets = torch.randn(4, 2)

        def loss(outputs, batch):
            return (outputs - batch[1][..., 0]).square(), batch[1][..., 1]

        data = (inputs, torch.stack([targets, weights], dim=2))
        options = {"seed": 4, "loss": loss}
        part = local_energy(model, data, [0.5], n_samples=2000, subset=2, **options)
        whole = local_energy(model, data, [0.5], n_samples=2000, **options)
        assert abs(part.delta_loss - whole.delta_loss) < 3 * np.hypot(part.loss_std_error, whole.loss_std_error)
        assert part.train_loss == whole.train_loss
        assert (part.loss_std_error < 0.2 * part.delta_loss).all()

    def test_images_of_many_sizes(self):
        """Batches that cannot be joined are kept as they are, without any function."""
        torch.manual_seed(4)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        batches = [(torch.randn(3, 1, n, n), torch.tensor([0, 1, 1])) for n in (5, 6, 9)]

        @torch.no_grad()
        def measure(model):
            wrong = [(model(x).argmax(1) != y).double().mean().item() for x, y in batches]
            return np.mean(wrong), np.mean([F.cross_entropy(model(x), y).item() for x, y in batches])

        self.check(model, batches, measure)

    def test_graph(self):
        """A batch of unknown meaning that can be moved: it stays whole."""

        class Graph:
            def __init__(self, nodes, edges, y):
                self.nodes, self.edges, self.y, self.moved = nodes, edges, y, 0

            def to(self, device):
                self.moved += 1
                return self

        torch.manual_seed(5)
        model = nn.Linear(3, 1)
        graphs = [Graph(torch.randn(n, 3), torch.randint(n, (2, 2 * n)), torch.randn(n)) for n in (4, 6)]

        def forward(model, graph):
            sources, sinks = graph.edges
            return torch.zeros(len(graph.y)).index_add(0, sinks, model(graph.nodes)[sources, 0])

        @torch.no_grad()
        def measure(model):
            losses = [(forward(model, g) - g.y).square() for g in graphs]
            return math.nan, torch.cat(losses).mean().item()

        self.check(model, graphs, measure, forward=forward, loss=lambda outputs, graph: (outputs - graph.y).square())
        assert all(graph.moved for graph in graphs)
        alone = {"forward": forward, "loss": lambda outputs, graph: (outputs - graph.y).square(), "n_samples": 3}
        one, listed = (local_energy(model, data, [0.4], seed=0, **alone) for data in (graphs[0], graphs[:1]))
        assert one.delta_loss == listed.delta_loss

    def test_gradients_inside(self):
        """Forces: minus the gradient of an energy with respect to positions."""
        torch.manual_seed(6)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        x, forces = torch.randn(20, 3), torch.randn(20, 3)

        def forward(model, batch):
            with torch.enable_grad():
                x = batch["x"].detach().requires_grad_()
                return -torch.autograd.grad(model(x).sum(), x)[0]

        def measure(model):
            return math.nan, (forward(model, {"x": x}) - forces).square().mean().item()

        loss = {"loss": lambda outputs, batch: (outputs - batch["f"]).square()}
        self.check(model, {"x": x, "f": forces}, measure, forward=forward, **loss)

    def test_losses_that_overflow_under_noise(self):
        """Not a number where the noise made it so, at that σ alone; at w it is an error."""
        data = (torch.randn(20, 3), torch.randn(20, 1))
        loss = {"loss": lambda outputs, batch: (outputs - batch[1]).square()[:, 0]}
        profile = local_energy(nn.Linear(3, 1), data, [0.01, 1e30], n_samples=4, seed=0, **loss)
        assert np.isfinite(profile.delta_loss[0]) and not np.isfinite(profile.delta_loss[1])
        assert np.isfinite(profile.loss_std_error[0]) and np.isnan(profile.loss_std_error[1])
