"""Which spec is nearest to which, by the nodes that differ, and in which of its places a spec has norms."""

from collections.abc import Iterator, Mapping

from blockgraph.compare import Diff, compare
from blockgraph.figure.flat import Flat, flat
from blockgraph.graph import Graph

PLACES = {
    (True, False, False): "Norm before each sublayer (pre-LN)",
    (True, True, False): "Norms before and after each sublayer",
    (False, True, False): "Norm after each sublayer, before the addition",
    (False, False, True): "Norm on the residual stream (post-LN)",
    (False, True, True): "Norm on the residual stream (post-LN)",
    (True, False, True): "Pre-LN and post-LN together",
    (True, True, True): "Pre-LN and post-LN together",
    (False, False, False): "No norm beside the residual stream",
}


def nearest(name: str, graphs: Mapping[str, Graph]) -> Diff | None:
    """What a spec changes against the one that is nearest to it; of equals the first."""
    found = (compare(other, graphs[name]) for key, other in graphs.items() if key != name)
    return min(found, key=distance, default=None)


def distance(diff: Diff) -> int:
    """How many nodes differ."""
    return len(diff.added) + len(diff.removed) + len({*diff.changed, *diff.rewired})


def told(diff: Diff) -> list[str]:
    """The difference in words, without the places in the files."""
    return [line.partition("    [")[0] for line in str(diff).splitlines()]


def place_of_norms(graph: Graph) -> str:
    """Where the blocks of a graph have their norms: before a sublayer, after it, or on the stream itself."""
    found = {place for block in blocks(graph) for place in _places(flat(block), block)}
    return PLACES["before" in found, "after" in found, "stream" in found]


def blocks(graph: Graph) -> list[Graph]:
    """The blocks that a model's stacks run; a block itself."""
    inner = [block for node in graph.nodes.values() for block in node.blocks]
    return inner or [graph]


def ops(graph: Graph) -> set[str]:
    """Names of the ops of a graph and of its blocks."""
    return {entry.node.op.name for entry in flat(graph).entries.values()}


def _places(nodes: Flat, block: Graph) -> Iterator[str]:
    sums = {slot for slot, entry in nodes.entries.items() if entry.node.op.name == "add"}
    stream = sums | {f"in:{name}" for name in block.inputs}
    given = {value.slot for value in nodes.outputs.values()}
    for slot, entry in nodes.entries.items():
        if entry.node.op.style.role != "norm":
            continue
        reads = {value.slot for value in entry.inputs.values() if not value.owned}
        added = bool(_readers(nodes, slot) & sums)
        if reads & stream:
            yield "stream" if added or slot in given else "before"
        elif added:
            yield "after"


def _readers(nodes: Flat, slot: str) -> set[str]:
    """What reads a node, constant factors and gains seen through."""
    near = {s for s, e in nodes.entries.items() if slot in {v.slot for v in e.inputs.values() if not v.owned}}
    scales = {s for s in near if nodes.entries[s].node.op.style.role == "scale"}
    return (near - scales).union(*(_readers(nodes, scale) for scale in scales))
