"""Output nodes: by enumeration into both tails, by their own energies, and what is refused."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from bpflat import nodes
from bpflat.estimators import output_node
from tests.naive import committee as naive
from tests.output_nodes import NODES, energies_of_sets

rng = np.random.default_rng(0)
COUNTS = [name for name, node in NODES.items() if isinstance(node, nodes.CountNode)]


def in_both_tails(n_hidden):
    """Cavities ``y = σω/√V`` (K, P), up to 40: ordinary, mixed, all that agree, all that do not."""
    columns = [scale * rng.normal(size=n_hidden) for scale in (1, 5, 20)]
    columns += [sign * size + rng.normal(size=n_hidden) for sign in (1, -1) for size in (3, 38)]
    return np.clip(np.array([*columns, rng.choice([-40.0, 40.0], n_hidden)]).T, -40, 40)


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("label", [1.0, -1.0])
def test_enumeration(name, label):
    node = NODES[name]
    y = in_both_tails(node.n_hidden)
    variance = rng.uniform(0.2, 3.0, y.shape)
    omega = label * (y * np.sqrt(variance) + node.margin)
    g, curvature, log_z = node.output(omega, variance, np.full(y.shape[1], label))
    for p in range(y.shape[1]):
        slope, bend, expected = naive.factor_node(y[:, p], energies_of_sets(node, 0 if label > 0 else 1))
        hard = 1e-13 * max(-expected, 1.0)  # digits that are lost where Z is the exponential of such a number
        assert_allclose(log_z[p], expected, rtol=1e-11, atol=1e-300)
        assert_allclose(label * g[:, p] * np.sqrt(variance[:, p]), slope, rtol=1e-10, atol=max(1e-280, 40 * hard))
        assert_allclose(curvature[:, p] * variance[:, p], bend, rtol=1e-9, atol=max(1e-280, 1600 * hard))


@pytest.mark.parametrize("name", NODES)
def test_own_energies(name):
    """Derivatives by finite differences, Z by sampling: as for a node of one's own."""
    node = NODES[name]
    assert nodes.check_node(Own(node.is_hard, node.output, node.energy), node.n_hidden)


@pytest.mark.parametrize("name", COUNTS)
def test_tensors(name):
    """The same without compiled code, as on a GPU."""
    node = NODES[name]
    y = in_both_tails(node.n_hidden)
    arrays = y, np.ones(y.shape), np.ones(y.shape[1])
    by_tensors = output_node._votes_by_tensors(*map(torch.from_numpy, arrays), node.factors[0])
    for got, expected in zip(by_tensors, output_node.votes(*arrays, node.factors[0]), strict=True):
        assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["weights", "any set"])
def test_sets_of_tensors(name):
    node = NODES[name]
    y = in_both_tails(node.n_hidden)
    arrays = np.stack([y, -y]), np.ones((2, *y.shape)), rng.choice([-1.0, 1.0], y.shape[1])
    for got, expected in zip(node.output(*map(torch.from_numpy, arrays)), node.output(*arrays), strict=True):
        assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_equal_weights_are_a_majority():
    y = in_both_tails(5)
    given = y, np.full(y.shape, 0.5), np.ones(y.shape[1])
    for got, expected in zip(
        nodes.weighted(np.full(5, 0.3)).output(*given), nodes.majority(5).output(*given), strict=True
    ):
        assert_allclose(got, expected, rtol=1e-9, atol=1e-8)


def test_parity_is_the_product():
    hidden = rng.normal(size=(4, 30))
    labels = np.prod(np.sign(hidden), axis=0)
    assert_array_equal(nodes.parity(4).energy(hidden, labels), 0)
    assert_array_equal(nodes.parity(4).energy(hidden, -labels), np.inf)


class Own:
    """A node of a user's, from its parts."""

    def __init__(self, is_hard, output, energy):
        self.is_hard, self.output, self.energy = is_hard, output, energy


def changed(**parts):
    """The majority of three with other parts."""
    node = nodes.majority(3)
    return Own(**{"is_hard": True, "output": node.output, "energy": node.energy} | parts)


def scaled(g=1.0, curvature=1.0, log_z=1.0):
    """A majority of three whose output is off by factors."""
    factors = (g, curvature, log_z)
    return changed(
        output=lambda *given: [f * v for f, v in zip(factors, nodes.majority(3).output(*given), strict=True)]
    )


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (scaled(g=1.001), r"node: g of unit 0 is -?\d\S* where the slope of its log Z is -?\d"),
        (scaled(curvature=1.001), r"node: Γ of unit 0 is -?\d\S* where minus the slope of its g is -?\d"),
        (scaled(1.1, 1.1, 1.1), r"node: Z is 0\S* where the mean of its e\^{-energy} is 0"),
        (changed(energy=nodes.parity(3).energy), "node: Z is"),
        (changed(energy=lambda h, y: np.ones(np.shape(h)[:-2] + np.shape(h)[-1:])), "some of its energies are neither"),
        (changed(energy=lambda h, y: 0.0), r"node.energy must return arrays of shapes \[\(16384, 16\)\]"),
        (changed(output=lambda o, v, y: (o, o, o)), "node.output must return arrays of shapes"),
        (nodes.majority(5), "node is for K = 5 hidden units, weights or n_hidden for 3"),
        ("majority", "node must have is_hard, output and energy"),
    ],
)
def test_wrong_nodes(node, message):
    with pytest.raises(ValueError, match=message):
        nodes.check_node(node, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nodes.majority(4), "can be a tie: say what that is"),
        (lambda: nodes.majority(5, ties="coin"), "has none that could count"),
        (lambda: nodes.majority(4, ties="plus"), "ties 'plus' is unknown"),
        (lambda: nodes.majority(4, lead=2, ties="right"), "has none that could count"),
        (lambda: nodes.majority(4, lead=5), "lead must be a whole number, at most 4"),
        (lambda: nodes.majority(0), "n_hidden must be a whole number, at least 1"),
        (lambda: nodes.majority(3, margin=np.nan), "margin must be finite"),
        (lambda: nodes.weighted([1.0, 1.0]), "can be a tie"),
        (lambda: nodes.weighted(np.zeros(3)), "output_weights must be 1 to 12 numbers, not all 0"),
        (lambda: nodes.weighted(np.ones(13)), "output_weights must be 1 to 12 numbers"),
        (lambda: nodes.weighted([1.0, 2.0], lead=4.0), "lead must be finite and at most 3"),
        (lambda: nodes.cross_entropy(3, omega=0.0), "omega must be finite and greater than 0"),
        (lambda: nodes.CountNode([-1.0, 0.0]), "energies must be at least 0; found -1"),
        (lambda: nodes.CountNode([np.nan, 0.0]), "energies must be at least 0; found nan"),
        (lambda: nodes.CountNode([np.inf, np.inf]), "energies are all infinite"),
        (lambda: nodes.CountNode(np.zeros((3, 4))), r"energies must have shape \(K \+ 1,\) or \(2, K \+ 1\)"),
        (lambda: nodes.SignNode(np.zeros(6)), "there must be 2"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
