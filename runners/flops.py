"""Arithmetic of a training step: FLOP of its matrix products."""

import blockgraph
from blockgraph.graph import Graph
from blockgraph.recompute import again
from runners.config import RunConfig

BACKWARD = 2  # matrix products of the backward pass for each one of the forward pass


def step_flops(graph: Graph, config: RunConfig, recompute: tuple[str, ...]) -> int:
    """FLOP of a step on all ranks: forward, backward, and forward through these nodes of the layers again."""
    costs, batch, seq = blockgraph.cost(graph), config.train.batch, config.data.seq
    inner = (row for row in costs.rows if row.depth and again(row.node, recompute))
    return (1 + BACKWARD) * costs.flops(batch, seq) + sum(row.layers * row.flops(batch, seq) for row in inner)
