"""The graph of a spec: frozen nodes with their places, the values between them, and the order they run in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import networkx as nx

from blockgraph.dims import Dims
from blockgraph.errors import Place
from blockgraph.op import Op, Param, State
from blockgraph.types import Type


@dataclass(frozen=True, slots=True)
class Ref:
    """One value: an input of the graph, an output port of a node, or a parameter that a node owns."""

    kind: Literal["input", "node", "param"]
    owner: str
    port: str = ""

    def __str__(self) -> str:
        return f"{self.owner}.{self.port}" if self.port not in ("", "out") else self.owner


LOST = Ref("node", "")  # stands where a name means nothing, in a graph that is only checked for further faults


@dataclass(frozen=True, slots=True)
class Node:
    """One op at one place; `home` is the module path under which its parameters live.

    `blocks` are the distinct blocks of a stack and `plan` the index of each layer's block among them. `types`,
    `params` and `states` are empty until the graph is checked. A fused node `replaces` a chain, and bears the path of
    its last node.
    """

    path: str
    op: Op
    inputs: Mapping[str, Ref]
    outputs: tuple[str, ...]
    place: Place
    title: str = ""
    home: str = ""
    blocks: tuple["Graph", ...] = ()
    plan: tuple[int, ...] = ()
    types: Mapping[str, Type] = field(default_factory=dict)
    params: tuple[Param, ...] = ()
    states: tuple[State, ...] = ()
    replaces: tuple["Node", ...] = ()

    @property
    def name(self) -> str:
        """The last word of the path; a node written on a port is called by the port."""
        return self.path.rpartition(".")[2].rpartition("@")[2]

    @property
    def dotted(self) -> str:
        """The path with a dot in front of a port, as modules and tables have it."""
        return self.path.replace("@", ".")

    @property
    def group(self) -> str:
        """Path of the group the node stands in; empty at the top."""
        return self.path.rpartition("@")[0] if "@" in self.path else self.path.rpartition(".")[0]

    @property
    def on_port(self) -> bool:
        """Whether the node is written on another node's weight port."""
        return "@" in self.path

    @property
    def renews(self) -> bool:
        """Whether actions set its states from the values of its inputs."""
        return any(state.renewed for state in self.states)

    def data(self) -> dict[str, Ref]:
        """Inputs without the wired weights."""
        return {port: ref for port, ref in self.inputs.items() if port not in self.op.weights}


@dataclass(frozen=True, slots=True)
class Group:
    """A named part of the graph: a cluster in the figure, a prefix of paths; its value is its last node's."""

    path: str
    title: str
    place: Place
    value: Ref | None


@dataclass(frozen=True, slots=True)
class Decision:
    """How the chain of nodes that ends at `core` (`block.path`) is lowered, why, and why not in other ways."""

    core: str
    steps: tuple[str, ...]
    lowering: str
    reason: str
    others: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.core} ({', '.join(self.steps)}): {self.lowering} ({self.reason})"


@dataclass(frozen=True)
class Graph:
    """A spec after linking: every name resolved, every node at its place.

    `text` is a whole spec with everything resolved, slots and blocks included, that loads to this graph again.
    `decisions` tell what passes did about its chains, and about those of the blocks inside it.
    """

    kind: Literal["block", "model"]
    name: str
    title: str
    paper: str
    causal: bool
    dims: Dims
    inputs: Mapping[str, Type]
    nodes: Mapping[str, Node]
    groups: Mapping[str, Group]
    outputs: Mapping[str, Ref]
    places: Mapping[str, Place]
    source: Mapping[str, Any]
    decisions: tuple[Decision, ...] = ()

    def type_of(self, ref: Ref) -> Type | None:
        """Type of a value, or None before it is known."""
        if ref.kind == "input":
            return self.inputs.get(ref.owner)
        node = self.nodes.get(ref.owner)
        if node is None:
            return None
        if ref.kind == "node":
            return node.types.get(ref.port)
        return next((Type(p.sizes) for p in node.params if p.name == ref.port), None)

    def unfused(self) -> "Graph":
        """The graph as its spec has it: chains in the place of the fused nodes, in its blocks too."""
        written = (step for node in self.nodes.values() for step in node.replaces or (node,))
        nodes = {node.path: replace(node, blocks=tuple(map(Graph.unfused, node.blocks))) for node in written}
        return replace(self, nodes=nodes, decisions=())

    def users(self) -> dict[Ref, list[str]]:
        """Paths of the nodes that read each value."""
        users: dict[Ref, list[str]] = {}
        for node in self.nodes.values():
            for ref in node.inputs.values():
                users.setdefault(ref, []).append(node.path)
        return users

    def unread_losses(self) -> set[str]:
        """Paths of the nodes that only add to the loss of a run; what a model puts out does not need them."""
        read = {*self.outputs.values(), *(ref for node in self.nodes.values() for ref in node.inputs.values())}
        losses = (node for node in self.nodes.values() if node.op.adds)
        return {node.path for node in losses if Ref("node", node.path, node.outputs[0]) not in read}

    def _repr_svg_(self) -> str:
        """The figure, which a notebook shows in place of the value."""
        from blockgraph.drawing import svg  # figures read graphs; only a notebook asks the other way round

        return svg(self)

    def walk(self) -> Iterator[tuple[str, "Graph", Node]]:
        """Every node of every layer with the prefix of its module path: `layers.3.` for a node of layer 3."""
        for node in self.nodes.values():
            yield "", self, node
            for index, block in enumerate(node.plan):
                for prefix, graph, inner in node.blocks[block].walk():
                    yield f"{node.path}.{index}.{prefix}", graph, inner

    def owners(self) -> Iterator[tuple[str, Node]]:
        """Every node of every layer, with its prefix, but those whose parameters are an earlier layer's."""
        for node in self.nodes.values():
            yield "", node
            for index, block in enumerate(node.plan):
                for prefix, inner in node.blocks[block].owners():
                    home = f"{prefix}{inner.home}."
                    if not index or not home.startswith(tuple(f"{path}." for path in node.op.sharing())):
                        yield f"{node.path}.{index}.{prefix}", inner


def dependencies(graph: Graph) -> "nx.DiGraph[str]":
    """Nodes and what each needs first.

    Reading a parameter of another node needs the inputs of that node, because they decide the parameter's shape.
    A value from a node that the graph does not have, as in a graph that is at fault, needs nothing.
    """
    needs: nx.DiGraph[str] = nx.DiGraph()
    needs.add_nodes_from(graph.nodes)
    for node in graph.nodes.values():
        for ref in node.inputs.values():
            owner = graph.nodes.get(ref.owner) if ref.kind != "input" else None
            if owner is not None and ref.kind == "node":
                needs.add_edge(ref.owner, node.path)
            elif owner is not None:
                before = (r.owner for r in owner.data().values() if r.kind == "node" and r.owner in graph.nodes)
                needs.add_edges_from((path, node.path) for path in before)
    return needs


def running_order(graph: Graph) -> list[Node]:
    """Running order of the nodes; ties keep the order of the spec. Raises `nx.NetworkXUnfeasible` on a cycle."""
    rank = {path: index for index, path in enumerate(graph.nodes)}
    return [graph.nodes[path] for path in nx.lexicographical_topological_sort(dependencies(graph), key=rank.get)]
