"""Parameters and matrix-product FLOPs of a graph, node by node and in total."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from blockgraph.dims import Size
from blockgraph.graph import Graph, Node

TRAIN_BYTES = 16  # fp32 weight, fp32 gradient and AdamW's two fp32 moments, for each parameter


@dataclass(frozen=True)
class Row:
    """What one node of `graph` costs each time, and how often it runs; a stack's row is the sum of its layers.

    `layers` are those in which it runs, 1 for a node that stands in none.
    """

    graph: Graph
    node: Node
    depth: int
    layers: int
    parameters: int
    work: Size

    def flops(self, batch: int, seq: int) -> int:
        """Forward FLOPs of matrix products, 2 for each multiply-add; other run-time dims count as long as `seq`."""
        return _at(self.work, batch, seq)


@dataclass(frozen=True)
class Cost:
    """What a graph costs: `rows` in running order, with the blocks of a stack below its row."""

    rows: tuple[Row, ...]
    parameters: int
    work: Size

    def flops(self, batch: int = 1, seq: int = 1) -> int:
        """Forward FLOPs of matrix products for a batch of sequences; a training step takes three times as many."""
        return _at(self.work, batch, seq)

    @property
    def train_bytes(self) -> int:
        """Bytes that weights, gradients and AdamW's moments take in fp32; activations are not counted."""
        return TRAIN_BYTES * self.parameters


def cost(graph: Graph) -> Cost:
    """Parameters and FLOPs of every node; shared parameters count once."""
    rows = tuple(_rows(graph, 0))
    top = [row for row in rows if row.depth == 0]
    return Cost(rows, sum(row.parameters for row in top), sum((row.work for row in top), Size.constant(0)))


def _rows(graph: Graph, depth: int) -> Iterator[Row]:
    for node in graph.nodes.values():
        if not node.blocks:
            yield Row(graph, node, depth, 1, _parameters(node), _flops(graph, node))
            continue
        inner = [list(_rows(block, depth + 1)) for block in node.blocks]
        whole = [[row for row in rows if row.depth == depth + 1] for rows in inner]
        again = [row for index in node.plan[1:] for row in whole[index] if _shared(row, node.op.sharing())]
        parameters = sum(row.parameters for index in node.plan for row in whole[index])
        parameters -= sum(row.parameters for row in again)
        work = sum((row.work for index in node.plan for row in whole[index]), Size.constant(0))
        yield Row(graph, node, depth, 1, parameters, work)
        for index, rows in enumerate(inner):
            for row in rows:
                yield Row(row.graph, row.node, row.depth, row.layers * node.plan.count(index), row.parameters, row.work)


def _parameters(node: Node) -> int:
    return sum(prod(size.at() for size in param.sizes) for param in node.params)


def _flops(graph: Graph, node: Node) -> Size:
    kinds = [graph.type_of(ref) for ref in node.data().values()]
    return node.op.flops(*(kind for kind in kinds if kind is not None))


def _shared(row: Row, paths: tuple[str, ...]) -> bool:
    """Whether layers after the first one take a node's parameters from it."""
    return any(f"{row.node.home}.".startswith(f"{path}.") for path in paths)


def _at(work: Size, batch: int, seq: int) -> int:
    return work.at(**dict.fromkeys(work.unbound, seq) | {"batch": batch, "seq": seq})
