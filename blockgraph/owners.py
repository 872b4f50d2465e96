"""Parameters: which node keeps each, what may stand in its place, and under which name."""

from collections.abc import Iterable, Iterator, Mapping

from blockgraph.errors import OpError
from blockgraph.graph import LOST, Graph, Node, Ref
from blockgraph.op import Param, State
from blockgraph.types import Type


def kept(node: Node, params: tuple[Param, ...], graph: Graph, types: Mapping[str, Type | None]) -> tuple[Param, ...]:
    """The parameters that stay the node's own beside those wired from elsewhere.

    `types` are those of the inputs by port. Raises `OpError` when a wired value does not fit in a parameter's place.
    """
    names = [param.name for param in params]
    for port in node.op.weights:
        if port in node.inputs and port not in names:
            raise OpError(f"has no {port} to wire, as its fields stand")
    for param in params:
        wired = types.get(param.name)
        if wired is not None and wired.sizes != param.sizes:
            raise OpError(f"the wired {param.name} is {{}}, and {{}} is needed", wired, Type(param.sizes))
    own = tuple(param for param in params if _is_own(node, param, graph))
    _refuse_idle_fields(node, own)
    return own


def _is_own(node: Node, param: Param, graph: Graph) -> bool:
    """Whether the value on a parameter's port, if there is one, is made from the node's own parameter."""
    waiting = [node.inputs[param.name]] if param.name in node.inputs else [Ref("param", node.path, param.name)]
    while waiting:
        ref = waiting.pop()
        if ref.kind == "param" and ref.owner == node.path:
            return True
        if ref.kind == "node" and ref.owner.startswith(f"{node.path}@"):
            waiting.extend(graph.nodes[ref.owner].inputs.values())
    return False


def _refuse_idle_fields(node: Node, own: tuple[Param, ...]) -> None:
    """Refuse fields that describe a parameter where another node's stands in its place."""
    wired = [port for port in node.op.weights if port in node.inputs]
    if not wired:
        return
    kept = {param.name for param in own}
    of_first = () if node.op.weights[0] in kept else node.op.of_weight
    idle = [name for name in (*of_first, *(() if kept else node.op.of_all)) if name in node.op.model_fields_set]
    if idle:
        told = f"would belong to a {wired[0]} of its own, which {node.inputs[wired[0]]} replaces"
        raise OpError(f"{' and '.join(idle)} {told}")


def refuse_unsettled(tensors: Iterable[Param | State]) -> None:
    """Refuse a parameter whose shape is not known before the model runs."""
    for tensor in tensors:
        free = sorted({name for size in tensor.sizes for name in size.unbound})
        if free:
            told = f"its {tensor.name} is {{}}, and the size of a parameter cannot depend on {' and '.join(free)}"
            raise OpError(told, Type(tensor.sizes))
        if not tensor.sizes:
            raise OpError(f"its {tensor.name} has no axis; a single number has the shape [1]")


def refuse_unchangeable(node: Node) -> None:
    """Refuse anything but a parameter where the node's actions would change it."""
    for port in node.op.changes:
        if node.inputs[port].kind != "param":
            told = f"its {port} is changed after every step, so it names a parameter, such as qkv.weight"
            raise OpError(f"{told}; {node.inputs[port]} is a value")


def refuse_state_of_inputs(node: Node, states: tuple[State, ...], graph: Graph) -> None:
    """Refuse a state that would be renewed from an input: after a step there are parameters, and no inputs to read."""
    renewed = any(state.renewed for state in states)
    waiting, seen = list(node.inputs.values()) if renewed else [], set[str]()
    while waiting:
        ref = waiting.pop()
        if ref.kind == "input":
            raise OpError(f"keeps state between steps, so it needs a weight, and reads the input '{ref.owner}'")
        if ref.kind == "node" and ref.owner not in seen and ref != LOST:
            seen.add(ref.owner)
            waiting.extend(graph.nodes[ref.owner].inputs.values())


def misowned(nodes: Mapping[str, Node]) -> Iterator[tuple[Node, OpError]]:
    """Every parameter that two nodes would own, and every one that is read and that nobody owns."""
    owners: dict[str, Node] = {}
    for node in nodes.values():
        tensors: tuple[Param | State, ...] = (*node.params, *node.states)
        for name in (f"{node.home}.{tensor.name}" for tensor in tensors):
            if name in owners:
                yield node, OpError(f"two parameters would be called {name}, here and in {owners[name].path}")
            owners[name] = node
        for ref in node.inputs.values():
            if ref.kind == "param" and ref.owner in nodes:
                yield from _unowned(node, ref, nodes[ref.owner])


def _unowned(node: Node, ref: Ref, owner: Node) -> Iterator[tuple[Node, OpError]]:
    if owner.types and ref.port not in {param.name for param in owner.params}:
        instead = f"; '{owner.inputs[ref.port]}' is wired there" if ref.port in owner.inputs else ""
        yield node, OpError(f"{owner.path} has no {ref.port} of its own{instead}")
