"""One sweep of belief propagation, N = 784, K = 9, P = 500: the node form over the edge form; messages per second."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.reference import trained_reference
from benchmarks.timing import median_seconds, verdict
from bpflat.bp import make_nodes, output_node, solve_edges, solve_nodes
from bpflat.estimators.kernels import _edge_sweep
from bpflat.estimators.node_bp import equations

DELTA = 0.1
FASTEST_CPP = (23e6, 46e6)  # messages per second and core, of the best public code for binary weights


def main() -> None:
    """Time both sweeps at the fixed point around an SGD-fast minimum, and check that it is the same fixed point."""
    weights, patterns, labels = trained_reference()
    nodes = make_nodes(weights, patterns)
    point = solve_nodes(nodes, labels, DELTA)
    g, curvature = point.messages

    at_delta = equations(replace(nodes, labels=labels), DELTA)
    messages = [np.ascontiguousarray(m.T) for m in point.messages]

    def node_sweep():
        return at_delta.outputs(at_delta.flat(*at_delta.cavities_from(*messages)))

    x = patterns / np.sqrt(patterns.shape[1])
    shape = (*curvature.shape, patterns.shape[1])
    a = np.einsum("mi,mk->mki", x**2, curvature)
    precision = 1 / DELTA + a.sum(axis=0)
    pull = np.einsum("mi,mk->mki", x, g) * (1 - a / precision)
    mean = weights + DELTA * pull.sum(axis=0)
    b = np.einsum("mi,mk->mki", x, g) * (1 - a / precision) + a * mean  # x̂ g + A m, with m = M - x̂ g/P
    field = weights / DELTA + b.sum(axis=0)
    log_z = np.empty(len(labels))
    order = np.arange(len(labels))
    edge_g, edge_curvature = g.copy(), curvature.copy()

    def edge_sweep():
        return _edge_sweep(x, labels, order, 0.0, a, b, precision, field, edge_g, edge_curvature, log_z)

    def array_sweep():
        """All messages at once, in whole-array numpy: how the equations are usually typed in."""
        rho = 1 / (precision - a)
        m = rho * (field - b)
        derivatives = output_node(np.einsum("mi,mki->mk", x, m), np.einsum("mi,mki->mk", x**2, rho), labels)
        new_a = np.einsum("mi,mk->mki", x**2, derivatives[1])
        new_b = np.einsum("mi,mk->mki", x, derivatives[0]) + new_a * m
        return new_a, new_b, 1 / DELTA + new_a.sum(axis=0), weights / DELTA + new_b.sum(axis=0)

    for new, old in zip(array_sweep(), (a, b, precision, field), strict=True):
        assert np.allclose(new, old, rtol=1e-5, atol=1e-6 * np.abs(old).max()), "the array sweep moves the fixed point"
    change = edge_sweep()
    assert change < 1e-6, f"the two forms disagree about the fixed point: a sweep over edges moves it by {change:.1e}"
    edges = solve_edges(weights, patterns, labels, 0.003)
    assert edges.converged and abs(solve_nodes(nodes, labels, 0.003).log_z / edges.log_z - 1) < 1e-6

    # One after the other, not in turns: a solver's sweeps find their arrays in the cache.
    (node,), (edge,), (array,) = (median_seconds(f, repeats=25) for f in (node_sweep, edge_sweep, array_sweep))
    rate = 2 * np.prod(shape) / edge
    print(
        f"one sweep around an SGD-fast minimum, Δ = {DELTA}: nodes {node * 1e3:.3f} ms, "
        f"edges compiled {edge * 1e3:.1f} ms, edges in numpy {array * 1e3:.0f} ms"
    )
    print(verdict("time of a compiled edge sweep over a node sweep", edge / node, 100))
    print(verdict("time of an edge sweep in numpy over a node sweep", array / node, 100))
    print(verdict("edge form, million messages per second on one core", rate / 1e6, FASTEST_CPP[1] / 1e6))


if __name__ == "__main__":
    main()
