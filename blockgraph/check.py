"""Linked graph to typed graph: shapes that meet, parameters with one owner, layers that fit each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from blockgraph.causality import tell_leaks
from blockgraph.dims import LAYER, RUNTIME, Dims, Size
from blockgraph.errors import OpError, Problems, Told
from blockgraph.graph import LOST, Graph, Node, Ref, running_order
from blockgraph.owners import kept, misowned, refuse_state_of_inputs, refuse_unchangeable, refuse_unsettled
from blockgraph.types import TOKENS, Flow, Type
from blockgraph.usage import tell_cycles, tell_unused

SOURCES = 4  # inputs that a shape error names

Typed = tuple[dict[str, Type], dict[str, Size]]  # a block's inputs, and what its own run-time dims stand for


def check(graph: Graph, problems: Problems) -> Graph:
    """The graph with its nodes in running order and a type on every value.

    Everything that is wrong goes to `problems`, and the graph is then not fit to be lowered. A fault of a node points
    at the node's name; what follows from another fault is not told.
    """
    return _checked(graph, problems, causal=True)


def _checked(graph: Graph, problems: Problems, causal: bool) -> Graph:
    around = tell_cycles(graph, problems)
    straight = replace(graph, nodes={path: node for path, node in graph.nodes.items() if path not in around})
    typed = _Checker(graph, problems, causal and graph.causal).run(running_order(straight))
    tell_unused(typed, problems)
    if causal and graph.causal:
        tell_leaks(typed, problems)
    return typed


@dataclass
class _Checker:
    graph: Graph
    problems: Problems
    causal: bool
    nodes: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.axes = {str(size) for kind in self.graph.inputs.values() for size in kind.sizes} | {LAYER}

    def run(self, order: list[Node]) -> Graph:
        for node in order:
            self.nodes[node.path] = self.stack(node) if node.blocks else self.node(node)
        for node, error in misowned(self.nodes):
            self.tell(node, error)
        circular = {path: node for path, node in self.graph.nodes.items() if path not in self.nodes}
        return replace(self.graph, nodes=self.nodes | circular)

    def node(self, node: Node) -> Node:
        inputs = [self.type_of(ref) for ref in node.data().values()]
        known = [kind for kind in inputs if kind is not None]
        if len(known) < len(inputs):
            return node
        try:
            refuse_unchangeable(node)
            _refuse_loss(node, inputs)
            result = node.op.infer(*known)
            types = result if isinstance(result, dict) else {node.outputs[0]: result}
            params, states = node.op.parameters(*known), node.op.states(*known)
            refuse_unsettled((*params, *states))
            params = kept(node, params, self.graph, {port: self.type_of(ref) for port, ref in node.inputs.items()})
            refuse_state_of_inputs(node, states, self.graph)
            _refuse_unread(node, self.axes)
        except OpError as error:
            self.tell(node, error)
            return node
        return replace(node, types={p: kind.settled() for p, kind in types.items()}, params=params, states=states)

    def type_of(self, ref: Ref) -> Type | None:
        if ref.kind == "input":
            return self.graph.type_of(ref)
        if ref.kind == "node":
            return self.nodes[ref.owner].types.get(ref.port) if ref.owner in self.nodes else None
        owner = self.graph.nodes[ref.owner]
        inputs = [self.type_of(r) for r in owner.data().values()]
        if any(kind is None for kind in inputs):
            return None
        try:
            params = owner.op.parameters(*inputs)
        except OpError:
            return None  # told at the owner
        return next((Type(param.sizes) for param in params if param.name == ref.port), None)

    def stack(self, node: Node) -> Node:
        """Every layer checked with the types that reach it; layers with equal types share one typed block."""
        if LOST in node.inputs.values():
            return node
        carried = {name: self.type_of(ref) for name, ref in node.inputs.items()}
        typed: dict[object, tuple[int, Graph]] = {}
        plan: list[int] = []
        for layer, index in enumerate(node.plan):
            arrived = self.arrive(node, layer, node.blocks[index], carried)
            if arrived is None:
                return node
            inputs, bound = arrived
            key = (index, tuple(inputs.values()))
            if key not in typed:
                block = replace(node.blocks[index], inputs=inputs)
                typed[key] = (len(typed), _checked(block, self.problems, self.causal))
            number, graph = typed[key]
            plan.append(number)
            for name, ref in graph.outputs.items():
                kind = graph.type_of(ref)
                carried[node.op.carried(name, layer)] = kind.bind(bound) if kind is not None else None
        types = {name: kind for name, kind in carried.items() if name in node.outputs and kind is not None}
        result = replace(node, blocks=tuple(graph for _, graph in typed.values()), plan=tuple(plan), types=types)
        self.tell_unshared(result)
        return result

    def arrive(self, node: Node, layer: int, block: Graph, carried: Mapping[str, Type | None]) -> Typed | None:
        """Types of the carried values that a layer's block reads; None with a problem where one is missing or unfit."""
        bound: dict[str, Size] = {}
        found: dict[str, Type] = {}
        for name, wanted in block.inputs.items():
            key = node.op.carried(name, layer)
            about = f"layer {layer} ({block.name}) reads '{key}'"
            if key not in carried:
                self.tell(node, OpError(f"{about}, which is not carried; what is carried: {', '.join(carried)}"))
                return None
            given = carried[key]
            if given is None:
                return None
            if not _fits(wanted, given, bound):
                self.tell(node, OpError(f"{about} as {{}}, found {{}}", wanted, given))
                return None
            if self.causal and (blind := _blind_to_tokens(bound)):
                told = f"{about} as {{}}, found {{}}; of what tokens see, only an axis called {TOKENS} tells"
                self.tell(node, OpError(f"{told}, not {blind}", wanted, given))
                return None
            found[name] = wanted.with_flow(given.flow if wanted.flow is Flow.PAST else Flow.ALL)
        return found, bound

    def tell_unshared(self, node: Node) -> None:
        """A problem for every shared path that does not lead to the same parameters in each block."""
        for path in node.op.sharing():
            if any(path not in block.groups and path not in block.nodes for block in node.blocks):
                continue  # told when the blocks were linked
            inner = [{p for p in _params(block) if p[0].startswith(f"{path}.")} for block in node.blocks]
            if not inner[0]:
                self.tell(node, OpError(f"'{path}' has no parameters to share"))
            elif any(params != inner[0] for params in inner):
                self.tell(node, OpError(f"'{path}' has other parameters in other blocks, so layers cannot share it"))

    def tell(self, node: Node, error: OpError) -> None:
        if isinstance(error, Told):
            return
        message, where = shown(error, self.graph.dims)
        self.problems.add(f"{node.path} ({node.op.name}): {message}{where}", node.place, self.sources(node, error))

    def sources(self, node: Node, error: OpError) -> str:
        """Where the values that disagree come from, one for each type."""
        by_type: dict[str, Ref] = {}
        for ref in node.data().values():
            kind = self.type_of(ref)
            if kind is not None and any(isinstance(value, Type) for value in error.values):
                by_type.setdefault(_show(kind, self.graph.dims), ref)
        told = [f"{ref} is {kind}" for kind, ref in by_type.items()]
        return "; ".join(told[:SOURCES]) if len(told) > 1 else ""


def shown(error: OpError, dims: Dims) -> tuple[str, str]:
    """An op's complaint with sizes named as the spec names them, and the values behind the names."""
    sizes = [size for value in error.values for size in (value.sizes if isinstance(value, Type) else (value,))]
    message = error.message.format(*(_show(value, dims) for value in error.values)) if error.values else str(error)
    return message, dims.where(*(size for size in sizes if isinstance(size, Size)))


def _show(value: object, dims: Dims) -> str:
    if isinstance(value, Type):
        return dims.shape(value.sizes) + " of token ids" * (value.kind == "int")
    return dims.show(value) if isinstance(value, Size) else str(value)


def _refuse_loss(node: Node, inputs: list[Type | None]) -> None:
    """Refuse to read what a node adds to the loss of a run, which is one number for all tokens."""
    for ref, kind in zip(node.data().values(), inputs, strict=True):
        if kind is not None and not kind.sizes:
            raise OpError(f"reads {ref}, which is a loss: one number that a run adds to its own")


def _refuse_unread(node: Node, axes: set[str]) -> None:
    """Refuse a number of run-time dims that no input has as an axis, where the forward pass would find them."""
    for name, number in node.op.numbers().items():
        for dim in sorted(number.free - axes):
            raise OpError(f"{name} is '{number}', and no input has an axis {dim} to tell it")


def _params(graph: Graph) -> set[tuple[str, tuple[Size, ...]]]:
    return {(f"{node.home}.{param.name}", param.sizes) for node in graph.nodes.values() for param in node.params}


def _blind_to_tokens(bound: Mapping[str, Size]) -> str:
    """A run-time dim of a block that would stand for tokens, along which the block's ops take care of nothing."""
    return next((name for name, size in bound.items() if TOKENS.names & size.names), "")


def _fits(wanted: Type, given: Type, bound: dict[str, Size]) -> bool:
    """Whether a value can enter a block: equal sizes, with the block's own run-time dims bound to what arrives."""
    if len(wanted.sizes) != len(given.sizes) or wanted.kind != given.kind:
        return False
    for size, actual in zip(wanted.sizes, given.sizes, strict=True):
        name = str(size)
        if size == Size.symbol(name) and name not in RUNTIME:
            size = bound.setdefault(name, actual)
        if size != actual:
            return False
    return True
