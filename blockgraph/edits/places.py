"""Places of a graph by meaning: nodes found by what they are and by the ways between them, never by their names."""

from collections.abc import Iterator
from collections.abc import Mapping as Table
from dataclasses import dataclass, field, replace

from blockgraph.edits.file import OUTPUTS, Pattern, words
from blockgraph.graph import Graph, Node, Ref


@dataclass(frozen=True, slots=True)
class Edge:
    """A value on its way to a port of a reader; the reader of an output of the graph has no path."""

    value: Ref
    reader: str
    port: str


@dataclass(frozen=True)
class Spot:
    """A node that fits a place, and the value it was found by.

    `out` are the edges that lead on from it, where it was found by what it feeds, else None for all; `into` is the
    edge by which it was found, where that was by what it reads. `passed` are the nodes on the way.
    """

    place: str
    node: str
    value: Ref
    out: tuple[Edge, ...] | None = None
    into: Edge | None = None
    passed: tuple[str, ...] = ()


class Lacking(LookupError):
    """A place that a graph does not have; `looked` says in words what for."""

    def __init__(self, place: str, looked: str):
        super().__init__(place)
        self.place, self.looked = place, looked


def is_one_of(node: Node, kinds: list[str]) -> bool:
    """Whether a node's op, or its role, is among some words."""
    return node.op.name in kinds or node.op.style.role in kinds


@dataclass
class Finder:
    """Finds the places of one graph; each is looked for once."""

    graph: Graph
    patterns: Table[str, Pattern]
    found: dict[str, tuple[Spot, ...]] = field(default_factory=dict)

    def spots(self, name: str) -> tuple[Spot, ...]:
        """The spots of a place, in the order of the text. Raises `Lacking` when there is none."""
        if name not in self.found:
            self.found[name] = ()  # a place that is defined by itself has nothing to begin with
            found = [replace(spot, place=name) for spot in self.matches(self.patterns[name], name)]
            self.found[name] = tuple(sorted(_merged(found), key=self.rank))
        if not self.found[name]:
            raise Lacking(name, described(self.patterns[name]))
        return self.found[name]

    def matches(self, pattern: Pattern, name: str) -> Iterator[Spot]:
        """Every spot of a pattern."""
        if pattern.feeds is not None:
            for edge in self.inputs(pattern.feeds, name):
                yield from self.up(edge, pattern, (), set())
        elif pattern.reads is not None:
            for start in self.starts(pattern.reads, name):
                yield from self.down(start, pattern, (), set())
        else:
            for node in self.graph.nodes.values():
                if self.fits(node, pattern) and not node.on_port:
                    yield Spot("", node.path, Ref("node", node.path, node.outputs[0]))

    def up(self, edge: Edge, pattern: Pattern, passed: tuple[str, ...], seen: set[Edge]) -> Iterator[Spot]:
        """Spots that an edge comes from."""
        node = self.graph.nodes.get(edge.value.owner) if edge.value.kind == "node" else None
        if node is None or edge in seen:
            return
        seen.add(edge)
        if self.fits(node, pattern):
            yield Spot("", node.path, edge.value, out=(edge,), passed=passed)
        if is_one_of(node, words(pattern.through)):
            for port, ref in node.data().items():
                yield from self.up(Edge(ref, node.path, port), pattern, (*passed, node.path), seen)

    def down(self, node: Node, pattern: Pattern, passed: tuple[str, ...], seen: set[str]) -> Iterator[Spot]:
        """Spots that a node's values lead to."""
        for port in node.outputs:
            for edge in self.edges(Ref("node", node.path, port)):
                reader = self.graph.nodes.get(edge.reader)
                if reader is None or reader.path in seen:
                    continue
                if self.fits(reader, pattern):
                    value = Ref("node", reader.path, reader.outputs[0])
                    yield Spot("", reader.path, value, into=edge, passed=passed)
                if is_one_of(reader, words(pattern.through)):
                    yield from self.down(reader, pattern, (*passed, reader.path), seen | {reader.path})

    def fits(self, node: Node, pattern: Pattern) -> bool:
        """Whether a node is what a pattern looks for; without `is`, the first one that is not gone through."""
        wanted = words(pattern.kind)
        right = is_one_of(node, wanted) if wanted else not is_one_of(node, words(pattern.through))
        return right and not is_one_of(node, words(pattern.isnt))

    def inputs(self, target: "str | list[str] | Pattern", name: str) -> Iterator[Edge]:
        """Edges into the nodes that a pattern feeds: into all ports, or the one that is named."""
        for word in words(target):
            if word == OUTPUTS:
                yield from (Edge(ref, "", output) for output, ref in self.graph.outputs.items())
                continue
            place, _, port = word.partition(".")
            for spot in self.spots(place):
                data = self.graph.nodes[spot.node].data()
                yield from (Edge(ref, spot.node, at) for at, ref in data.items() if port in ("", at))
        for spot in self.matches(target, name) if isinstance(target, Pattern) else ():
            yield from (Edge(ref, spot.node, at) for at, ref in self.graph.nodes[spot.node].data().items())

    def starts(self, target: "str | list[str] | Pattern", name: str) -> Iterator[Node]:
        """The nodes that a pattern reads."""
        for word in words(target):
            yield from (self.graph.nodes[spot.node] for spot in self.spots(word))
        for spot in self.matches(target, name) if isinstance(target, Pattern) else ():
            yield self.graph.nodes[spot.node]

    def edges(self, value: Ref) -> list[Edge]:
        """Every edge on which a value is read."""
        nodes = self.graph.nodes.values()
        read = [Edge(value, node.path, port) for node in nodes for port, ref in node.data().items() if ref == value]
        return [*read, *(Edge(value, "", name) for name, ref in self.graph.outputs.items() if ref == value)]

    def rank(self, spot: Spot) -> tuple[int, int]:
        """Where a spot stands in the text."""
        place = self.graph.nodes[spot.node].place
        return place.line, place.column


def _merged(spots: list[Spot]) -> list[Spot]:
    """Spots of one value as one, with all its edges."""
    found: dict[tuple[str, Ref, Edge | None], Spot] = {}
    for spot in spots:
        key = (spot.node, spot.value, spot.into)
        known = found.get(key)
        if known is None:
            found[key] = spot
            continue
        out = None if known.out is None or spot.out is None else tuple(dict.fromkeys((*known.out, *spot.out)))
        found[key] = replace(known, out=out, passed=tuple(dict.fromkeys((*known.passed, *spot.passed))))
    return list(found.values())


def described(pattern: Pattern) -> str:
    """A pattern in words."""
    what = " or ".join(words(pattern.kind)) or "the first node"
    if pattern.isnt:
        what += f" that is no {' or '.join(words(pattern.isnt))}"
    for key, target in (("feeds", pattern.feeds), ("reads", pattern.reads)):
        if target is not None:
            other = described(target) if isinstance(target, Pattern) else " or ".join(words(target))
            what += f" that {key} {other}"
    through = words(pattern.through)
    return what + (f" through {', '.join(through)}" if through else "")
