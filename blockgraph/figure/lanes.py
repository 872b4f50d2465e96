"""Lanes of a level: columns put together in series and in parallel, rails beside them for what bypasses."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx

from blockgraph.figure.levels import Hop, Level, Road
from blockgraph.figure.style import GAP, SMALL
from blockgraph.figure.text import width

WIRE = 7.0  # room on either side of a line that runs on its own
RAIL = 12.0  # between rails
NEST = 60  # columns in columns, beyond which no further structure is sought
SOURCE, SINK = "\n<", "\n>"

Span = tuple[float, float, float, float]  # first row, last row, left, right
Extent = tuple[float, float]  # left (negative) and right of the axis


@dataclass
class Column:
    """Vertices and lanes with their places relative to one axis, and the room they take, row by row."""

    x: dict[str, float] = field(default_factory=dict)
    lanes: dict[Hop, float] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    outward: dict[Hop, int] = field(default_factory=dict)  # the side of a lane where its text stands
    plain: bool = False  # whether some part of it fell back to plain layers

    @property
    def extent(self) -> Extent:
        """Room to the left and to the right of the axis."""
        return min((s[2] for s in self.spans), default=0.0), max((s[3] for s in self.spans), default=0.0)

    def take(self, other: "Column", by: float = 0.0) -> None:
        """Take over all of another column, shifted."""
        self.x |= {vertex: x + by for vertex, x in other.x.items()}
        self.lanes |= {hop: x + by for hop, x in other.lanes.items()}
        self.spans += [(low, high, left + by, right + by) for low, high, left, right in other.spans]
        self.outward |= other.outward
        self.plain = self.plain or other.plain


_JOIN = Road((0.0, 0.0), where=frozenset({-1}))


@dataclass
class Site:
    """A level with the rooms its vertices take and the marks that decide on which side things stand."""

    level: Level
    rooms: Mapping[str, Extent]
    clusters: frozenset[str]
    layered: Callable[["Site", Sequence[str], Sequence[Hop]], Column]

    def rows(self, vertex: str) -> tuple[int, int]:
        """First and last row of a vertex."""
        return self.level.rows[vertex]

    def road(self, hop: Hop) -> Road:
        """What is known of a hop; those to a common source or sink are in every picture."""
        return self.level.roads.get(hop, _JOIN)


def series(
    site: Site, first: str, inner: Sequence[str], last: str, hops: Sequence[Hop], side: int = 0, depth: int = 0
) -> Column:
    """A column for all between two vertices: those that every path passes stand on the axis, the rest around it."""
    cuts = _cuts(first, last, inner, hops)
    home = _segments(cuts, inner, hops, first)
    column = Column()
    for cut in cuts[1:-1]:
        column.take(_single(site, cut))
    for index, (below, above) in enumerate(itertools.pairwise(cuts)):
        members = [v for v in inner if home[v] == index and v not in cuts]
        roads = [h for h in hops if home[h.tail] == index and (h.head in members or h.head == above)]
        column.take(_between(site, below, members, above, roads, side, depth, whole=len(cuts) == 2))
    return column


def _cuts(first: str, last: str, inner: Sequence[str], hops: Sequence[Hop]) -> list[str]:
    """The vertices through which every path from the first to the last goes, in order."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from([first, *inner, last])
    graph.add_edges_from((hop.tail, hop.head) for hop in hops)
    above = nx.immediate_dominators(graph, first)
    cuts = [last]
    while cuts[-1] != first:
        cuts.append(above[cuts[-1]])
    return cuts[::-1]


def _segments(cuts: Sequence[str], inner: Sequence[str], hops: Sequence[Hop], first: str) -> dict[str, int]:
    """For every vertex the number of the last cut at or before it."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from([first, *inner])
    graph.add_edges_from((hop.tail, hop.head) for hop in hops)
    home = {cut: index for index, cut in enumerate(cuts)}
    for vertex in nx.topological_sort(graph):
        if vertex not in home:
            home[vertex] = max(home[before] for before in graph.predecessors(vertex))
    return home


def _single(site: Site, vertex: str) -> Column:
    low, high = site.rows(vertex)
    return Column(x={vertex: 0.0}, spans=[(low, high, *site.rooms.get(vertex, (0.0, 0.0)))])


def _between(
    site: Site, below: str, members: Sequence[str], above: str, hops: Sequence[Hop], side: int, depth: int, whole: bool
) -> Column:
    """Branches from one cut to the next; without any cut, a lone branch has no structure but its layers."""
    parts = _branches(below, members, above, hops)
    if len(parts) == 1:
        inside, roads = parts[0]
        if not inside:
            return _wire(site, roads[0], side)
        if whole or depth > NEST:
            return site.layered(site, inside, roads)
        return series(site, below, inside, above, roads, side, depth + 1)
    return _parallel(site, below, above, parts, side, depth)


def _branches(below: str, members: Sequence[str], above: str, hops: Sequence[Hop]) -> list[tuple[list[str], list[Hop]]]:
    """Connected parts between two cuts, each with its hops; a hop from cut to cut is a part of its own."""
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(members)
    graph.add_edges_from((h.tail, h.head) for h in hops if h.tail in graph and h.head in graph)
    parts: list[tuple[list[str], list[Hop]]] = []
    for part in nx.connected_components(graph):
        parts.append(([m for m in members if m in part], [h for h in hops if h.tail in part or h.head in part]))
    return parts + [([], [hop]) for hop in hops if hop.tail == below and hop.head == above]


def _wire(site: Site, hop: Hop, side: int) -> Column:
    """A hop on its own lane, with its text on the outer side."""
    room, outer = text_room(site.road(hop)), -1 if side < 0 else 1
    low = site.level.rows.get(hop.tail, (0, 0))[1]
    high = site.level.rows.get(hop.head, (low, low))[0]
    spans: list[Span] = [(low, low + 1, -room * (outer < 0) - WIRE, room * (outer > 0) + WIRE)] if room else []
    spans += [(low + 1, high - 1, -WIRE, WIRE)] if high - low > 1 else []
    return Column(lanes={hop: 0.0}, outward={hop: outer}, spans=spans)


def text_room(road: Road) -> float:
    """Room beside a lane for what is written there."""
    return 5 + width(road.text, SMALL + 1) if road.text else 0.0


Branch = tuple[list[str], list[Hop]]


def _parallel(site: Site, below: str, above: str, parts: list[Branch], side: int, depth: int) -> Column:
    """Branches side by side in the order of their ports, the one that outweighs the others on the axis."""
    groups = _ordered(site, below, above, _alternatives(site, below, above, parts), side)
    weights = [max(_weight(site, part) for part in group) for group in groups]
    axis = _on_axis(weights)
    sides = [(index > axis) - (index < axis) or side for index in range(len(groups))]
    columns = [_stacked(site, below, above, group, s, depth) for group, s in zip(groups, sides, strict=True)]
    places = _places(columns, even=max(weights) <= 1)
    strongest = [place for place, weight in zip(places, weights, strict=True) if weight == max(weights)]
    middle = (strongest[0] + strongest[-1]) / 2
    whole = Column()
    for column, place in zip(columns, places, strict=True):
        whole.take(column, place - middle)
    return whole


def _stacked(site: Site, below: str, above: str, group: list[Branch], side: int, depth: int) -> Column:
    """Alternatives, of which no picture shows two, in one place."""
    whole = Column()
    for inside, hops in group:
        whole.take(series(site, below, inside, above, hops, side, depth + 1) if inside else _wire(site, hops[0], side))
    return whole


def _alternatives(site: Site, below: str, above: str, parts: list[Branch]) -> list[list[Branch]]:
    groups: list[list[Branch]] = []
    for part in parts:
        kind, shown = (_ends(below, above, part), _gone(site, [part])), _shown(site, part)
        group = next((g for g in groups if (_ends(below, above, g[0]), _gone(site, g)) == kind
                      and not any(_shown(site, other) & shown for other in g)), None)  # fmt: skip
        if group is None:
            groups.append([part])
        else:
            group.append(part)
    return groups


def _ends(below: str, above: str, part: Branch) -> frozenset[tuple[str, str]]:
    starts = {("start", hop.start) for hop in part[1] if hop.tail == below}
    return frozenset(starts | {("end", hop.end) for hop in part[1] if hop.head == above})


def _shown(site: Site, part: Branch) -> frozenset[int]:
    return frozenset().union(*(site.road(hop).where for hop in part[1]))


def _gone(site: Site, group: list[Branch]) -> bool:
    """Whether all of it was removed."""
    return all(site.road(hop).ghost for _, hops in group for hop in hops)


def _weight(site: Site, part: Branch) -> int:
    """0 for a bare line or what was removed, 1 for a chain of items, 2 for anything that has width of its own."""
    inside, hops = part
    if not inside or _gone(site, [part]):
        return -1 if _gone(site, [part]) else 0
    single = len(hops) == len(inside) + 1
    return 1 if single and not site.clusters.intersection(inside) else 2


def _ordered(site: Site, below: str, above: str, groups: list[list[Branch]], side: int) -> list[list[Branch]]:
    """By ports, bare lines to the right of all that has boxes; what was removed stands outside of what is there now."""

    def key(group: list[Branch]) -> tuple[bool, float, float]:
        orders = [site.road(hop).order for _, hops in group for hop in hops]
        bare = max(_weight(site, part) for part in group) == 0
        return bare, sum(o[0] for o in orders) / len(orders), sum(o[1] for o in orders) / len(orders)

    order = sorted((group for group in groups if not _gone(site, group)), key=key)
    axis = _on_axis([max(_weight(site, part) for part in group) for group in order])
    for group in (group for group in groups if _gone(site, group)):
        ends = _ends(below, above, group[0])
        like = next((i for i, other in enumerate(order) if _ends(below, above, other[0]) == ends), axis)
        outside = like > axis or (like == axis and side > 0)
        order.insert(int(like) + 1 if outside else int(like), group)
    return order


def _on_axis(weights: Sequence[int]) -> float:
    """Position, among the branches, of the axis: the middle of the heaviest."""
    heavy = [index for index, weight in enumerate(weights) if weight == max(weights)] or [0]
    return (heavy[0] + heavy[-1]) / 2


def _places(columns: Sequence[Column], even: bool) -> list[float]:
    """Axes of neighbouring columns that keep clear of each other; `even` ones stand at one distance."""
    pairs = itertools.pairwise(columns)
    steps = [left.extent[1] + GAP - right.extent[0] for left, right in pairs]
    steps = [max(steps)] * len(steps) if even and steps else steps
    places = [0.0]
    for step in steps:
        places.append(places[-1] + step)
    return places


def right_of(spans: Iterable[Span], low: float, high: float) -> float:
    """The right end of all that stands in some rows."""
    return max((right for first, last, _, right in spans if first <= high and last >= low), default=0.0)


def left_of(spans: Iterable[Span], low: float, high: float) -> float:
    """The left end of all that stands in some rows."""
    return min((left for first, last, left, _ in spans if first <= high and last >= low), default=0.0)
