"""How links leave and meet their boxes: straight, at a side, or by a bend in the corridor above or below."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from blockgraph.figure.arrange import Plan
from blockgraph.figure.frame import Frame
from blockgraph.figure.levels import Hop
from blockgraph.figure.picture import Link, Picture
from blockgraph.figure.style import ARROW, CORNER, LOOKS, attach_width

EXACT = 0.01  # points up to which two numbers are one place
SIDE_STEP, SIDE_MOST = 7.0, 3  # distance and number of edges on one side of a box
APART = 10.0  # between lines of two values above and below one corridor
Token = tuple[str, ...]


@dataclass
class End:
    """How a link leaves or meets a box: straight, at a side, or by a bend in the corridor.

    `beyond` is where the box at the link's other end stands.
    """

    slot: str
    lane: float
    rail: bool
    token: Token
    starts: bool
    beyond: float
    mode: str = "bend"
    at: float = 0.0  # x where it touches from above or below, or height from the middle at a side


@dataclass
class Way:
    """A link with the hops it runs along."""

    link: Link
    hops: tuple[Hop, ...]
    ends: list[End] = field(default_factory=list)


class Approach:
    """Decides the ends of all links of one picture."""

    def __init__(self, frame: Frame, plan: Plan, picture: Picture):
        self.frame, self.plan, self.picture = frame, plan, picture
        self.ways = [self.way(link) for link in picture.links if frame.sides.get(link.tail) != link.head]
        self.nets: dict[tuple[str, str], int] = {}
        for way in (way for way in self.ways if way.link.status != "removed"):
            net = (way.link.tail, way.link.port)
            self.nets[net] = self.nets.get(net, 0) + 1
        for way in self.ways:
            for end in way.ends:
                self.straight(end)
        self.one_by_one()
        self.sideways()
        self.spread()
        self.untangle()

    def way(self, link: Link) -> Way:
        """A link's hops and its two ends."""
        keys = self.frame.finest(link.key)
        hops = tuple(hop for key in keys for hop in self.plan.paths[key])
        first, last, sides = hops[0], hops[-1], self.plan.sides
        net: Token = ("from", link.tail, link.port)
        join: Token = ("to", link.head) if LOOKS[self.frame.items[link.head].kind].shape == "circle" else net
        x = self.plan.x
        ends = [End(link.tail, self.plan.lanes[first], first in sides, net, True, x[link.head]),
                End(link.head, self.plan.lanes[last], last in sides, join, False, x[link.tail])]  # fmt: skip
        return Way(link, hops, ends)

    def straight(self, end: End) -> None:
        """Meet the box right where the lane is, if the lane lies over it."""
        off = end.lane - self.plan.x[end.slot]
        if not end.rail and abs(off) <= self.reach(end.slot) + EXACT:
            end.mode, end.at = "straight", end.lane

    def one_by_one(self) -> None:
        """Of several values that would meet a box in one place, only one that comes straight there does."""
        meeting: dict[str, list[Way]] = {}
        for way in (way for way in self.ways if way.ends[1].mode == "straight"):
            meeting.setdefault(way.ends[1].slot, []).append(way)
        for ways in meeting.values():
            ends = [way.ends[1] for way in ways]
            for way, end in zip(ways, ends, strict=True):
                near = any(other.token != end.token and abs(other.lane - end.lane) < APART / 2 for other in ends)
                if near and way.ends[0].mode != "straight":
                    end.mode = "bend"

    def reach(self, slot: str) -> float:
        """How far from its middle the box may be met from above or below."""
        item = self.picture.items[slot]
        return attach_width(LOOKS[item.kind].shape, item.width)

    def sideways(self) -> None:
        """Let lanes beside a box meet it at its side, where nothing stands between and there is room."""
        asking: dict[tuple[str, int], list[End]] = {}
        for way in self.ways:
            for end in way.ends:
                if end.mode == "bend" and self.may_turn(way, end):
                    side = 1 if end.lane > self.plan.x[end.slot] else -1
                    asking.setdefault((end.slot, side), []).append(end)
        for (slot, _), ends in asking.items():
            most = 1 if LOOKS[self.picture.items[slot].kind].shape in ("circle", "ellipse") else SIDE_MOST
            ends.sort(key=lambda end: (not end.rail, self.distance(end)))
            self.at_side(sorted(ends[:most], key=lambda end: (end.starts, self.distance(end) * (1 - 2 * end.starts))))

    def distance(self, end: End) -> float:
        """How far the lane is from the box."""
        return abs(end.lane - self.plan.x[end.slot])

    def at_side(self, ends: Sequence[End]) -> None:
        """Lanes from below get the lower places, nearest first; lanes that go on upward the higher, nearest last."""
        middle = (len(ends) - 1) / 2
        for index, end in enumerate(ends):
            end.mode, end.at = "side", (index - middle) * SIDE_STEP

    def may_turn(self, way: Way, end: End) -> bool:
        """Whether the side is free; a value that several nodes read forks above its box instead."""
        item = self.picture.items[end.slot]
        if LOOKS[item.kind].shape == "text" or self.distance(end) < item.width / 2 + ARROW + CORNER:
            return False
        if end.starts and not way.link.tied:
            alone = self.nets.get((way.link.tail, way.link.port)) == 1
            if end.rail or not alone or LOOKS[item.kind].shape == "circle":
                return False
        x = self.plan.x[end.slot]
        return self.free(end.slot, min(x, end.lane - APART), max(x, end.lane + APART)) and not self.taken(way, end)

    def taken(self, way: Way, end: End) -> bool:
        """Whether another value passes the box's row on this lane."""
        row = self.frame.rows[end.slot]
        for other in self.ways:
            same = (way.link.tail, way.link.port) == (other.link.tail, other.link.port)
            if not same and any(self.passes(hop, row, end.lane) for hop in other.hops):
                return True
        return False

    def passes(self, hop: Hop, row: int, lane: float) -> bool:
        """Whether a hop runs through a row on a lane."""
        rows = self.plan.levels[hop.level].rows
        return rows[hop.tail][1] < row < rows[hop.head][0] and abs(self.plan.lanes[hop] - lane) < APART / 2

    def free(self, slot: str, left: float, right: float) -> bool:
        """Whether a row is empty beside a box."""
        row, around = self.frame.rows[slot], self.frame.around(slot)
        for other, item in self.frame.items.items():
            at = self.plan.x[other]
            if (
                other != slot
                and self.frame.rows[other] == row
                and at + item.width / 2 > left
                and at - item.width / 2 < right
            ):
                return False
        return not any(
            low <= row <= high and self.plan.frames[c][0] < right and self.plan.frames[c][1] > left
            for c, (low, high) in self.frame.spans.items() if c not in around
        )  # fmt: skip

    def spread(self) -> None:
        """Give bends their places on the box: a value's own, apart from the others'."""
        for starts in (True, False):
            by_slot: dict[str, dict[Token, list[End]]] = {}
            for end in (end for way in self.ways for end in way.ends if end.starts == starts and end.mode != "side"):
                by_slot.setdefault(end.slot, {}).setdefault(end.token, []).append(end)
            for slot, groups in by_slot.items():
                self.spread_on(slot, groups)

    def spread_on(self, slot: str, groups: Mapping[Token, list[End]]) -> None:
        """Straight values keep their lane; the others are laid out evenly in the order of their lanes."""
        order = sorted(groups, key=lambda token: (min(self.origin(end) for end in groups[token]), token))
        held = {token: [end.at for end in ends if end.mode == "straight"] for token, ends in groups.items()}
        for index, token in enumerate(order):
            fixed = held[token]
            even = self.plan.x[slot] + self.reach(slot) * (2 * (index + 1) / (len(order) + 1) - 1)
            even = self.beside(even, [(at, place < index) for place, t in enumerate(order) for at in held[t]], slot)
            for end in groups[token]:
                if end.mode == "bend":
                    end.at = min(fixed, key=abs) if fixed and end.starts else even

    def origin(self, end: End) -> tuple[float, float]:
        """From where a line comes to its box: its lane, but the other box where the lane lies over this one."""
        over = abs(end.lane - self.plan.x[end.slot]) <= self.reach(end.slot)
        return (end.beyond if over and end.mode == "bend" else end.lane, end.beyond)

    def beside(self, at: float, others: Sequence[tuple[float, bool]], slot: str) -> float:
        """A place on a box apart from those of straight values, each of which stands before it or behind."""
        x, reach = self.plan.x[slot], self.reach(slot)
        for other, before in others:
            if abs(at - other) < APART:
                at = other + (APART if before else -APART)
        return min(max(at, x - reach), x + reach)

    def untangle(self) -> None:
        """Move the bend of a line that comes in where another value leaves the box below, or move that one's."""
        leaving = [(way, way.ends[0]) for way in self.ways if way.ends[0].mode == "bend"]
        for way in self.ways:
            begin, end = way.ends
            if end.mode == "side" or (end.mode == "straight" and not self.short(way)):
                continue
            for other, start in leaving:
                above = self.frame.rows[end.slot] - self.frame.rows[start.slot] == 1
                same = (way.link.tail, way.link.port) == (other.link.tail, other.link.port)
                if above and not same and abs(end.at - start.at) < APART:
                    self.step_aside(end if self.reach(end.slot) else start)
                    if self.short(way):
                        begin.lane = end.lane = end.at

    def short(self, way: Way) -> bool:
        """Whether a line bends in the one corridor between its ends."""
        begin, end = way.ends
        return (
            len(way.hops) == 1 and begin.mode == "bend" and self.frame.rows[end.slot] - self.frame.rows[begin.slot] == 1
        )

    def step_aside(self, end: End) -> None:
        """Meet the box further to the side from which the lane comes; all of a value's lines together."""
        x, reach = self.plan.x[end.slot], self.reach(end.slot)
        at = min(max(end.at + (APART if end.lane > x else -APART), x - reach), x + reach)
        for way in self.ways:
            for other in way.ends:
                if other.slot == end.slot and other.token == end.token and other.starts == end.starts:
                    other.at = at if other.mode == "bend" or other is end else other.at
