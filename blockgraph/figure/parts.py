"""The placed parts of a figure: boxes, wires, plates and words, in points with the origin at the bottom."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from blockgraph.figure import style
from blockgraph.figure.picture import Status
from blockgraph.figure.style import Kind, Point, Shape
from blockgraph.figure.text import width

WireKind = Literal["flow", "skip", "weight", "removed", "rewired"]
Anchor = Literal["left", "middle", "right"]
Rectangle = tuple[float, float, float, float]  # left, bottom, right, top
MARKS: Mapping[Status, str] = {"added": "+", "removed": "−", "changed": "≠"}


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
    tint: str = ""

    @property
    def shape(self) -> Shape:
        """The shape of its role."""
        return style.LOOKS[self.kind].shape

    @property
    def fill(self) -> str:
        """Its own colour, or that of its role."""
        return self.tint or style.LOOKS[self.kind].fill

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
    note: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """A line of text; y is its middle."""

    x: float
    y: float
    text: str
    size: float
    anchor: Anchor = "middle"
    bold: bool = False
    colour: str = style.INK

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
    area: Rectangle
    about: str = ""
    notes: tuple[str, ...] = ()


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


def meet(one: Rectangle, other: Rectangle) -> bool:
    """Whether two parts take some of the same room."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def two_lines(box: Box) -> tuple[Words, Words]:
    """The label of a box with a second line, and that line."""
    colour = style.FAINT if box.status == "removed" else style.INK
    y = box.y - 2 if box.shape in ("cylinder", "house", "box3d") else box.y
    return (
        Words(box.x, y + 5, box.label, style.LABEL, colour=colour),
        Words(box.x, y - 6, box.sub, style.SMALL, colour=colour),
    )


def shortened(points: Sequence[Point]) -> tuple[tuple[Point, ...], Point]:
    """A wire's points with its end drawn back by the arrowhead, and the arrow's tip."""
    (x1, y1), tip = points[-2], points[-1]
    length = abs(tip[0] - x1) + abs(tip[1] - y1)
    share = max(0.0, 1 - style.ARROW / length) if length else 0.0
    back = (x1 + (tip[0] - x1) * share, y1 + (tip[1] - y1) * share)
    return (*points[:-1], back), tip
