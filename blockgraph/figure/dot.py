"""A scene as DOT text with every position pinned; `neato -n2` draws it as it stands."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from blockgraph.figure.parts import Anchor, Box, Plate, Scene, Wire, WireKind, Words, shortened, two_lines
from blockgraph.figure.style import (
    ADDED,
    ARROW,
    CLUSTER_FILL,
    CLUSTER_LINE,
    CORNER,
    FAINT,
    INK,
    LABEL,
    LOOKS,
    PAPER,
    PLATE_FILL,
    RESIDUAL,
    WEIGHT,
    Point,
    Shape,
)  # fmt: skip
from blockgraph.figure.text import width

FONT, BOLD = "Helvetica", "Helvetica-Bold"
LOOSE = 1.25  # invisible boxes of text are wider than it, for fonts other than the table's
MARGIN = 8.0
SHADOW_STEP = 4.0
BEHIND: Mapping[WireKind, int] = {"removed": 0, "skip": 1}  # drawn before the others, which cover what they share
_SHAPES: Mapping[Shape, str] = {"rounded": "box", "double": "box", "diagonals": "box", "text": "plaintext"}
_WIRES: Mapping[WireKind, Mapping[str, str]] = {
    "flow": {"color": INK, "penwidth": "0.9"},
    "skip": {"color": RESIDUAL, "penwidth": "1.5"},
    "weight": {"color": WEIGHT, "penwidth": "0.9", "style": "dashed"},
    "removed": {"color": FAINT, "penwidth": "0.9", "style": "dashed"},
    "rewired": {"color": ADDED, "penwidth": "2.2"},
}


def quoted(text: str) -> str:
    """A DOT string; `text` is one clean line, so only quotes and backslashes mean anything in it.

    The graphviz package's own quoting leaves backslashes as escapes and reads `<...>` as HTML, which a user's
    label must never be.
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def dot(scene: Scene) -> str:
    """The whole graph."""
    names = {box.slot: f"n{index}" for index, box in enumerate(scene.boxes)}
    lines = ["digraph blockgraph {", *(f"  // {note}" for note in scene.notes)]
    lines += [f"  {line}" for line in _defaults(scene)]
    lines += [f"  {line}" for line in _clusters(scene.plates, "", scene.boxes)]
    lines += [f"  {names[box.slot]} [{_attributes(_box(box))}];" for box in scene.boxes]
    lines += [f"  d{i} [{_attributes(_dot(point))}];" for i, point in enumerate(scene.dots)]
    words = [*scene.words, *(line for box in scene.boxes if box.sub for line in two_lines(box))]
    lines += [f"  t{i} [{_attributes(_words(line), line.anchor)}];" for i, line in enumerate(words)]
    behind_first = sorted(scene.wires, key=lambda wire: BEHIND.get(wire.kind, 2))
    lines += [f"  {names[w.tail]} -> {names[w.head]} [{_attributes(_wire(w, scene.dots))}];" for w in behind_first]
    return "\n".join([*lines, "}", ""])


def _attributes(values: Mapping[str, str], anchor: Anchor = "middle") -> str:
    """Attributes as text; an anchored label ends with DOT's mark for its side."""
    texts = {key: quoted(value) for key, value in values.items()}
    if anchor != "middle":
        texts["label"] = f'{texts["label"][:-1]}\\{anchor[0]}"'
    return ", ".join(f"{key}={text}" for key, text in texts.items())


def _defaults(scene: Scene) -> list[str]:
    left, bottom, right, top = scene.area
    corners = [(left - MARGIN, bottom - MARGIN), (right + MARGIN, top + MARGIN)]
    graph = {"bgcolor": PAPER, "fontname": FONT, "outputorder": "edgesfirst", "pad": "0", "splines": "true"}
    if scene.about:
        graph["comment"] = scene.about
    node = {"fixedsize": "true", "fontname": FONT, "fontsize": _number(LABEL), "fontcolor": INK, "label": ""}
    edge = {"arrowsize": _number(ARROW / 10), "arrowhead": "normal", "fontname": FONT}
    frame = {"shape": "point", "style": "invis", "width": "0", "height": "0"}
    return [
        f"graph [{_attributes(graph)}];", f"node [{_attributes(node)}];", f"edge [{_attributes(edge)}];",
        *(f"c{i} [{_attributes({**frame, 'pos': _point(p)})}];" for i, p in enumerate(corners)),
    ]  # fmt: skip


def _clusters(plates: Sequence[Plate], parent: str, boxes: Sequence[Box]) -> Iterator[str]:
    """Clusters as nested subgraphs, a stack's inside the copies behind it."""
    for index, plate in enumerate(plates):
        if plate.parent != parent:
            continue
        copies = 2 if plate.repeat else 0
        for copy in range(copies, -1, -1):
            yield f"subgraph cluster_{index}_{copy} {{"
            yield f"  graph [{_attributes(_frame(plate, copy * SHADOW_STEP))}];"
        yield from (f"  {line}" for line in _clusters(plates, plate.slot, boxes))
        yield "}" * (copies + 1)


def _frame(plate: Plate, shift: float) -> dict[str, str]:
    box = (plate.left + shift, plate.bottom - shift, plate.right + shift, plate.top - shift)
    line = ADDED if plate.status == "added" else CLUSTER_LINE
    return {
        "bb": ",".join(map(_number, box)), "color": FAINT if plate.status == "removed" else line,
        "fillcolor": PLATE_FILL if plate.repeat else CLUSTER_FILL, "label": "",
        "style": "rounded,filled,dashed" if plate.status == "removed" else "rounded,filled",
        "penwidth": "2" if plate.status == "added" else "1",
    }  # fmt: skip


def _box(box: Box) -> dict[str, str]:
    look = LOOKS[box.kind]
    inset = 8.0 if box.shape == "double" else 0.0
    values = {
        "pos": _point((box.x, box.y)), "width": _inches(box.width - inset), "height": _inches(box.height - inset),
        "shape": _SHAPES.get(look.shape, look.shape), "label": "" if box.sub else box.label, "comment": box.about,
        "style": _style(box), "fillcolor": PAPER if box.status == "removed" else box.fill,
    }  # fmt: skip
    if box.shape == "double":
        values["peripheries"] = "2"
    if box.shape == "text":
        del values["style"], values["fillcolor"]
    values |= _pen(box, look.line)
    return values


def _style(box: Box) -> str:
    extra = {"rounded": "rounded", "diagonals": "diagonals"}.get(box.shape, "")
    return ",".join(part for part in (extra, "filled", "dashed" if box.status == "removed" else "") if part)


def _pen(box: Box, line: str) -> dict[str, str]:
    if box.status == "removed":
        return {"color": FAINT, "fontcolor": "#6B6B6B"}
    if box.status in ("added", "changed"):
        return {"color": ADDED, "penwidth": "2.2" if box.status == "added" else "1.6"}
    return {"color": line, "penwidth": "1.4" if box.shape == "circle" else "1"}


def _dot(point: Point) -> dict[str, str]:
    return {"pos": _point(point), "shape": "point", "width": "0.045", "height": "0.045", "color": RESIDUAL}


def _words(words: Words) -> dict[str, str]:
    half = LOOSE * width(words.text, words.size, words.bold) / 2
    x = words.x + {"left": half, "middle": 0.0, "right": -half}[words.anchor]
    values = {
        "pos": _point((x, words.y)), "shape": "plaintext", "width": _inches(2 * half),
        "height": _inches(2 * words.size), "margin": "0", "fontsize": _number(words.size), "fontcolor": words.colour,
        "label": words.text,
    }  # fmt: skip
    return values | ({"fontname": BOLD} if words.bold else {})


def _wire(wire: Wire, forks: Collection[Point]) -> dict[str, str]:
    points, tip = shortened(wire.points)
    spline = " ".join(_point(point) for point in curve(points, forks))
    return {"pos": f"e,{_point(tip)} {spline}", **_WIRES[wire.kind]}


def curve(points: Sequence[Point], forks: Collection[Point] = ()) -> list[Point]:
    """Bezier points of a line through these bends, each rounded off unless the line forks there."""
    path: list[Point] = [points[0]]
    for index, point in enumerate(points[1:-1], 1):
        if point in forks:
            path += [path[-1], point, point]
            continue
        before, after = _towards(point, points[index - 1]), _towards(point, points[index + 1])
        path += [path[-1], before, before, _mean(before, point), _mean(after, point), after]
    return [*path, path[-1], points[-1], points[-1]]


def _towards(point: Point, other: Point) -> Point:
    """The place where a rounded bend begins: a corner's radius away, or half of a short segment."""
    length = math.hypot(other[0] - point[0], other[1] - point[1])
    share = min(CORNER, length / 2) / length if length else 0.0
    return point[0] + (other[0] - point[0]) * share, point[1] + (other[1] - point[1]) * share


def _mean(one: Point, other: Point) -> Point:
    return 0.45 * one[0] + 0.55 * other[0], 0.45 * one[1] + 0.55 * other[1]


def _point(point: Point) -> str:
    return f"{_number(point[0])},{_number(point[1])}"


def _number(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _inches(points: float) -> str:
    return f"{points / 72:.4f}"
