"""The frame taken apart: for the whole and for each cluster, what stands in it and which hops join that."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import networkx as nx

from blockgraph.figure.frame import Frame, Key
from blockgraph.figure.picture import Link

Rows = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Hop:
    """The part of a link that runs inside one level, from vertex to vertex.

    Vertices are items, clusters, and the terminals where links cross the cluster's frame. `start` and `end` name the
    terminal of a cluster at either end, or the port of an item.
    """

    level: str
    tail: str
    start: str
    head: str
    end: str


@dataclass
class Road:
    """What is known of a hop: port positions, the text beside it, the pictures that show it, and its links."""

    order: tuple[float, float]
    text: str = ""
    where: frozenset[int] = frozenset()
    ghost: bool = True
    tied: bool = False
    links: list[Link] = field(default_factory=list)


@dataclass
class Level:
    """One cluster's inside; the outermost level has an empty name."""

    name: str
    rows: dict[str, Rows] = field(default_factory=dict)
    roads: dict[Hop, Road] = field(default_factory=dict)


def levels(frame: Frame) -> tuple[dict[str, Level], dict[Key, tuple[Hop, ...]]]:
    """Every level by name, and the hops of every link of the frame."""
    found = {name: Level(name) for name in ("", *frame.clusters)}
    for slot, item in frame.items.items():
        if slot not in frame.sides:
            found[item.cluster].rows[slot] = (frame.rows[slot], frame.rows[slot])
    for slot, cluster in frame.clusters.items():
        found[cluster.parent].rows[slot] = frame.spans[slot]
    gates = _gates(frame)
    paths: dict[Key, tuple[Hop, ...]] = {}
    for link in frame.links:
        if frame.sides.get(link.tail) != link.head:
            paths[link.key] = tuple(_hops(frame, link, gates))
            for hop in paths[link.key]:
                _add(frame, found[hop.level], hop, link)
    return found, paths


def _crossed(frame: Frame, link: Link) -> tuple[list[str], list[str]]:
    """Clusters that a link leaves, innermost first, and those that it enters, outermost first."""
    out, into = frame.around(link.tail), frame.around(link.head)
    shared = sum(1 for a, b in zip(out, into, strict=False) if a == b)
    return list(reversed(out[shared:])), list(into[shared:])


Crossing = tuple[str, str, str, str]


def _gates(frame: Frame) -> dict[Crossing, str]:
    """Terminal of each crossing; one for all links of a value, and for variants that feed the same port."""
    same: nx.Graph[Crossing] = nx.Graph()
    for link in frame.links:
        for way, clusters in zip(("out", "in"), _crossed(frame, link), strict=True):
            for cluster in clusters:
                same.add_edge((cluster, way, link.tail, link.port), (cluster, way, link.head, link.into))
    parts = [sorted(part) for part in nx.connected_components(same)]
    return {crossing: "\n".join(part[0]) for part in parts for crossing in part}


def _hops(frame: Frame, link: Link, gates: Mapping[Crossing, str]) -> Iterator[Hop]:
    """From the tail outward to the level that holds both ends, across it, and inward to the head."""
    left, entered = _crossed(frame, link)
    vertex, start = link.tail, link.port
    for cluster in left:
        gate = gates[cluster, "out", link.tail, link.port]
        yield Hop(cluster, vertex, start, gate, "")
        vertex, start = cluster, gate
    around = frame.around(link.tail)
    level = around[len(around) - len(left) - 1] if len(around) > len(left) else ""
    for cluster in entered:
        gate = gates[cluster, "in", link.tail, link.port]
        yield Hop(level, vertex, start, cluster, gate)
        level, vertex, start = cluster, gate, ""
    yield Hop(level, vertex, start, link.head, link.into)


def _add(frame: Frame, level: Level, hop: Hop, link: Link) -> None:
    road = level.roads.setdefault(hop, Road((float(link.order[0]), float(link.order[1])), tied=link.tied))
    bottom, top = frame.spans.get(level.name, (0, 0))
    for vertex, row in ((hop.tail, bottom), (hop.head, top)):
        level.rows.setdefault(vertex, (row, row))
    road.links.append(link)
    road.where |= frame.where[link.key]
    road.ghost = road.ghost and link.key in frame.gone
    if len(link.text) > len(road.text) and (hop.tail == link.tail):
        road.text = link.text
