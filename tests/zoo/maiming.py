"""Models without one of their nodes, by which a comparison shows that it would notice."""

from dataclasses import replace

from blockgraph.graph import Graph, Node, Ref
from blockgraph.op import Op


def maimed(graph: Graph) -> dict[str, Graph]:
    """The graph without one of the nodes that could be left out, by the node's name."""
    found = {}
    for node in graph.nodes.values():
        for index, block in enumerate(node.blocks):
            for name, smaller in maimed(block).items():
                blocks = (*node.blocks[:index], smaller, *node.blocks[index + 1 :])
                nodes = graph.nodes | {node.path: replace(node, blocks=blocks, op=_sharing(node.op, smaller))}
                found[f"{block.name}.{name}"] = replace(graph, nodes=nodes)
        read = list(node.data().values())
        lends = any(ref.kind == "param" and ref.owner == node.path for ref in graph.users())
        if len(read) == 1 and not node.blocks and not lends and _same_sizes(graph, read[0], node):
            found[node.path] = _without(graph, node)
    return found


def _sharing(op: Op, block: Graph) -> Op:
    """The stack without what the block has no longer."""
    kept = [path for path in op.sharing() if path in block.nodes or path in block.groups]
    return op.model_copy(update={"share": kept}) if op.sharing() else op


def _same_sizes(graph: Graph, read: Ref, node: Node) -> bool:
    before, after = graph.type_of(read), node.types.get("out")
    return before is not None and after is not None and before.sizes == after.sizes


def _without(graph: Graph, node: Node) -> Graph:
    """The graph with everything that reads a node reading the node's own input."""
    (read,) = node.data().values()
    gone = Ref("node", node.path, "out")
    nodes = {
        path: replace(other, inputs={port: read if ref == gone else ref for port, ref in other.inputs.items()})
        for path, other in graph.nodes.items()
        if path != node.path
    }
    outputs = {name: read if ref == gone else ref for name, ref in graph.outputs.items()}
    return replace(graph, nodes=nodes, outputs=outputs)
