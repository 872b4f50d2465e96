"""Paths by which a later token reaches an earlier one."""

from blockgraph.errors import Problems
from blockgraph.graph import Graph, Node
from blockgraph.types import Flow, Type

OPEN = "write `causal: false` if tokens may see later ones"


def tell_leaks(graph: Graph, problems: Problems) -> None:
    """A problem for every node at which a token comes to depend on later ones.

    What leaks already when it comes in, into a block or through a block, is told where it leaks.
    """
    flows = {name: _flow(graph.type_of(ref)) for name, ref in graph.outputs.items()}
    leaking = [name for name, flow in flows.items() if flow in (Flow.ALL, Flow.PAIRS)]
    entering = [name for name, kind in graph.inputs.items() if kind.flow is Flow.ALL]
    for name in entering if leaking else ():
        if graph.inputs[name].folded:
            told = f"the input '{name}' has no axis for tokens alone, so nothing is known of what they depend on"
            problems.add(told, graph.places[name], OPEN)
    if not leaking or entering:
        return
    behind = [name for name in leaking if flows[name] is Flow.ALL]
    outputs = f"does the output '{behind[0]}'" if len(behind) == 1 else f"do the outputs {', '.join(behind)}"
    for node in (node for node in graph.nodes.values() if behind and _begins(node, graph)):
        told = f"{node.path} ({node.op.name}): here a token comes to depend on later ones, and so {outputs}"
        problems.add(told, node.place, _remedy(node, graph))
    for name in (name for name in leaking if name not in behind):
        told = f"the output '{name}' holds scores between tokens, later ones included"
        problems.add(told, graph.places[f"outputs.{name}"], OPEN)


def _flow(kind: Type | None) -> Flow | None:
    return kind.flow if kind is not None else None


def _begins(node: Node, graph: Graph) -> bool:
    """Whether a value stops being causal here, and not for a loss alone or in a block of which that is told already."""
    if node.op.adds or (node.blocks and all(block.causal for block in node.blocks)):
        return False
    before = {_flow(graph.type_of(ref)) for ref in node.inputs.values()}
    after = {kind.flow for kind in node.types.values()}
    return Flow.ALL in after and Flow.ALL not in before


def _remedy(node: Node, graph: Graph) -> str:
    if any(not block.causal for block in node.blocks):
        return "a block in it says `causal: false`; the spec around it has to say so too"
    scores = [str(ref) for ref in node.inputs.values() if _flow(graph.type_of(ref)) is Flow.PAIRS]
    if scores:
        return f"its input {scores[0]} is not masked here; put a causal_mask between, or {OPEN}"
    return OPEN
