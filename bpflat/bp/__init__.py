"""Belief propagation on the fully-connected committee machine: log Z(w, Δ) of the anchored partition function.

`solve_edges` passes messages on every edge, as the method is usually written; `solve_nodes` finds the same fixed
points with far less work.  Both return a `Point` and share `output_node`, the exact vote of K noisy signs.
"""

from bpflat.bp.routines import make_nodes, output_node, solve_edges, solve_nodes
from bpflat.point import Point

__all__ = ["Point", "make_nodes", "output_node", "solve_edges", "solve_nodes"]
