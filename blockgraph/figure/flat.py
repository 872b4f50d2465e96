"""A graph with the blocks of its stacks put where they run: every node by slot, with the sources of its inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from blockgraph.figure.text import clean, display
from blockgraph.graph import Graph, Node, Ref

SHORT_TITLE = 28  # characters up to which a block's title stands on its plate, and not its name


@dataclass(frozen=True, slots=True)
class Value:
    """What an input reads: an output of a node, an input of the graph (`in:x`), or a parameter that a node owns."""

    slot: str
    port: str = ""
    owned: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A node at its slot: its path, below the paths of the stacks around it."""

    slot: str
    graph: Graph
    node: Node
    inputs: Mapping[str, Value]
    cluster: str = ""

    @property
    def owns(self) -> str:
        """Slot of the node whose port this one is written on; empty for most."""
        return self.slot.rpartition("@")[0]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A frame around items: a group, or the plate of a stack that runs `repeat` times."""

    slot: str
    title: str
    parent: str = ""
    repeat: int = 0


@dataclass
class Flat:
    """All nodes in running order, the stacks of one block apart, with the groups and plates around them."""

    entries: dict[str, Entry] = field(default_factory=dict)
    stacks: dict[str, Entry] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)


def flat(graph: Graph) -> Flat:
    """The nodes of a graph and of the blocks that it runs; a stack of several blocks stays one node."""
    result = Flat()
    feeds = {name: Value(f"in:{name}") for name in graph.inputs}
    result.outputs = _read(result, graph, "", "", feeds)
    return result


def _read(result: Flat, graph: Graph, prefix: str, around: str, feeds: Mapping[str, Value]) -> dict[str, Value]:
    """Add one graph; returns what its outputs are."""
    for group in graph.groups.values():
        above, _, name = group.path.rpartition(".")
        title = clean(group.title or display(name), 40)
        result.clusters[prefix + group.path] = Cluster(prefix + group.path, title, prefix + above if above else around)
    stacks: dict[str, Mapping[str, Value]] = {}

    def value(ref: Ref) -> Value:
        if ref.kind == "input":
            return feeds[ref.owner]
        if ref.owner in stacks and ref.kind == "node":
            return stacks[ref.owner][ref.port]
        return Value(prefix + ref.owner, ref.port, ref.kind == "param")

    for node in graph.nodes.values():
        slot, home = prefix + node.path, node.path.partition("@")[0].rpartition(".")[0]
        inputs = {port: value(ref) for port, ref in node.inputs.items()}
        entry = Entry(slot, graph, node, inputs, prefix + home if home else around)
        if len(node.blocks) == 1:
            stacks[node.path] = inputs | _plate(result, entry)
        else:
            result.entries[slot] = entry
    return {name: value(ref) for name, ref in graph.outputs.items()}


def _plate(result: Flat, entry: Entry) -> dict[str, Value]:
    """Add a stack's block on its plate; returns what the stack gives."""
    node, slot = entry.node, entry.slot
    block = node.blocks[0]
    title = node.title or (block.title if 0 < len(block.title) <= SHORT_TITLE else block.name)
    result.stacks[slot] = entry
    result.clusters[slot] = Cluster(slot, clean(title, 40), entry.cluster, len(node.plan))
    return _read(result, block, f"{slot}/", slot, entry.inputs)
