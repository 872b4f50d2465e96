"""What a figure shows of a graph: items, the links between them, the clusters around them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from blockgraph.cost import Row, cost
from blockgraph.figure.flat import Cluster, Entry, Flat, Value, flat
from blockgraph.figure.style import LABEL, LOOKS, ROOM, SHARE, SMALL, Kind
from blockgraph.figure.text import clean, display, short, width
from blockgraph.graph import Graph, Node
from blockgraph.types import Type

Status = Literal["", "added", "removed", "changed", "rewired"]
APART = -0.5  # in front of a port that also gives to the stream
THROUGH = "\t"  # between an output's port and the hidden node with its port behind it


@dataclass(frozen=True, slots=True)
class Item:
    """One box; `slot` names its place in every variant, `tint` is its colour where that is not its role's."""

    slot: str
    kind: Kind
    label: str
    cluster: str = ""
    about: str = ""
    sub: str = ""
    status: Status = ""
    tint: str = ""

    @property
    def width(self) -> float:
        """Width of the box, wide enough for its text."""
        look = LOOKS[self.kind]
        if look.shape == "circle":
            return look.width
        room = ROOM.get(look.shape, 16)
        mark = 18 if self.status in ("added", "removed", "changed") else 0
        label, sub = width(self.label, LABEL) + mark, width(self.sub, SMALL)
        return max(look.width, label + room, sub + room, label / SHARE.get(look.shape, 1.0))


@dataclass(frozen=True, slots=True)
class Link:
    """An edge from an item's output to an item's input; `order` are the positions of the two ports.

    A `weight` ends on a weight port; a `tied` one reads a parameter that another item owns, so no data flows along it.
    """

    tail: str
    port: str
    head: str
    into: str
    order: tuple[float, float] = (0.0, 0.0)
    label: str = ""
    shape: str = ""
    weight: bool = False
    tied: bool = False
    status: Status = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes two links of two variants the same."""
        return (self.tail, self.port, self.head, self.into)

    @property
    def text(self) -> str:
        """What is written beside the link."""
        return " ".join(part for part in (self.label, self.shape) if part)


@dataclass(frozen=True)
class Picture:
    """Everything that one figure shows, before it has places."""

    items: Mapping[str, Item]
    links: tuple[Link, ...]
    clusters: Mapping[str, Cluster]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Detail:
    """What is printed besides the labels: shapes by the dims' names or as numbers; parameters and FLOPs."""

    shapes: Literal["", "names", "numbers"] = ""
    cost: bool = False
    batch: int = 1
    seq: int = 1024


PLAIN = Detail()


@dataclass(frozen=True, slots=True)
class Source:
    """The item that a value comes from once hidden nodes are seen through, and their port's name."""

    slot: str
    port: str
    order: float = 0.0
    label: str = ""
    tied: bool = False


def picture(graph: Graph, detail: Detail = PLAIN) -> Picture:
    """The picture of a checked graph, with every node."""
    nodes = flat(graph)
    items = {f"in:{name}": _end("in", name) for name in graph.inputs}
    costs = {id(row.node): row for row in cost(graph).rows} if detail.cost else {}
    shown = [entry for entry in nodes.entries.values() if not hidden(entry.node)]
    items |= {entry.slot: _item(entry, costs.get(id(entry.node)), detail) for entry in shown}
    items |= {f"out:{name}": _end("out", name) for name in graph.outputs}
    links = [link for entry in shown for link in _links(nodes, entry, detail)]
    for index, (name, value) in enumerate(nodes.outputs.items()):
        source = _source(nodes, value)
        shape = _shape(graph, graph.type_of(graph.outputs[name]), detail)
        links.append(Link(source.slot, source.port, f"out:{name}", "", (source.order, index), source.label, shape))
    return Picture(items, tuple(links), nodes.clusters)


def hidden(node: Node) -> bool:
    """Whether a node is drawn as part of its edge."""
    return node.op.style.hidden and len(node.inputs) == 1


def label_of(node: Node) -> str:
    """The words in a node's box."""
    return clean(node.title or node.op.label() or display(node.name))


def _end(way: Literal["in", "out"], name: str) -> Item:
    kind: Kind = "input" if way == "in" else "output"
    return Item(f"{way}:{name}", kind, clean(f"{kind} {name}"), about=f"{kind} {name}")


def _item(entry: Entry, row: Row | None, detail: Detail) -> Item:
    node, about = entry.node, f"{entry.slot}: {entry.node.op.name}"
    sub = _priced(row, detail) if row else ""
    return Item(entry.slot, node.op.style.role, label_of(node), entry.cluster, about, sub)


def _priced(row: Row, detail: Detail) -> str:
    """Parameters and FLOPs of a node, or nothing where it has none."""
    work = row.flops(detail.batch, detail.seq)
    parts = [f"{short(row.parameters)} par"] * (row.parameters > 0) + [short(work, "FLOP")] * (work > 0)
    return " · ".join(parts)


def _links(nodes: Flat, entry: Entry, detail: Detail) -> list[Link]:
    """The links into a box, but for a node's own weight, which only its own port reads."""
    links = []
    for index, (port, value) in enumerate(entry.inputs.items()):
        if not (value.owned and value.slot == entry.owns):
            source = _source(nodes, value)
            shape = _shape(entry.graph, entry.graph.type_of(entry.node.inputs[port]), detail)
            weight = port in (*entry.node.op.weights, *entry.node.op.changes)
            order = (source.order, float(index))
            links.append(
                Link(source.slot, source.port, entry.slot, port, order, source.label, shape, weight, source.tied)
            )
    return links


def _source(nodes: Flat, value: Value) -> Source:
    """Where a value comes from; hidden nodes name their ports beside the link."""
    entry = nodes.entries.get(value.slot)
    if value.apart:
        found = _source(nodes, replace(value, apart=""))
        port = THROUGH.join((found.port, value.apart))
        return replace(found, port=port, order=found.order + APART, label=clean(value.apart.upper(), 12))
    if entry is None or value.owned:
        return Source(value.slot, value.port, tied=value.owned)
    ports = entry.node.outputs
    index, label = ports.index(value.port), clean(value.port.upper(), 12) if len(ports) > 1 else ""
    if not hidden(entry.node):
        return Source(value.slot, value.port, index, label)
    before = _source(nodes, next(iter(entry.inputs.values())))
    port = THROUGH.join((before.port, value.slot, value.port)) if label else before.port
    return replace(before, port=port, order=before.order + index / 64, label=label or before.label)


def _shape(graph: Graph, kind: Type | None, detail: Detail) -> str:
    """A value's sizes, by the names of the dims or as numbers where those are known."""
    if not detail.shapes or kind is None:
        return ""
    numbers = detail.shapes == "numbers"
    shown = (str(s.known) if numbers and s.known is not None else graph.dims.show(s) for s in kind.sizes)
    return clean(f"[{', '.join(shown)}]", 60)
