"""Places across the figure: every level's columns and rails put where their clusters stand."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from blockgraph.figure import rails
from blockgraph.figure.frame import Frame, Key
from blockgraph.figure.lanes import SINK, SOURCE, Column, Extent, Site, series, text_room
from blockgraph.figure.layered import layered
from blockgraph.figure.levels import Hop, Level, levels
from blockgraph.figure.style import GAP, LABEL, NOTE, PAD
from blockgraph.figure.text import width

SHADOW = 8.0  # room that the plates behind a stack take


@dataclass
class Plan:
    """Where everything stands from left to right: items, terminals, lanes, and the frames of clusters."""

    x: dict[str, float] = field(default_factory=dict)
    lanes: dict[Hop, float] = field(default_factory=dict)
    sides: dict[Hop, int] = field(default_factory=dict)  # hops on rails
    residuals: set[Hop] = field(default_factory=set)
    outward: dict[Hop, int] = field(default_factory=dict)
    frames: dict[str, Extent] = field(default_factory=dict)
    paths: Mapping[Key, tuple[Hop, ...]] = field(default_factory=dict)
    levels: Mapping[str, Level] = field(default_factory=dict)
    extent: Extent = (0.0, 0.0)
    plain: bool = False


def arrange(frame: Frame) -> Plan:
    """Places of all that the frame holds; the main axis is at 0."""
    found, paths = levels(frame)
    plan = Plan(paths=paths, levels=found)
    columns: dict[str, Column] = {}
    rooms: dict[str, Extent] = {slot: _room(frame, slot) for slot in frame.items}
    for name in sorted(found, key=lambda name: len(frame.around(name)) if name else -1, reverse=True):
        _equalize(found[name], frame, rooms)
        columns[name] = _column(frame, found[name], rooms, plan, columns)
        rooms[name] = _framed(frame, name, columns[name]) if name else columns[name].extent
    _settle(frame, columns, rooms, plan, "", 0.0)
    plan.extent = rooms[""]
    return plan


def _room(frame: Frame, slot: str) -> Extent:
    """An item with those beside it."""
    half = frame.items[slot].width / 2
    return -half - sum(frame.items[s].width + GAP for s in beside(frame, slot)), half


def beside(frame: Frame, slot: str) -> list[str]:
    """The chain of items to the left of one, nearest first."""
    chain: list[str] = []
    while last := next((s for s, owner in frame.sides.items() if owner == slot), ""):
        chain.append(last)
        slot = last
    return chain


def _equalize(level: Level, frame: Frame, rooms: dict[str, Extent]) -> None:
    """Clusters above one another get one width."""
    inside = [v for v in level.rows if v in frame.clusters]
    alone = [v for v in inside if not any(_share(level.rows[v], level.rows[o]) for o in inside if o != v)]
    left, right = min((rooms[v][0] for v in alone), default=0.0), max((rooms[v][1] for v in alone), default=0.0)
    rooms |= dict.fromkeys(alone, (left, right))


def _share(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _column(
    frame: Frame, level: Level, rooms: Mapping[str, Extent], plan: Plan, inside: Mapping[str, Column]
) -> Column:
    sums = {slot for slot, item in frame.items.items() if item.kind == "residual"}
    residuals = rails.residuals(level, sums)
    chosen = dict.fromkeys(residuals, rails.RIGHT) | rails.others(level, residuals)
    hops = [hop for hop in level.roads if hop not in chosen]
    used = {hop.tail for hop in hops} | {hop.head for hop in hops}
    railed = {hop.tail for hop in chosen} | {hop.head for hop in chosen}
    inner = [v for v in level.rows if v in used or v not in railed or v in frame.clusters or _solid(frame, v)]
    joined = hops + _joins(level, inner, hops)
    site = Site(level, rooms, frozenset(frame.clusters), layered)
    column = series(site, SOURCE, inner, SINK, joined)
    _align(frame, level, column, inside)
    chosen |= rails.sided(level, column, residuals)
    rails.place(level, column, chosen, rooms)
    plan.sides |= chosen
    plan.residuals.update(residuals)
    plan.plain = plan.plain or column.plain
    return column


def _align(frame: Frame, level: Level, column: Column, inside: Mapping[str, Column]) -> None:
    """Put inputs right below the terminals that they feed, where that keeps them apart."""
    feeding = {
        hop.tail: hop for hop in level.roads
        if hop.head in inside and hop.head in column.x and hop.end in inside[hop.head].x and not rails.far(level, hop)
    }  # fmt: skip
    inputs = [v for v in column.x if v in feeding and not _solid(frame, v) and _fed_once(level, v)]
    wished = {v: column.x[feeding[v].head] + inside[feeding[v].head].x[feeding[v].end] for v in inputs}
    places = sorted((x, frame.items[v].width if v in frame.items else 0.0) for v, x in wished.items())
    if all(x + wide / 2 + GAP <= other - w / 2 for (x, wide), (other, w) in itertools.pairwise(places)):
        column.x |= wished
        column.lanes |= {feeding[v]: x for v, x in wished.items()}
        for vertex, x in wished.items():
            low = level.rows[vertex][0]
            column.spans.append((low, low + 1, x, x + text_room(level.roads[feeding[vertex]])))


def _fed_once(level: Level, vertex: str) -> bool:
    """Whether a vertex only begins hops, and one of them alone goes to a cluster."""
    return not any(hop.head == vertex for hop in level.roads) and level.rows[vertex][0] == min(level.rows.values())[0]


def _solid(frame: Frame, vertex: str) -> bool:
    """Whether a vertex is a box, which has its own place also where only rails meet it."""
    return vertex in frame.items and frame.items[vertex].kind not in ("input", "output")


def _joins(level: Level, inner: list[str], hops: list[Hop]) -> list[Hop]:
    """Hops from a common source to all that begins, and from all that ends to a common sink."""
    fed, read = {hop.head for hop in hops}, {hop.tail for hop in hops}
    joins = [Hop(level.name, SOURCE, "", vertex, "") for vertex in inner if vertex not in fed]
    return joins + [Hop(level.name, vertex, "", SINK, "") for vertex in inner if vertex not in read]


def _framed(frame: Frame, name: str, column: Column) -> Extent:
    """A cluster's frame round its column; what leaves at the top passes between its title and its note."""
    left, right = column.extent
    leaving = [x for vertex, x in column.x.items() if "\nout\n" in vertex]
    first = min(leaving, default=right)
    cluster = frame.clusters[name]
    count = 34 if cluster.repeat else 0
    title = width(cluster.title, LABEL, bold=True) + count
    note = max(leaving, default=left) + width(cluster.note, NOTE) + count + 18 if cluster.note else right
    return min(left - PAD, first - title - 18), max(right + PAD, note) + (SHADOW if cluster.repeat else 0)


def _settle(
    frame: Frame, columns: Mapping[str, Column], rooms: Mapping[str, Extent], plan: Plan, name: str, at: float
) -> None:
    """Absolute places of a level and of all inside it."""
    column = columns[name]
    plan.lanes |= {hop: at + x for hop, x in column.lanes.items()}
    plan.outward |= column.outward
    for vertex, x in column.x.items():
        if vertex in frame.clusters:
            shadow = SHADOW if frame.clusters[vertex].repeat else 0.0
            plan.frames[vertex] = (at + x + rooms[vertex][0], at + x + rooms[vertex][1] - shadow)
            _settle(frame, columns, rooms, plan, vertex, at + x)
        else:
            plan.x[vertex] = at + x
    for slot in [s for s in column.x if s in frame.items]:
        edge = plan.x[slot] - frame.items[slot].width / 2
        for other in beside(frame, slot):
            half = frame.items[other].width / 2
            plan.x[other] = edge - GAP - half
            edge -= GAP + 2 * half
