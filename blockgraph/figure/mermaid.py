"""A scene as a Mermaid flowchart for Markdown; its layout is Mermaid's own."""

from collections.abc import Iterator, Mapping, Sequence

from blockgraph.figure.parts import Box, Plate, Scene, WireKind
from blockgraph.figure.style import ADDED, FAINT, INK, LOOKS, PAPER, RESIDUAL, Shape

_SHAPES: Mapping[Shape, tuple[str, str]] = {
    "box": ("[", "]"), "rounded": ("(", ")"), "double": ("[[", "]]"), "octagon": ("([", "])"), "hexagon": ("{{", "}}"),
    "diagonals": ("[/", "/]"), "house": ("[/", "\\]"), "ellipse": ("(", ")"), "circle": ("((", "))"),
    "trapezium": ("[/", "\\]"), "invtrapezium": ("[\\", "/]"), "cylinder": ("[(", ")]"), "box3d": ("[[", "]]"),
    "note": (">", "]"), "text": ("[", "]"),
}  # fmt: skip
_ARROWS: Mapping[WireKind, str] = {
    "flow": "-->", "skip": "==>", "weight": "-.->", "removed": "-.->", "rewired": "==>",
}  # fmt: skip
_PLAIN = frozenset(" ,.:+-−×≠·/()[]=σ→…")


def escaped(text: str) -> str:
    """Text as a quoted Mermaid label: what is no letter, digit or plain sign becomes an entity."""
    return "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" for c in text)


def mermaid(scene: Scene) -> str:
    """The whole chart, from the input upward."""
    boxes = [box for box in scene.boxes if not box.slot.startswith("legend:")]
    names = {box.slot: f"n{index}" for index, box in enumerate(boxes)}
    lines = ["---", f'title: "{escaped(scene.about)}"', "---"] if scene.about else []
    lines += ["flowchart BT", *(f"  %% {note}" for note in scene.notes)]
    lines += [f"  {line}" for line in _nested(scene, boxes, names, "")]
    for wire in scene.wires:
        lines.append(f"  {names[wire.tail]} {_ARROWS[wire.kind]} {names[wire.head]}")
    skips = ",".join(str(index) for index, wire in enumerate(scene.wires) if wire.kind == "skip")
    lines += [f"  linkStyle {skips} stroke:{RESIDUAL}"] if skips else []
    return "\n".join([*lines, *(f"  {line}" for line in _classes(boxes, names)), ""])


def _nested(scene: Scene, boxes: Sequence[Box], names: Mapping[str, str], parent: str) -> Iterator[str]:
    """Nodes in their subgraphs."""
    inside = {plate.slot for plate in scene.plates}
    for box in boxes:
        if (box.cluster if box.cluster in inside else "") == parent:
            start, end = _SHAPES[box.shape]
            text = "<br/>".join(escaped(part) for part in (_marked(box), box.sub) if part)
            yield f'{names[box.slot]}{start}"{text}"{end}'
    for index, plate in enumerate(scene.plates):
        if plate.parent == parent and plate.title:
            yield f'subgraph g{index}["{escaped(_titled(plate))}"]'
            yield from (f"  {line}" for line in _nested(scene, boxes, names, plate.slot))
            yield "end"


def _marked(box: Box) -> str:
    mark = {"added": "+ ", "removed": "− ", "changed": "≠ "}.get(box.status, "")
    return mark + box.label


def _titled(plate: Plate) -> str:
    title = f"{plate.title} × {plate.repeat}" if plate.repeat else plate.title
    return f"{title} ({plate.note})" if plate.note else title


def _classes(boxes: Sequence[Box], names: Mapping[str, str]) -> Iterator[str]:
    """Colours by role, and by what a comparison says."""
    for kind in sorted({box.kind for box in boxes}):
        look = LOOKS[kind]
        stroke = "none" if look.shape == "text" else look.line
        yield f"classDef {kind} fill:{look.fill},stroke:{stroke},color:{INK}"
        yield f"class {','.join(names[b.slot] for b in boxes if b.kind == kind)} {kind}"
    yield from _status("added", boxes, names, f"stroke:{ADDED},stroke-width:3px")
    yield from _status("changed", boxes, names, f"stroke:{ADDED},stroke-width:2px")
    yield from (f"style {names[box.slot]} fill:{box.tint}" for box in boxes if box.tint)
    yield from _status("removed", boxes, names, f"fill:{PAPER},stroke:{FAINT},stroke-dasharray:4 3")


def _status(status: str, boxes: Sequence[Box], names: Mapping[str, str], style: str) -> Iterator[str]:
    marked = [names[box.slot] for box in boxes if box.status == status]
    if marked:
        yield f"classDef {status} {style}"
        yield f"class {','.join(marked)} {status}"
