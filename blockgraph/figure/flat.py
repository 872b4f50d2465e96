"""A graph with the blocks of its stacks put where they run: every node by slot, with the sources of its inputs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from blockgraph.figure.text import clean, display
from blockgraph.graph import Graph, Node, Ref

SHORT_TITLE = 28  # characters up to which a block's title stands on its plate, and not its name
MAX_RUNS = 3  # runs of layers that a plate lists


@dataclass(frozen=True, slots=True)
class Value:
    """What an input reads: an output of a node, an input of the graph (`in:x`), or a parameter that a node owns.

    `apart` is the name under which layers carry it apart from the stream, from each to the one it is meant for.
    """

    slot: str
    port: str = ""
    owned: bool = False
    apart: str = ""


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
    """A frame around items: a group, or the plate of a stack that runs `repeat` times; the note says when."""

    slot: str
    title: str
    parent: str = ""
    repeat: int = 0
    note: str = ""


@dataclass
class Flat:
    """All nodes in running order, the stacks apart, with the groups and plates around them."""

    entries: dict[str, Entry] = field(default_factory=dict)
    stacks: dict[str, Entry] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)


def flat(graph: Graph) -> Flat:
    """The nodes of a graph and of the blocks that it runs, each kind of block once."""
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
        if node.blocks:
            stacks[node.path] = inputs | (_plate if len(node.blocks) == 1 else _plates)(result, entry)
        else:
            result.entries[slot] = entry
    return {name: value(ref) for name, ref in graph.outputs.items()}


def _plate(result: Flat, entry: Entry) -> dict[str, Value]:
    """Add a stack's block on its plate; returns what the stack gives."""
    node, slot = entry.node, entry.slot
    block = node.blocks[0]
    title = node.title or _title(block)
    result.stacks[slot] = entry
    result.clusters[slot] = Cluster(slot, clean(title, 40), entry.cluster, len(node.plan))
    return _read(result, block, f"{slot}/", slot, entry.inputs)


def _plates(result: Flat, entry: Entry) -> dict[str, Value]:
    """Add a plate for each kind of block of a stack, in the order in which they first run; returns what it gives.

    A value that comes to a kind from one that runs later as well, as between kinds that take turns, is shown once.
    """
    node, slot, carried = entry.node, entry.slot, dict(entry.inputs)
    result.stacks[slot] = entry
    title = node.title or f"{len(node.plan)} layers"
    result.clusters[slot] = Cluster(slot, clean(title, 40), entry.cluster)
    for index, name in kinds(node).items():
        block, inner = node.blocks[index], f"{slot}/{name}"
        layers = [layer for layer, kind in enumerate(node.plan) if kind == index]
        repeat = len(layers) if len(layers) > 1 else 0
        result.clusters[inner] = Cluster(inner, clean(_title(block), 40), slot, repeat, _which(layers))
        given = _read(result, block, f"{inner}/", inner, carried)
        apart = {name for name in given if node.op.carried(name, layers[0]) != name}
        carried |= {name: replace(value, apart=name if name in apart else "") for name, value in given.items()}
    return carried


def kinds(node: Node) -> dict[int, str]:
    """Names of a stack's blocks by their index, in the order in which they first run."""
    called = {index: Path(name).stem for name, index in reversed([*zip(node.op.layers(), node.plan, strict=True)])}
    alike = Counter(called.values())
    first = dict.fromkeys(node.plan)
    return {index: called[index] if alike[called[index]] == 1 else f"{called[index]}-{index}" for index in first}


def _title(block: Graph) -> str:
    return block.title if 0 < len(block.title) <= SHORT_TITLE else block.name


def _which(layers: Sequence[int]) -> str:
    """The layers of a kind in words: `layer 0`, `layers 1–23`, `layers 0, 2, …, 24`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    told = [f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    told = told if len(told) <= MAX_RUNS else [*told[:2], "…", told[-1]]
    return f"{'layers' if len(layers) > 1 else 'layer'} {', '.join(told)}"
