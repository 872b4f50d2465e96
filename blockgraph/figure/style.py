"""Colours, shapes and sizes of a figure, by role; lengths in points, colours tinted from Okabe and Ito's set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from blockgraph.op import Role

Shape = Literal[
    "box", "rounded", "double", "octagon", "hexagon", "diagonals", "house", "ellipse", "circle", "trapezium",
    "invtrapezium", "cylinder", "box3d", "note", "text",
]  # fmt: skip
Kind = Role | Literal["input", "output"]
Point = tuple[float, float]

INK, FAINT, PAPER = "#222222", "#8A8A8A", "#FFFFFF"
CLUSTER_FILL, CLUSTER_LINE, PLATE_FILL = "#F6F6F6", "#9A9A9A", "#FCFCFC"
RESIDUAL, ADDED, WEIGHT = "#0072B2", "#C24A00", "#6B6B6B"

LABEL, SMALL, NOTE, TITLE, SUBTITLE = 10.0, 7.5, 8.5, 13.0, 9.0  # sizes of type
HEIGHT, TALL = 22.0, 30.0  # of a box, and of one with a second line
GAP = 12.0  # between neighbours in a row, and between rows
PAD = 12.0  # between a cluster's frame and what it holds
CORNER = 5.0  # radius of an edge's bends
ARROW = 6.0  # length of an arrowhead; Graphviz draws it from the end of the spline


@dataclass(frozen=True, slots=True)
class Look:
    """How a role is shown: its shape says it without colour; `width` is the least width of its boxes."""

    shape: Shape
    fill: str
    line: str
    width: float
    word: str


LOOKS: Mapping[Kind, Look] = {
    "norm": Look("rounded", "#FAD48A", "#9C6A00", 64, "normalization"),
    "linear": Look("box", "#B5DBF5", "#1F6FA8", 104, "linear"),
    "matmul": Look("double", "#8ED1BC", "#00684C", 104, "matrix product"),
    "softmax": Look("octagon", "#CDEBE0", "#00684C", 104, "softmax"),
    "limit": Look("hexagon", "#E9BFD7", "#8F3F6C", 84, "limit on logits"),
    "mask": Look("diagonals", "#D4D4D4", "#4D4D4D", 72, "mask"),
    "activation": Look("house", "#F8F1A0", "#857A00", 104, "activation"),
    "position": Look("ellipse", "#FFFFFF", "#4D4D4D", 56, "position"),
    "reshape": Look("note", "#FFFFFF", "#6B6B6B", 84, "reshape"),
    "residual": Look("circle", "#FFFFFF", RESIDUAL, 20, "sum or product"),
    "scale": Look("invtrapezium", "#F6BE98", "#9A3D00", 104, "scale"),
    "weight": Look("cylinder", "#ECECEC", "#5A5A5A", 84, "weight"),
    "embedding": Look("box3d", "#9CC4E4", "#004E7C", 104, "embedding"),
    "stack": Look("box", "#FCFCFC", "#4D4D4D", 120, "layers or a group"),
    "loss": Look("trapezium", "#F4B6B6", "#A32020", 104, "loss"),
    "input": Look("text", PAPER, INK, 20, "input"),
    "output": Look("text", PAPER, INK, 20, "output"),
}

ROOM: Mapping[Shape, float] = {  # least width of a box beyond its text, where the shape's sides lean in
    "hexagon": 34, "trapezium": 34, "invtrapezium": 34, "octagon": 24, "ellipse": 22, "text": 6,
}  # fmt: skip
SHARE: Mapping[Shape, float] = {
    "hexagon": 0.8,
    "trapezium": 0.7,
    "invtrapezium": 0.7,
}  # of a width that is left at a text's own height
_CORNERS: Mapping[str, tuple[Point, ...]] = {  # in units of width and height, as Graphviz draws its shapes
    "hexagon": ((0.5, 0), (0.25, 0.5), (-0.25, 0.5), (-0.5, 0), (-0.25, -0.5), (0.25, -0.5)),
    "octagon": (
        (0.5, 0.207), (0.207, 0.5), (-0.207, 0.5), (-0.5, 0.207),
        (-0.5, -0.207), (-0.207, -0.5), (0.207, -0.5), (0.5, -0.207),
    ),
    "house": ((0.5, 0.1545), (0, 0.5), (-0.5, 0.1545), (-0.5, -0.4045), (0.5, -0.4045)),
    "trapezium": ((0.292, 0.5), (-0.292, 0.5), (-0.5, -0.5), (0.5, -0.5)),
    "invtrapezium": ((0.5, 0.5), (-0.5, 0.5), (-0.292, -0.5), (0.292, -0.5)),
}  # fmt: skip
_BOX = ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))


def corners(shape: Shape, width: float, height: float) -> tuple[Point, ...]:
    """The outline's corners round its middle; a box for the shapes that nearly fill one."""
    return tuple((x * width, y * height) for x, y in _CORNERS.get(shape, _BOX))


def attach_width(shape: Shape, width: float) -> float:
    """How far from its middle a straight edge may meet a shape from above or below; 0 for its middle alone."""
    return 0.0 if shape in ("circle", "ellipse", "text") else 0.42 * width


def edge_of(shape: Shape, width: float, height: float, x: float) -> tuple[float, float]:
    """Lower and upper end of the shape on the vertical line at `x` from its middle."""
    if shape in ("circle", "ellipse"):
        reach = height / 2 * math.sqrt(max(0.0, 1 - (2 * x / width) ** 2))
        return -reach, reach
    points = corners(shape, width, height)
    crossed = [
        y1 + (x - x1) / (x2 - x1) * (y2 - y1)
        for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True)
        if x1 != x2 and min(x1, x2) <= x <= max(x1, x2)
    ]
    return min(crossed), max(crossed)


def side_of(shape: Shape, width: float, dy: float) -> float:
    """How far from its middle a shape of usual height reaches to the side, at `dy` above its middle."""
    if shape in ("circle", "ellipse"):
        return width / 2
    points = corners(shape, width, HEIGHT)
    crossed = [
        x1 + (dy - y1) / (y2 - y1) * (x2 - x1)
        for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True)
        if y1 != y2 and min(y1, y2) <= dy <= max(y1, y2)
    ]
    return max(crossed)


def luminance(colour: str) -> float:
    """Relative luminance of `#RRGGBB`, from 0 to 1, as WCAG defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
