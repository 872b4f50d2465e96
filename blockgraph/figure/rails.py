"""Rails beside a level's columns: residual connections, side inputs and shared weights, nested ones further out."""

import itertools
from collections.abc import Collection, Mapping

import networkx as nx

from blockgraph.figure.lanes import RAIL, Column, Extent, left_of, right_of, text_room
from blockgraph.figure.levels import Hop, Level

RIGHT, LEFT = 1, -1


def residuals(level: Level, sums: Collection[str]) -> list[Hop]:
    """The hops that meet, at a sum, a longer path from where they began."""
    flow = [hop for hop, road in level.roads.items() if not road.tied]
    graph: nx.DiGraph[str] = nx.DiGraph((hop.tail, hop.head) for hop in flow)
    below = {vertex: nx.ancestors(graph, vertex) for hop in flow if hop.head in sums for vertex in graph.pred[hop.head]}
    return [
        hop for hop in flow
        if hop.head in sums and far(level, hop)
        and any(hop.tail in below[other] for other in graph.pred[hop.head] if other != hop.tail)
    ]  # fmt: skip


def others(level: Level, chosen: Collection[Hop]) -> dict[Hop, int]:
    """The other hops on rails, with their sides: side inputs and outputs right, shared weights left."""
    flow = [hop for hop, road in level.roads.items() if not road.tied and hop not in chosen]
    graph: nx.DiGraph[str] = nx.DiGraph((hop.tail, hop.head) for hop in flow)
    tied = {hop: LEFT for hop, road in level.roads.items() if road.tied}
    return tied | dict.fromkeys(_side_streams(level, graph, flow), RIGHT)


def sided(level: Level, column: Column, hops: Collection[Hop]) -> dict[Hop, int]:
    """Residuals with their sides: right, but left of a sum that has others beside it on the right alone."""
    sides = {}
    for hop in hops:
        row, x = level.rows[hop.head], column.x[hop.head]
        beside = [
            other for v, other in column.x.items() if v != hop.head and level.rows[v][0] <= row[0] <= level.rows[v][1]
        ]
        sides[hop] = LEFT if beside and min(beside) > x else RIGHT
    return sides


def far(level: Level, hop: Hop) -> bool:
    """Whether there are rows between the ends of a hop."""
    return level.rows[hop.head][0] - level.rows[hop.tail][1] > 1


def _side_streams(level: Level, graph: "nx.DiGraph[str]", flow: list[Hop]) -> list[Hop]:
    """Far hops from inputs besides the main one to places that it reaches, and likewise to outputs."""
    chosen = []
    for forth, ends in ((True, [v for v in graph if not graph.in_degree(v)]),
                        (False, [v for v in graph if not graph.out_degree(v)])):  # fmt: skip
        if not ends:
            continue
        reached = {end: (nx.descendants if forth else nx.ancestors)(graph, end) for end in ends}
        main = max(ends, key=lambda end: len(reached[end]))
        chosen += [
            hop for hop in flow
            if (end := hop.tail if forth else hop.head) in reached and end != main
            and (hop.head if forth else hop.tail) in reached[main] and far(level, hop)
        ]  # fmt: skip
    return chosen


def place(level: Level, column: Column, chosen: Mapping[Hop, int], rooms: Mapping[str, Extent]) -> None:
    """Give every rail its lane; a terminal or input that only rails use stands on the first of them."""
    ends = {hop: [v for v in (hop.tail, hop.head) if v not in column.x] for hop in chosen}
    for side in (RIGHT, LEFT):
        rails = sorted((hop for hop in chosen if chosen[hop] == side), key=lambda hop: _length(level, hop))
        depth: dict[Hop, int] = {}
        for hop in (hop for hop in rails if not ends[hop]):
            depth[hop] = _outside(level, hop, depth)
        for index in sorted(set(depth.values())):
            _lay(level, column, [hop for hop in depth if depth[hop] == index], side, 0.0)
        for hop in (hop for hop in rails if ends[hop]):
            new = [vertex for vertex in ends[hop] if vertex not in column.x]
            half = max((rooms[vertex][1] for vertex in new if vertex in rooms), default=0.0)
            _lay(level, column, [hop], side, half)
            for vertex in new:
                column.x[vertex] = lane = column.lanes[hop]
                column.spans.append((*level.rows[vertex], lane - half, lane + half))


def _outside(level: Level, hop: Hop, depth: Mapping[Hop, int]) -> int:
    """How many rails further out a rail runs: outside those that it spans, beside those that it crosses."""
    low, high = _rows(level, hop)
    beside = {depth[other] for other in depth if _overlap(level, hop, other)}
    spans = [depth[other] for other in depth if low <= _rows(level, other)[0] and _rows(level, other)[1] <= high]
    return next(index for index in itertools.count(max(spans, default=-1) + 1) if index not in beside)


def _lay(level: Level, column: Column, rails: list[Hop], side: int, half: float) -> None:
    """Rails on one line, clear of everything beside which any of them runs."""
    reach = right_of if side == RIGHT else left_of
    lane = side * (max(side * reach(column.spans, *_rows(level, hop)) for hop in rails) + RAIL + half)
    for hop in rails:
        column.lanes[hop] = lane
        room = text_room(level.roads[hop])
        column.spans.append((*_rows(level, hop), min(lane - 4, 0), max(lane + 4 + room, 0)))


def _rows(level: Level, hop: Hop) -> tuple[int, int]:
    """First and last row that a rail passes."""
    (low, below), (high, above) = level.rows[hop.tail], level.rows[hop.head]
    return (below + 1, above) if high > low else (high, below)


def _length(level: Level, hop: Hop) -> tuple[int, int]:
    low, high = _rows(level, hop)
    return high - low, low


def _overlap(level: Level, one: Hop, other: Hop) -> bool:
    (low, high), (first, last) = _rows(level, one), _rows(level, other)
    return low <= last and first <= high and not (one.tail == other.tail and one.head == other.head)
