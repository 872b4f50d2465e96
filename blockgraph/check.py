"""Linked graph to typed graph: shapes that meet, a running order, nothing unused, no token that sees a later one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import networkx as nx

from blockgraph.dims import RUNTIME, Dims, Size
from blockgraph.errors import OpError, Place, Problems
from blockgraph.graph import Graph, Node, Ref, dependencies, running_order
from blockgraph.op import Param
from blockgraph.types import Flow, Type


def check(graph: Graph, problems: Problems) -> Graph:
    """The graph with its nodes in running order and a type on every value.

    Everything that is wrong goes to `problems`, and the graph is then not fit to be lowered.
    """
    return _checked(graph, problems, causal=True)


def _checked(graph: Graph, problems: Problems, causal: bool) -> Graph:
    try:
        order = running_order(graph)
    except nx.NetworkXUnfeasible:
        _tell_cycle(graph, problems)
        return graph
    known = len(problems.found)
    typed = _Checker(graph, problems, causal and graph.causal).run(order)
    if len(problems.found) == known:
        _tell_unused(typed, problems)
        _tell_leaks(typed, problems, causal)
    return typed


@dataclass
class _Checker:
    graph: Graph
    problems: Problems
    causal: bool

    def run(self, order: list[Node]) -> Graph:
        self.nodes: dict[str, Node] = {}
        for node in order:
            self.nodes[node.path] = self.stack(node) if node.blocks else self.node(node)
        return replace(self.graph, nodes=self.nodes)

    def node(self, node: Node) -> Node:
        inputs = {port: self.type_of(ref) for port, ref in node.data().items()}
        if any(kind is None for kind in inputs.values()) or len(inputs) < len(node.op.ports()):
            return node
        try:
            result = node.op.infer(*inputs.values())
            node = replace(
                node,
                types=result if isinstance(result, dict) else {node.outputs[0]: result},
                params=self.owned(node, node.op.parameters(*inputs.values())),
                states=node.op.states(*inputs.values()),
            )
        except OpError as error:
            self.tell(node, error)
        return node

    def owned(self, node: Node, params: tuple[Param, ...]) -> tuple[Param, ...]:
        """The parameters the node keeps; a wired one has to have the shape of the one it replaces."""
        kept = []
        for param in params:
            ref = node.inputs.get(param.name)
            kind = self.type_of(ref) if ref else None
            if kind is not None and kind.sizes != param.sizes:
                raise OpError(f"the wired {param.name} is {{}}, and {{}} is needed", kind, Type(param.sizes))
            if ref is None or self.reads_own(node, ref):
                kept.append(param)
        for port in node.op.weights:
            if port in node.inputs and port not in {param.name for param in params}:
                raise OpError(f"has no {port} to wire, as its fields stand")
        return tuple(kept)

    def reads_own(self, node: Node, ref: Ref) -> bool:
        """Whether the value on a weight port is made from the node's own weight."""
        return ref.owner.startswith(f"{node.path}@") and any(
            r.kind == "param" and r.owner == node.path for r in self.graph.nodes[ref.owner].inputs.values()
        )

    def type_of(self, ref: Ref) -> Type | None:
        if ref.kind != "param":
            return self.graph.type_of(ref) if ref.kind == "input" else self.nodes[ref.owner].types.get(ref.port)
        owner = self.graph.nodes[ref.owner]
        inputs = [self.type_of(r) for r in owner.data().values()]
        if any(kind is None for kind in inputs):
            return None
        try:
            params = owner.op.parameters(*inputs)  # type: ignore[arg-type]
        except OpError:
            return None  # told at the owner
        return next((Type(param.sizes) for param in params if param.name == ref.port), None)

    def stack(self, node: Node) -> Node:
        """Every layer checked with the types that reach it; layers with equal types share one typed block."""
        carried = {name: self.type_of(ref) for name, ref in node.inputs.items()}
        typed: dict[tuple[int, tuple[Type, ...]], tuple[int, Graph]] = {}
        plan: list[int] = []
        for layer, index in enumerate(node.plan):
            block = node.blocks[index]
            found = self.arrive(node, layer, block, carried)
            if found is None:
                return node
            key = (index, tuple(found.values()))
            if key not in typed:
                typed[key] = (len(typed), _checked(replace(block, inputs=found), self.problems, self.causal))
            number, graph = typed[key]
            plan.append(number)
            carried |= {name: graph.type_of(ref) for name, ref in graph.outputs.items()}
        types = {name: kind for name, kind in carried.items() if name in node.outputs and kind is not None}
        return replace(node, blocks=tuple(graph for _, graph in typed.values()), plan=tuple(plan), types=types)

    def arrive(
        self, node: Node, layer: int, block: Graph, carried: Mapping[str, Type | None]
    ) -> dict[str, Type] | None:
        """Types of the carried values that a layer's block reads; None with a problem where one is missing or unfit."""
        bound: dict[str, Size] = {}
        found: dict[str, Type] = {}
        for name, wanted in block.inputs.items():
            if name not in carried:
                has = ", ".join(carried) or "nothing"
                self.problems.add(
                    f"{node.path} (stack): layer {layer} ({block.name}) reads '{name}', and {has} is carried",
                    node.place,
                )
                return None
            given = carried[name]
            if given is None:
                return None
            if not _fits(wanted, given, bound):
                self.tell(node, OpError(f"block {block.name} reads {name} as {{}}, found {{}}", wanted, given))
                return None
            found[name] = given
        return found

    def tell(self, node: Node, error: OpError) -> None:
        message, where = shown(error, self.graph.dims)
        name = node.op.name
        sources = [f"{ref} is {_show(kind, self.graph.dims)}" for ref in node.data().values() if (kind := self.type_of(ref))]
        hint = "; ".join(dict.fromkeys(sources)) if len(sources) > 1 else ""
        self.problems.add(f"{node.path} ({name}): {message}{where}", node.place, hint)


def shown(error: OpError, dims: Dims) -> tuple[str, str]:
    """An op's complaint with sizes named as the spec names them, and the values behind the names."""
    sizes = [size for value in error.values for size in (value.sizes if isinstance(value, Type) else (value,))]
    message = error.message.format(*(_show(value, dims) for value in error.values)) if error.values else str(error)
    return message, dims.where(*(size for size in sizes if isinstance(size, Size)))


def _show(value: object, dims: Dims) -> str:
    if isinstance(value, Type):
        return f"[{', '.join(dims.show(size) for size in value.sizes)}]"
    return dims.show(value) if isinstance(value, Size) else str(value)


def _fits(wanted: Type, given: Type, bound: dict[str, Size]) -> bool:
    """Whether a value can enter a block: equal sizes, with the block's run-time dims bound to what arrives."""
    if len(wanted.sizes) != len(given.sizes) or wanted.kind != given.kind:
        return False
    for size, actual in zip(wanted.sizes, given.sizes, strict=True):
        name = str(size)
        if size.known is None and size == Size.symbol(name) and name not in RUNTIME:
            size = bound.setdefault(name, actual)
        if size != actual:
            return False
    return True


def _tell_cycle(graph: Graph, problems: Problems) -> None:
    for component in nx.strongly_connected_components(dependencies(graph)):
        inner = dependencies(graph).subgraph(component)
        if inner.number_of_edges() == 0:
            continue
        first = min(component, key=list(graph.nodes).index)
        around = [edge[0] for edge in nx.find_cycle(inner, first)]
        around = around[around.index(first) :] + around[: around.index(first)] if first in around else around
        told = " -> ".join([*around, around[0]])
        problems.add(f"{first} ({graph.nodes[first].op.name}): reads itself, by way of {told}", graph.nodes[first].place)


def _tell_unused(graph: Graph, problems: Problems) -> None:
    users = graph.users()
    read = set(users) | set(graph.outputs.values())
    reached = _reached(graph)
    for node in graph.nodes.values():
        if node.path not in reached and not node.on_port:
            alone = not any(Ref("node", node.path, port) in users for port in node.outputs)
            what = "is read by nothing" if alone else "reaches no output"
            trained = ", so its parameters would never train" if node.params else ""
            problems.add(f"{node.path} ({node.op.name}): {what}{trained}", node.place)
        elif not node.blocks:
            for port in node.outputs:
                if Ref("node", node.path, port) not in read:
                    problems.add(f"{node.path} ({node.op.name}): {port} is read by nothing", node.place)
    for name in graph.inputs:
        if Ref("input", name) not in read:
            problems.add(f"the input '{name}' is read by nothing", graph.places[name])


def _reached(graph: Graph) -> set[str]:
    """Paths of the nodes that some output depends on."""
    needs = dependencies(graph)
    reached: set[str] = set()
    waiting = [ref.owner for ref in graph.outputs.values() if ref.kind == "node"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting.extend(needs.predecessors(path))
            waiting.extend(ref.owner for ref in graph.nodes[path].inputs.values() if ref.kind == "param")
    return reached


def _tell_leaks(graph: Graph, problems: Problems, causal: bool) -> None:
    for name, ref in graph.outputs.items() if causal and graph.causal else ():
        kind = graph.type_of(ref)
        if kind is None or kind.flow is Flow.PAST:
            continue
        node = _culprit(graph)
        place: Place = node.place if node else graph.places[name]
        what = f"{node.path} ({node.op.name}): " if node else ""
        problems.add(
            f"{what}lets a token depend on later ones, and the output '{name}' on this", place,
            "put a causal_mask between scores and softmax, or write `causal: false`",
        )  # fmt: skip


def _culprit(graph: Graph) -> Node | None:
    """The first node whose value is not causal although its inputs are."""
    for node in graph.nodes.values():
        before = [graph.type_of(ref) for ref in node.inputs.values()]
        leaks = any(kind.flow is Flow.ALL for kind in node.types.values())
        if leaks and not any(kind is not None and kind.flow is Flow.ALL for kind in before):
            return node
    return None
