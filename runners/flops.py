"""Arithmetic of a training step: FLOP of its matrix products."""

import blockgraph
from blockgraph.graph import Graph
from runners.config import RunConfig

BACKWARD = 2  # matrix products of the backward pass for each one of the forward pass


def step_flops(graph: Graph, config: RunConfig, recompute: bool) -> int:
    """FLOP of a step on all ranks: forward, backward, and forward through the layers again where asked for."""
    costs, batch, seq = blockgraph.cost(graph), config.train.batch, config.data.seq
    again = sum(row.flops(batch, seq) for row in costs.rows if row.node.blocks and row.depth == 0)
    return (1 + BACKWARD) * costs.flops(batch, seq) + (again if recompute else 0)
