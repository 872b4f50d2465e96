"""Nodes that run in a circle, nodes and inputs that no output or loss needs, layers that train nothing."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import networkx as nx

from blockgraph.errors import Problems
from blockgraph.faulty import Faulty
from blockgraph.graph import LOST, Graph, Node, Ref, dependencies

SHOWN = 6  # nodes that a message names


def tell_cycles(graph: Graph, problems: Problems) -> set[str]:
    """Paths of the nodes that need themselves, with a problem for each circle."""
    needs = dependencies(graph)
    rank = {path: index for index, path in enumerate(graph.nodes)}
    found: set[str] = set()
    for component in nx.strongly_connected_components(needs):
        first = min(component, key=rank.__getitem__)
        if len(component) > 1 or needs.has_edge(first, first):
            found |= component
            told = " -> ".join(_shortened(_circle(needs.subgraph(component), first)))
            problems.add(f"{_label(graph.nodes[first])}: reads itself, by way of {told}", graph.nodes[first].place)
    return found


def _circle(inner: "nx.DiGraph[str]", first: str) -> list[str]:
    """A shortest way from a node back to it."""
    steps = nx.single_source_shortest_path_length(inner, first)
    last = min(inner.predecessors(first), key=steps.__getitem__)
    return [*nx.shortest_path(inner, first, last), first]


def _shortened(names: list[str]) -> list[str]:
    return names if len(names) <= SHOWN + 2 else [*names[:SHOWN], "...", *names[-2:]]


def tell_unused(graph: Graph, problems: Problems) -> None:
    """A problem for every value, input and layer that no output needs.

    Where some name is lost, nobody knows what it would have read, and nothing is told.
    """
    refs = [*graph.outputs.values(), *(ref for node in graph.nodes.values() for ref in node.inputs.values())]
    if LOST not in refs:
        _Usage(graph, problems, set(refs)).tell()


@dataclass
class _Usage:
    graph: Graph
    problems: Problems
    read: set[Ref]
    reached: set[str] = field(default_factory=set)

    def tell(self) -> None:
        self.reached.update(_needed(self.graph, [*self.graph.outputs.values(), *_losses(self.graph)], set()))
        for node in self.graph.nodes.values():
            if not node.on_port and not isinstance(node.op, Faulty):
                self.node(node)
        for name in self.graph.inputs:
            if Ref("input", name) not in self.read:
                self.problems.add(f"the input '{name}' is read by nothing", self.graph.places[name])

    def node(self, node: Node) -> None:
        ports = [port for port in node.outputs if Ref("node", node.path, port) in self.read]
        if not ports and node.path not in self.reached:
            self.dead_end(node)
        elif node.blocks:
            if not self.problems.found:
                _tell_idle_layers(node, set(ports), self.problems)
        elif ports:
            for port in node.outputs:
                if port not in ports:
                    self.problems.add(f"{_label(node)}: {port} is read by nothing", node.place)

    def dead_end(self, node: Node) -> None:
        """One problem for a node that nothing reads and all that is there for its sake."""
        above = _needed(self.graph, node.inputs.values(), self.reached)
        self.reached.update(above)
        trained = any(self.graph.nodes[path].params for path in [node.path, *above])
        because = ", so its parameters would never train" if trained else ""
        names = [path for path in above if "@" not in path]
        hint = f"no output needs {', '.join(_shortened(names))} either" if names else ""
        self.problems.add(f"{_label(node)}: is read by nothing{because}", node.place, hint)


def _tell_idle_layers(node: Node, wanted: set[str], problems: Problems) -> None:
    """A problem for what the layers of a stack compute or carry and nobody reads, seen from the last layer back."""
    idle: dict[tuple[int, str], int] = {}
    needs: dict[tuple[int, frozenset[str]], tuple[list[str], set[str]]] = {}
    need = wanted
    for layer, index in reversed(list(enumerate(node.plan))):
        called = partial(node.op.carried, layer=layer)
        live = frozenset(name for name in node.blocks[index].outputs if called(name) in need)
        if (index, live) not in needs:
            needs[index, live] = _needs(node.blocks[index], live)
        unread, inputs = needs[index, live]
        idle.update({(index, path): layer for path in unread})
        need = (need - {*map(called, live)}) | {*map(called, inputs)}
    for (index, path), layer in idle.items():
        inner = node.blocks[index].nodes[path]
        told = f"no output needs it in layer {layer} of {node.path}, so its parameters would never train there"
        problems.add(f"{_label(inner)}: {told}", inner.place)
    for name in node.inputs.keys() - need if not idle else ():
        problems.add(f"{_label(node)}: carries '{name}', which no layer reads", node.place)


def _needs(block: Graph, live: frozenset[str]) -> tuple[list[str], set[str]]:
    """Of a block of which some outputs are read: nodes that train nothing, and names of the inputs that it needs."""
    reached = set(_needed(block, [*(block.outputs[name] for name in live), *_losses(block)], set()))
    read = {ref for path in reached for ref in block.nodes[path].inputs.values()}
    read |= {block.outputs[name] for name in live}
    idle = [node.path for node in block.nodes.values() if node.path not in reached and (node.params or node.blocks)]
    return idle, {name for name in block.inputs if Ref("input", name) in read}


def _losses(graph: Graph) -> list[Ref]:
    """What is added to the loss of a run, which is a use as an output is."""
    return [Ref("node", node.path, node.outputs[0]) for node in graph.nodes.values() if node.op.adds]


def _needed(graph: Graph, refs: Iterable[Ref], known: set[str]) -> list[str]:
    """Paths of the nodes that some of these values depend on, the nearest first, without those known already."""
    found: dict[str, None] = {}
    waiting = deque(refs)
    while waiting:
        ref = waiting.popleft()
        if ref.kind != "input" and ref.owner not in found and ref.owner not in known:
            found[ref.owner] = None
            waiting.extend(graph.nodes[ref.owner].inputs.values())
    return list(found)


def _label(node: Node) -> str:
    return f"{node.path} ({node.op.name})"
