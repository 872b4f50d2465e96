"""A picture in its frame as a scene: every item, link, cluster and text where it is drawn."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from blockgraph.figure import style
from blockgraph.figure.arrange import Plan
from blockgraph.figure.frame import Frame
from blockgraph.figure.parts import MARKS, Box, Plate, Scene, Wire, WireKind, Words, meet
from blockgraph.figure.picture import Item, Link, Picture, Status
from blockgraph.figure.route import Route
from blockgraph.figure.style import Point, Shape
from blockgraph.figure.tracks import Corridors, Heights, settled

PLATE_LIFT = 4.0  # from the middle of its lowest row to a plate's edge, so that its shadow has room
MARK_INSET = 9.0  # of a comparison's sign from the left end of a box
LEANING: Mapping[Shape, float] = {
    "circle": -7, "hexagon": 15, "octagon": 12, "ellipse": 13, "trapezium": 19, "invtrapezium": 19,
}  # fmt: skip
LOW = {"residual": 20.0, "mask": 20.0, "position": 20.0, "input": 15.0, "output": 15.0}  # heights


def scene(
    frame: Frame, plan: Plan, levels: Heights, picture: Picture, routes: Sequence[Route], used: Corridors
) -> Scene:
    """A picture in its frame."""
    boxes = [_box(item, frame, plan, levels) for item in picture.items.values()]
    outlines = {b.slot: (b.x, b.y, b.width, b.height, b.shape) for b in boxes}
    wires = [_wire(route, settled(route, used, levels, outlines)) for route in routes]
    wires += [
        _beside(link, {b.slot: b for b in boxes}) for link in picture.links if frame.sides.get(link.tail) == link.head
    ]
    plates = [_plate(frame, plan, levels, picture, slot) for slot in frame.clusters if slot in picture.clusters]
    plates += [_pile(box, frame.items[box.slot].cluster) for box in boxes if box.kind == "stack"]
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
    tallest = style.TALL if levels.height[row] >= style.TALL else style.HEIGHT
    height = min(tallest, LOW.get(item.kind, tallest)) if not item.sub else tallest
    x, y = plan.x[item.slot], levels.middle[row]
    return Box(
        item.slot, x, y, item.width, height, item.kind, item.label, item.sub, item.status, item.about, item.cluster,
        item.tint,
    )  # fmt: skip


def _wire(route: Route, points: list[Point]) -> Wire:
    link = route.link
    return Wire(link.tail, link.head, tuple(points), _kind(link, route.skip), (link.tail, link.port))


def _kind(link: Link, skip: bool) -> WireKind:
    if link.status == "removed":
        return "removed"
    if link.status == "rewired":
        return "rewired"
    if link.weight:
        return "weight"
    return "skip" if skip else "flow"


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
    said = _common(picture, slot)
    return Plate(slot, left, bottom, right, top, parent, cluster.repeat, cluster.title, said, cluster.note)


def _pile(box: Box, parent: str) -> Plate:
    """The plate behind a box that stands for many nodes, without a title."""
    left, bottom, right, top = box.extent
    return Plate(f"{box.slot}\npile", left, bottom, right, top, parent, 2, "", box.status)


def _common(picture: Picture, slot: str) -> Status:
    """What a comparison says of all that stands in a cluster, if it says the same of all."""
    said = {item.status for item in picture.items.values() if item.cluster == slot}
    return said.pop() if len(said) == 1 else ""


def _marks(boxes: Iterable[Box]) -> list[Words]:
    """The sign of what a comparison says of a box, at its left end."""
    marks = []
    for box in boxes:
        if box.status in MARKS:
            colour = style.FAINT if box.status == "removed" else style.ADDED
            x = box.x - box.width / 2 + LEANING.get(box.shape, MARK_INSET)
            y = box.y + 8 if box.shape == "circle" else box.y
            marks.append(Words(x, y, MARKS[box.status], style.LABEL + 1, bold=True, colour=colour))
    return marks


def _titles(plates: Iterable[Plate]) -> list[Words]:
    words = []
    for plate in (plate for plate in plates if plate.title):
        words.append(Words(plate.left + 9, plate.top - 10, plate.title, style.LABEL, "left", bold=True))
        count = Words(plate.right - 9, plate.top - 11, f"× {plate.repeat}", style.LABEL + 2, "right", bold=True)
        words += [count] if plate.repeat else []
        if plate.note:
            end = count.extent[0] - 7 if plate.repeat else plate.right - 9
            words.append(Words(end, plate.top - 10, plate.note, style.NOTE, "right"))
    return words


def _texts(routes: Iterable[Route], levels: Heights, boxes: Sequence[Box], wires: Sequence[Wire]) -> list[Words]:
    """Names and shapes beside the links, once for each value; a shape for which there is no room is left out."""
    words: dict[tuple[str, str], Words | None] = {}
    taken = [box.extent for box in boxes] + [part for wire in wires for part in wire.extents]
    for route in sorted(routes, key=lambda route: route.link.status == "removed"):
        value = (route.link.tail, route.link.port)
        if route.text_at and value not in words:
            clear = (c for c in _choices(route, levels) if not any(meet(c.extent, other) for other in taken))
            words[value] = found = next(clear, None)
            taken += [found.extent] if found else []
    return [found for found in words.values() if found]


def _choices(route: Route, levels: Heights) -> Iterator[Words]:
    """Where a link's text may stand, best first: outside, inside, and without the shape."""
    assert route.text_at is not None
    corridor, x, side = route.text_at
    size = style.SMALL + 1 if route.link.label else style.SMALL
    for text in dict.fromkeys((route.link.text, route.link.label)):
        for way in (side, -side) if text else ():
            yield Words(x + 4 * way, levels.band(corridor), text, size, "left" if way > 0 else "right")


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
