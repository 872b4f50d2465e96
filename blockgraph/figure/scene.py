"""A figure as placed shapes: boxes, wires, plates and words, in points with the origin at the bottom."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from blockgraph.figure.arrange import Plan
from blockgraph.figure.frame import Frame
from blockgraph.figure.picture import Item, Link, Picture, Status
from blockgraph.figure.route import Route
from blockgraph.figure.style import (
    ADDED,
    ARROW,
    FAINT,
    HEIGHT,
    INK,
    LABEL,
    LOOKS,
    SMALL,
    TALL,
    Kind,
    Point,
    Shape,
)  # fmt: skip
from blockgraph.figure.text import width
from blockgraph.figure.tracks import Corridors, Heights, settled

WireKind = Literal["flow", "skip", "weight", "removed", "rewired"]
Rectangle = tuple[float, float, float, float]  # left, bottom, right, top
Anchor = Literal["left", "middle", "right"]
MARKS: Mapping[Status, str] = {"added": "+", "removed": "−", "changed": "≠"}
PLATE_LIFT = 4.0
INSET: Mapping[Shape, float] = {
    "circle": -7,
    "hexagon": 15,
    "octagon": 12,
    "ellipse": 13,
    "invtrapezium": 16,
}  # of marks
LOW = {"residual": 20.0, "mask": 20.0, "position": 20.0, "input": 15.0, "output": 15.0}


@dataclass(frozen=True, slots=True)
class Box:
    """One item in its place; x and y are its middle."""

    slot: str
    x: float
    y: float
    width: float
    height: float
    kind: Kind
    label: str
    sub: str = ""
    status: Status = ""
    about: str = ""
    cluster: str = ""

    @property
    def shape(self) -> Shape:
        """The shape of its role."""
        return LOOKS[self.kind].shape

    @property
    def extent(self) -> Rectangle:
        """The room it takes."""
        half, high = self.width / 2, self.height / 2
        return self.x - half, self.y - high, self.x + half, self.y + high


@dataclass(frozen=True, slots=True)
class Wire:
    """One edge from box to box, with an arrowhead at its last point."""

    tail: str
    head: str
    points: tuple[Point, ...]
    kind: WireKind
    net: tuple[str, str] = ("", "")

    @property
    def extents(self) -> list[Rectangle]:
        """The room that each of its straight parts takes."""
        pairs = pairwise(self.points)
        return [(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for (x1, y1), (x2, y2) in pairs]


@dataclass(frozen=True, slots=True)
class Plate:
    """The frame of a cluster; a stack's has copies behind it."""

    slot: str
    left: float
    bottom: float
    right: float
    top: float
    parent: str
    repeat: int
    title: str
    status: Status = ""


@dataclass(frozen=True, slots=True)
class Words:
    """A line of text; y is its middle."""

    x: float
    y: float
    text: str
    size: float
    anchor: Anchor = "middle"
    bold: bool = False
    colour: str = INK

    @property
    def extent(self) -> Rectangle:
        """The room it takes, between the lowest and the highest of its letters."""
        wide = width(self.text, self.size, self.bold)
        left = self.x - {"left": 0.0, "middle": 0.5, "right": 1.0}[self.anchor] * wide
        return left, self.y - 0.4 * self.size, left + wide, self.y + 0.4 * self.size


@dataclass(frozen=True)
class Scene:
    """Everything that a figure consists of, and the sentence that describes it to those who cannot see it."""

    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    plates: tuple[Plate, ...]
    words: tuple[Words, ...]
    dots: tuple[Point, ...]
    area: tuple[float, float, float, float]  # left, bottom, right, top
    about: str = ""
    notes: tuple[str, ...] = field(default=())


def scene(
    frame: Frame, plan: Plan, levels: Heights, picture: Picture, routes: Sequence[Route], used: Corridors
) -> Scene:
    """A picture in its frame."""
    boxes = [_box(item, frame, plan, levels) for item in picture.items.values()]
    outlines = {b.slot: (b.x, b.y, b.width, b.height, b.shape) for b in boxes}
    wires = [_wire(route, settled(route, used, levels, outlines), plan) for route in routes]
    wires += [
        _beside(link, {b.slot: b for b in boxes}) for link in picture.links if frame.sides.get(link.tail) == link.head
    ]
    plates = [_plate(frame, plan, levels, picture, slot) for slot in frame.clusters if slot in picture.clusters]
    words = [*_marks(boxes), *_titles(plates), *_texts(routes, levels, boxes, wires)]
    left, right = plan.extent
    notes = picture.notes + frame.notes + (("some parts in plain layers",) if plan.plain else ())
    area = (
        min(left, *(b.x - b.width / 2 for b in boxes)),
        0.0,
        max(right, *(b.x + b.width / 2 for b in boxes)),
        levels.total,
    )
    return Scene(tuple(boxes), tuple(wires), tuple(plates), tuple(words), _dots(wires), area, notes=notes)


def _box(item: Item, frame: Frame, plan: Plan, levels: Heights) -> Box:
    row = frame.rows[item.slot]
    tallest = TALL if levels.height[row] >= TALL else HEIGHT
    height = min(tallest, LOW.get(item.kind, tallest)) if not item.sub else tallest
    x, y = plan.x[item.slot], levels.middle[row]
    return Box(
        item.slot, x, y, item.width, height, item.kind, item.label, item.sub, item.status, item.about, item.cluster
    )


def _wire(route: Route, points: list[Point], plan: Plan) -> Wire:
    link = route.link
    return Wire(link.tail, link.head, tuple(points), _kind(link, route, plan), (link.tail, link.port))


def _kind(link: Link, route: Route, plan: Plan) -> WireKind:
    if link.status == "removed":
        return "removed"
    if link.status == "rewired":
        return "rewired"
    if link.weight:
        return "weight"
    return "skip" if route.skip else "flow"


def _beside(link: Link, boxes: Mapping[str, Box]) -> Wire:
    """The short edge from a weight to the box it stands beside."""
    tail, head = boxes[link.tail], boxes[link.head]
    points = ((tail.x + tail.width / 2, tail.y), (head.x - head.width / 2, head.y))
    kind: WireKind = "removed" if link.status == "removed" else "weight" if link.weight else "flow"
    return Wire(link.tail, link.head, points, kind, (link.tail, link.port))


def _plate(frame: Frame, plan: Plan, levels: Heights, picture: Picture, slot: str) -> Plate:
    cluster, (low, high), (left, right) = picture.clusters[slot], frame.spans[slot], plan.frames[slot]
    parent = frame.clusters[slot].parent
    top = levels.middle[high] + levels.height[high] / 2
    bottom = levels.middle[low] + (PLATE_LIFT if cluster.repeat else 0)
    return Plate(slot, left, bottom, right, top, parent, cluster.repeat, cluster.title, _common(picture, slot))


def _common(picture: Picture, slot: str) -> Status:
    """What a comparison says of all that stands in a cluster, if it says the same of all."""
    said = {item.status for item in picture.items.values() if item.cluster == slot}
    return said.pop() if len(said) == 1 else ""


def _marks(boxes: Iterable[Box]) -> list[Words]:
    """The sign of what a comparison says of a box, at its left end."""
    marks = []
    for box in boxes:
        if box.status in MARKS:
            colour = FAINT if box.status == "removed" else ADDED
            x = box.x - box.width / 2 + INSET.get(box.shape, 9)
            y = box.y + 8 if box.shape == "circle" else box.y
            marks.append(Words(x, y, MARKS[box.status], LABEL + 1, bold=True, colour=colour))
    return marks


def _titles(plates: Iterable[Plate]) -> list[Words]:
    words = []
    for plate in plates:
        words.append(Words(plate.left + 9, plate.top - 10, plate.title, LABEL, "left", bold=True))
        if plate.repeat:
            words.append(Words(plate.right - 9, plate.top - 11, f"× {plate.repeat}", LABEL + 2, "right", bold=True))
    return words


def _texts(routes: Iterable[Route], levels: Heights, boxes: Sequence[Box], wires: Sequence[Wire]) -> list[Words]:
    """Names and shapes beside the links, once for each value, on the side where nothing is in the way."""
    words: dict[tuple[str, str], Words] = {}
    taken = [rectangle for box in boxes for rectangle in [box.extent]] + [s for wire in wires for s in wire.extents]
    for route in sorted(routes, key=lambda route: route.link.status == "removed"):
        if route.text_at and (route.link.tail, route.link.port) not in words:
            corridor, x, side = route.text_at
            size = SMALL + 1 if route.link.label else SMALL
            choices = [
                Words(x + 4 * way, levels.band(corridor), route.link.text, size, "left" if way > 0 else "right")
                for way in (side, -side)
            ]
            best = min(choices, key=lambda choice: sum(_meet(choice.extent, other) for other in taken))
            words[route.link.tail, route.link.port] = best
            taken.append(best.extent)
    return list(words.values())


def _meet(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _dots(wires: Iterable[Wire]) -> tuple[Point, ...]:
    """Where a value forks: a bend from which its lines leave in three directions or more."""
    ways: dict[tuple[str, str, Point], set[Point]] = {}
    wires = [wire for wire in wires if wire.kind not in ("weight", "removed")]
    for wire in wires:
        for point in wire.points[1:-1]:
            ways.setdefault((*wire.net, point), set())
    for wire in wires:
        for one, other in zip(wire.points, wire.points[1:], strict=False):
            for (tail, port, point), found in ways.items():
                if (tail, port) == wire.net:
                    found |= _directions(point, one, other)
    return tuple(dict.fromkeys(point for (_, _, point), found in ways.items() if len(found) > 2))


def _directions(point: Point, one: Point, other: Point) -> set[Point]:
    """Directions in which the segment leads away from the point, if it passes there."""
    (x, y), (x1, y1), (x2, y2) = point, one, other
    if not (min(x1, x2) - 0.01 <= x <= max(x1, x2) + 0.01 and min(y1, y2) - 0.01 <= y <= max(y1, y2) + 0.01):
        return set()
    away = {(_sign(end[0] - x), _sign(end[1] - y)) for end in (one, other)}
    return away - {(0.0, 0.0)}


def _sign(value: float) -> float:
    return 0.0 if abs(value) < 0.01 else 1.0 if value > 0 else -1.0


def moved(scene: Scene, dx: float, dy: float, prefix: str = "") -> Scene:
    """The scene somewhere else, with other slots so that it can stand beside its like."""

    def at(points: Iterable[Point]) -> tuple[Point, ...]:
        return tuple((x + dx, y + dy) for x, y in points)

    left, bottom, right, top = scene.area
    return replace(
        scene,
        boxes=tuple(
            replace(b, slot=prefix + b.slot, x=b.x + dx, y=b.y + dy, cluster=prefix + b.cluster) for b in scene.boxes
        ),
        wires=tuple(
            replace(w, tail=prefix + w.tail, head=prefix + w.head, points=at(w.points)) for w in scene.wires
        ),
        plates=tuple(
            replace(p, slot=prefix + p.slot, parent=prefix + p.parent if p.parent else "", left=p.left + dx,
                    right=p.right + dx, bottom=p.bottom + dy, top=p.top + dy) for p in scene.plates
        ),
        words=tuple(replace(w, x=w.x + dx, y=w.y + dy) for w in scene.words),
        dots=at(scene.dots),
        area=(left + dx, bottom + dy, right + dx, top + dy),
    )  # fmt: skip


def two_lines(box: Box) -> tuple[Words, Words]:
    """The label of a box with a second line, and that line."""
    colour = FAINT if box.status == "removed" else INK
    y = box.y - 2 if box.shape in ("cylinder", "house", "box3d") else box.y
    return (
        Words(box.x, y + 5, box.label, LABEL, colour=colour),
        Words(box.x, y - 6, box.sub, SMALL, colour=colour),
    )


def shortened(points: Sequence[Point]) -> tuple[tuple[Point, ...], Point]:
    """A wire's points with its end drawn back by the arrowhead, and the arrow's tip."""
    (x1, y1), tip = points[-2], points[-1]
    length = abs(tip[0] - x1) + abs(tip[1] - y1)
    share = max(0.0, 1 - ARROW / length) if length else 0.0
    back = (x1 + (tip[0] - x1) * share, y1 + (tip[1] - y1) * share)
    return (*points[:-1], back), tip
