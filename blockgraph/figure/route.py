"""Routes of a picture's links along the lanes of its frame, as bends in rows and in the corridors between rows."""

import itertools
from dataclasses import dataclass

from blockgraph.figure.approach import EXACT, Approach, End, Token, Way
from blockgraph.figure.arrange import Plan
from blockgraph.figure.frame import Frame
from blockgraph.figure.levels import Hop
from blockgraph.figure.picture import Link, Picture
from blockgraph.figure.style import LOOKS, side_of


@dataclass(frozen=True, slots=True)
class InRow:
    """A height: `dy` above the middle of a row."""

    row: int
    dy: float = 0.0


@dataclass(frozen=True, slots=True)
class InCorridor:
    """A height: the track, in the corridor above a row, of the value that runs there."""

    corridor: int
    token: Token


@dataclass(frozen=True, slots=True)
class Touch:
    """A height: where a box's outline is met at this x, from above or from below."""

    slot: str
    above: bool


SUM = "+"  # label of what residuals end in; a product of two branches has none

Height = InRow | InCorridor | Touch


@dataclass
class Route:
    """A link's bends from tail to head, whether it is a residual, and where its text stands: corridor, x, side."""

    link: Link
    points: list[tuple[float, Height]]
    skip: bool = False
    text_at: tuple[int, float, int] | None = None


def routes(frame: Frame, plan: Plan, picture: Picture) -> list[Route]:
    """The routes of a picture's links, but for those from what stands beside a box."""
    ends = Approach(frame, plan, picture)
    return [_route(ends, way) for way in ends.ways]


def _route(ends: Approach, way: Way) -> Route:
    """All bends of one link."""
    start, end = way.ends
    points: list[tuple[float, Height]] = _leaving(ends, start)
    for hop, following in zip(way.hops, way.hops[1:], strict=False):
        points += _passing(ends, way, hop, following)
    points += _meeting(ends, end)
    text_at = None
    if way.link.text:
        row = ends.frame.rows[start.slot]
        here = [x for x, height in points if isinstance(height, InCorridor) and height.corridor == row]
        text_at = (row, here[-1] if here else start.lane, ends.plan.outward.get(way.hops[0], 1))
    skip = way.hops[-1] in ends.plan.residuals and ends.picture.items[way.link.head].label == SUM
    return Route(way.link, _joined(points), skip, text_at)


def _leaving(ends: Approach, end: End) -> list[tuple[float, Height]]:
    """From the box to its lane."""
    row = ends.frame.rows[end.slot]
    if end.mode == "side":
        return [(_edge(ends, end), InRow(row, end.at)), (end.lane, InRow(row, end.at))]
    if end.mode == "straight":
        return [(end.at, Touch(end.slot, True))]
    track = InCorridor(row, end.token)
    return [(end.at, Touch(end.slot, True)), (end.at, track), (end.lane, track)]


def _passing(ends: Approach, way: Way, hop: Hop, following: Hop) -> list[tuple[float, Height]]:
    """Through a terminal, or through the place of a node that this picture lacks."""
    vertex = hop.head if hop.head in ends.plan.x else following.tail
    low, high = _rows(ends, vertex, hop, following)
    x, before, after = ends.plan.x[vertex], ends.plan.lanes[hop], ends.plan.lanes[following]
    net: Token = ("from", way.link.tail, way.link.port)
    points: list[tuple[float, Height]] = []
    if abs(before - x) > EXACT:
        points += [(before, InCorridor(low - 1, net)), (x, InCorridor(low - 1, net))]
    points.append((x, InRow(low)))
    if abs(after - x) > EXACT:
        points += [(x, InCorridor(high, net)), (after, InCorridor(high, net))]
    return points


def _rows(ends: Approach, vertex: str, hop: Hop, following: Hop) -> tuple[int, int]:
    """Rows of a vertex between two hops."""
    level = hop.level if hop.head == vertex else following.level
    return ends.plan.levels[level].rows[vertex]


def _meeting(ends: Approach, end: End) -> list[tuple[float, Height]]:
    """From its lane into the box."""
    row = ends.frame.rows[end.slot]
    if end.mode == "side":
        return [(end.lane, InRow(row, end.at)), (_edge(ends, end), InRow(row, end.at))]
    if end.mode == "straight":
        return [(end.lane, Touch(end.slot, False))]
    track = InCorridor(row - 1, end.token)
    return [(end.lane, track), (end.at, track), (end.at, Touch(end.slot, False))]


def _edge(ends: Approach, end: End) -> float:
    """Where a level line at a box's side meets its outline."""
    item, x = ends.picture.items[end.slot], ends.plan.x[end.slot]
    reach = side_of(LOOKS[item.kind].shape, item.width, end.at)
    return x + reach if end.lane > x else x - reach


def _joined(points: list[tuple[float, Height]]) -> list[tuple[float, Height]]:
    """Points without the tracks on which nothing runs, because the lane is where the box is met."""
    level = {
        height for (x1, height), (x2, following) in itertools.pairwise(points)
        if height == following and abs(x1 - x2) > EXACT
    }  # fmt: skip
    kept = [point for point in points if not isinstance(point[1], InCorridor) or point[1] in level]
    return [point for index, point in enumerate(kept) if index == 0 or point != kept[index - 1]]
