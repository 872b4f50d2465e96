"""Checked graph to one that also puts out what its nodes add to the loss of a run, as one more number."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from blockgraph.graph import Graph, Node, Ref
from blockgraph.names import unique
from blockgraph.op import Op, Site, Style
from blockgraph.ops.add import Add
from blockgraph.types import Flow, Type

LOSSES = "losses"  # name of the output, with a stroke for each thing of a spec that is called so
NUMBER = Type((), flow=Flow.ALL)


class NoLoss(Op):
    """Zero, where a sum of losses begins; `x` tells the device alone."""

    name: ClassVar = "no_loss"
    style: ClassVar = Style("loss")

    def infer(self, x: Type) -> Type:
        """One number."""
        return NUMBER

    def lower(self, site: Site, x: str) -> str:
        """A constant."""
        return f"no_loss({x})"


def has_losses(graph: Graph) -> bool:
    """Whether any node, of the graph or of a block in it, adds to the loss of a run."""
    return any(node.op.adds or any(map(has_losses, node.blocks)) for node in graph.nodes.values())


def with_losses(graph: Graph) -> Graph:
    """The graph with the sum of all its losses as its last output; the graph itself where it has none.

    Blocks take the sum of those before them and give it on with their own, so whatever holds of values that layers
    carry holds of it: it is computed once, in order, whether or not the backward pass computes a block again.
    """
    if not has_losses(graph):
        return graph
    taken, name = set(_words(graph)), LOSSES
    while any(word.startswith(name) for word in taken):
        name += "_"
    return _Summed(graph, name).graph_of(None)


def without_losses(graph: Graph) -> Graph:
    """The graph without the nodes that only add to the loss of a run: it puts out the same."""
    gone = graph.unread_losses()
    kept = {path: node for path, node in graph.nodes.items() if path not in gone}
    nodes = {path: replace(node, blocks=tuple(map(without_losses, node.blocks))) for path, node in kept.items()}
    return replace(graph, nodes=nodes)


def _word(node: Node) -> str:
    return node.path.replace(".", "_")


def _words(graph: Graph) -> Iterator[str]:
    """Everything in a graph, or in a block of it, that has a name of its own."""
    for words in (graph.inputs, graph.outputs, graph.nodes, graph.groups):
        yield from words
    for node in graph.nodes.values():
        for block in node.blocks:
            yield from _words(block)


@dataclass
class _Summed:
    """One graph in the making, whose losses are added to a sum."""

    graph: Graph
    name: str
    nodes: dict[str, Node] = field(default_factory=dict)

    def graph_of(self, total: Ref | None) -> Graph:
        """The graph that gives the sum on, from what comes in if anything does."""
        given = {self.name: NUMBER} if total else {}
        terms = [total] if total else []
        for node in self.graph.nodes.values():
            self.nodes[node.path] = node
            if node.op.adds:
                terms.append(Ref("node", node.path, node.outputs[0]))
            elif any(map(has_losses, node.blocks)):
                terms = [self.carried(node, terms)]
        last = self.sum(terms, self.name)
        inputs, outputs = {**self.graph.inputs, **given}, {**self.graph.outputs, self.name: last}
        return replace(self.graph, inputs=inputs, nodes=self.nodes, outputs=outputs)

    def carried(self, node: Node, terms: list[Ref]) -> Ref:
        """The sum behind a stack, whose layers carry it on from what there is before."""
        del self.nodes[node.path]
        before = self.sum(terms, f"{self.name}_{_word(node)}") if terms else self.zero(node)
        inner = Ref("input", self.name)
        blocks = (_Summed(block, self.name).graph_of(inner) if has_losses(block) else block for block in node.blocks)
        self.nodes[node.path] = replace(
            node,
            inputs={**node.inputs, self.name: before},
            outputs=(*node.outputs, self.name),
            types={**node.types, self.name: NUMBER},
            blocks=tuple(blocks),
        )
        return Ref("node", node.path, self.name)

    def zero(self, node: Node) -> Ref:
        """A sum of nothing."""
        first = Ref("input", next(iter(self.graph.inputs)))
        return self.put(Node(f"{self.name}_{_word(node)}", NoLoss(), {"x": first}, ("out",), node.place))

    def sum(self, terms: list[Ref], path: str) -> Ref:
        """The sum of one or more losses."""
        if len(terms) == 1:
            return terms[0]
        inputs = {str(index): ref for index, ref in enumerate(terms)}
        place = next(self.nodes[ref.owner].place for ref in reversed(terms) if ref.kind == "node")
        return self.put(Node(path, Add(), inputs, ("out",), place))

    def put(self, node: Node) -> Ref:
        """The value of a node that joins the others; `a.b` and `a_b` make one word, so it may need another path."""
        path = unique(node.path, self.nodes)
        self.nodes[path] = replace(node, path=path, types={"out": NUMBER})
        return Ref("node", path, "out")
