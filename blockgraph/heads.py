"""The head of a model left open: hidden values and weights in the place of logits, for a loss that makes these."""

from dataclasses import dataclass, replace
from typing import ClassVar

from blockgraph.graph import Graph, Node, Ref
from blockgraph.op import Op, Site
from blockgraph.ops.linear import Linear
from blockgraph.ops.soft_cap import SoftCap
from blockgraph.probe import Probe
from blockgraph.types import Type


class OpenHead(Linear):
    """What a linear reads: its input, its weight, and its bias if it has one. It stands for `linear`, capped or not.

    Parameters, their initial values and what is done to them after a step are those of the linear in its place.
    """

    name: ClassVar = "open_head"
    patterns: ClassVar[tuple[tuple[type[Op], ...], ...]] = ((Linear,), (Linear, SoftCap))

    def ports_out(self) -> tuple[str, ...]:
        """A bias only where there is one."""
        return ("x", "weight", "bias") if self.bias else ("x", "weight")

    def probes(self, x: Type) -> tuple[Probe, ...]:
        """X and its gradient; the output is never there as a whole."""
        return tuple(probe for probe in super().probes(x) if probe.name in ("x", "dx"))

    def lower(self, site: Site, x: str, weight: str, bias: str = "") -> str:
        """The values themselves."""
        return f"opened({x}, {weight}, {bias})" if bias else f"opened({x}, {weight})"


@dataclass(frozen=True)
class Opened:
    """A model that puts out `x`, `weight` and perhaps `bias` of its head; `cap` is None where logits are not capped."""

    graph: Graph
    cap: float | None


def open_head(graph: Graph) -> Opened | str:
    """The model with its head left open, or in words why its logits have to be made whole.

    Parameters and their names stay as they are.
    """
    if len(graph.outputs) > 1:
        return "the model has several outputs"
    chain = next((found for pattern in OpenHead.patterns if (found := _found(pattern, graph))), None)
    if chain is None:
        return "the output is not a linear, with or without a soft_cap"
    if others := _others(chain, graph):
        return f"the logits are also read by {', '.join(others)}"
    linear, *caps = chain
    cap = caps[0].op.numbers()["cap"] if caps else None
    if cap is not None and cap.value is None:
        return f"the cap of the logits, {cap}, is not one number"
    head = _opened(linear)
    nodes = {path: head if node is linear else node for path, node in graph.nodes.items() if node not in caps}
    outputs = {port: Ref("node", head.path, port) for port in head.outputs}
    return Opened(replace(graph, nodes=nodes, outputs=outputs), cap.value if cap else None)


def _found(pattern: tuple[type[Op], ...], graph: Graph) -> list[Node]:
    """The nodes that end in the output, if their ops are those of the pattern."""
    chain: list[Node] = []
    ref = next(iter(graph.outputs.values()))
    for op in reversed(pattern):
        if ref.kind != "node" or type(graph.nodes[ref.owner].op) is not op:
            return []
        chain.insert(0, graph.nodes[ref.owner])
        ref = next(iter(chain[0].data().values()))
    return chain


def _others(chain: list[Node], graph: Graph) -> list[str]:
    """Who reads a value of the chain besides the next node; that can only be a loss, or it would reach the output."""
    users, inside = graph.users(), {node.path for node in chain}
    return [path for node in chain for path in users.get(Ref("node", node.path, "out"), ()) if path not in inside]


def _opened(linear: Node) -> Node:
    op = OpenHead.model_construct(**dict(linear.op))
    return replace(linear, op=op, outputs=op.ports_out(), types={})
