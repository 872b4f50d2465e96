"""A scene as a sheet: title above, legend below, two scenes side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from blockgraph.figure.parts import MARKS, Box, Scene, Words, moved
from blockgraph.figure.picture import Status
from blockgraph.figure.style import LOOKS, PAPER, SMALL, SUBTITLE, TITLE
from blockgraph.figure.text import clean, width

ENTRY, SWATCH, BETWEEN = 17.0, 24.0, 40.0  # height of a legend's line, width of its boxes, space between panels
MOST, NARROW = 160, 280.0  # characters of a title, and the room that it has over a figure that is narrower
STATUS_WORDS: dict[Status, str] = {"added": "added", "removed": "removed", "changed": "changed"}


def titled(scene: Scene, title: str, lines: Sequence[str]) -> Scene:
    """The scene with its title and some smaller lines above, from its left edge."""
    left, bottom, right, top = scene.area
    words, y = [], top + 8
    for line in reversed([clean(line, 110) for line in lines if line]):
        words.append(Words(left, y + SUBTITLE / 2, line, SUBTITLE, "left", colour="#555555"))
        y += SUBTITLE + 4
    for line in reversed(wrapped(clean(title, MOST), max(right - left, NARROW))):
        words.append(Words(left, y + TITLE / 2 + 2, line, TITLE, "left", bold=True))
        y += TITLE + 6
    wide = max((width(w.text, w.size, w.bold) for w in words), default=0.0)
    return replace(scene, words=(*scene.words, *words), area=(left, bottom, max(right, left + wide), y), about=title)


def wrapped(title: str, room: float) -> list[str]:
    """A title in lines as wide as the figure below it."""
    lines: list[str] = []
    for word in title.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width(longer, TITLE, True) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def with_legend(scene: Scene) -> Scene:
    """The scene with a legend of its roles and marks below."""
    entries = [*_roles(scene), *_marks(scene)]
    left, bottom, right, _ = scene.area
    boxes, words = [], []
    tint = PAPER if any(box.tint for box in scene.boxes) else ""  # colours then mean numbers
    x, y = left, bottom - ENTRY - 4
    for box, text in entries:
        wide = SWATCH + 5 + width(text, SMALL) + 14
        if x > left and x + wide > right:
            x, y = left, y - ENTRY
        boxes.append(replace(box, x=x + SWATCH / 2, y=y, tint=tint))
        words.append(Words(x + SWATCH + 5, y, text, SMALL, "left"))
        x += wide
    area = (left, y - ENTRY / 2 if entries else bottom, *scene.area[2:])
    return replace(scene, boxes=(*scene.boxes, *boxes), words=(*scene.words, *words), area=area)


def _roles(scene: Scene) -> list[tuple[Box, str]]:
    shown = {box.kind for box in scene.boxes} - {"input", "output"}
    wide = {"circle": 12.0}
    return [
        (Box(f"legend:{kind}", 0, 0, wide.get(look.shape, SWATCH), 12, kind, "+" * (kind == "residual")), look.word)
        for kind, look in LOOKS.items() if kind in shown
    ]  # fmt: skip


def _marks(scene: Scene) -> list[tuple[Box, str]]:
    shown = {box.status for box in scene.boxes}
    return [
        (Box(f"legend:{status}", 0, 0, SWATCH, 12, "linear", MARKS[status], status=status), word)
        for status, word in STATUS_WORDS.items() if status in shown
    ]  # fmt: skip


def side_by_side(scenes: Iterable[Scene]) -> Scene:
    """Scenes in one row at one height."""
    placed: list[Scene] = []
    x = 0.0
    for index, scene in enumerate(scenes):
        placed.append(moved(scene, x - scene.area[0], 0.0, f"{index}:"))
        x = placed[-1].area[2] + BETWEEN
    return Scene(
        tuple(b for s in placed for b in s.boxes), tuple(w for s in placed for w in s.wires),
        tuple(p for s in placed for p in s.plates), tuple(w for s in placed for w in s.words),
        tuple(d for s in placed for d in s.dots),
        (0.0, min(s.area[1] for s in placed), placed[-1].area[2], max(s.area[3] for s in placed)),
        " and ".join(s.about for s in placed), tuple(dict.fromkeys(n for s in placed for n in s.notes)),
    )  # fmt: skip
