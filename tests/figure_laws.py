"""Counters of what must not happen in a figure: collisions of boxes, wires, words and plates."""

from collections.abc import Iterator
from itertools import pairwise

from blockgraph.figure.parts import Box, Plate, Scene, Wire, Words
from blockgraph.figure.style import LABEL, corners
from blockgraph.figure.text import width

Rectangle = tuple[float, float, float, float]  # left, bottom, right, top


def faults(scene: Scene) -> list[str]:
    """All that is wrong with a scene's coordinates."""
    return [
        *overlapping_boxes(scene), *wires_through_boxes(scene), *wires_along_wires(scene), *loose_ends(scene),
        *arrows_in_one_place(scene), *words_in_the_way(scene), *strangers_in_plates(scene),
        *labels_past_their_sides(scene),
    ]  # fmt: skip


def overlapping_boxes(scene: Scene) -> Iterator[str]:
    for index, one in enumerate(scene.boxes):
        for other in scene.boxes[index + 1 :]:
            if meet(around(one), around(other)):
                yield f"{one.slot} lies over {other.slot}"


def labels_past_their_sides(scene: Scene) -> Iterator[str]:
    """Labels wider than their shape is at the height of their letters; those with a second line stand elsewhere."""
    letters = 0.35 * LABEL
    for box in scene.boxes:
        for (x1, y1), (x2, y2) in pairwise((*(outline := corners(box.shape, box.width, box.height)), outline[0])):
            if y1 == y2 or box.sub or not min(y1, y2) <= -letters <= max(y1, y2):
                continue
            if abs(x1 + (x2 - x1) * (-letters - y1) / (y2 - y1)) < width(box.label, LABEL) / 2:
                yield f"the label of {box.slot} reaches past its side"


def wires_through_boxes(scene: Scene) -> Iterator[str]:
    for wire in scene.wires:
        for box in scene.boxes:
            if box.slot not in (wire.tail, wire.head) and any(meet(s, around(box)) for s in segments(wire)):
                yield f"{wire.tail} -> {wire.head} runs through {box.slot}"


def wires_along_wires(scene: Scene) -> Iterator[str]:
    """Two values on one line; those that one node gives or takes may share what leads to it."""
    for index, one in enumerate(scene.wires):
        for other in scene.wires[index + 1 :]:
            if one.net == other.net or one.head == other.head or one.tail == other.tail:
                continue
            if any(shared(a, b) > 1.5 for a in lines(one) for b in lines(other)):
                yield f"{one.tail} -> {one.head} runs along {other.tail} -> {other.head}"


def arrows_in_one_place(scene: Scene) -> Iterator[str]:
    """Two values that seem to be one where they come to a box; a sum is small, and any may go in together."""
    kinds = {box.slot: box.shape for box in scene.boxes}
    for index, one in enumerate(scene.wires):
        for other in scene.wires[index + 1 :]:
            (x1, y1), (x2, y2) = one.points[-1], other.points[-1]
            near = abs(x1 - x2) < 4 and abs(y1 - y2) < 4
            if one.head == other.head and one.net != other.net and near and kinds[one.head] != "circle":
                yield f"{one.tail} and {other.tail} come to {one.head} in one place"


def loose_ends(scene: Scene) -> Iterator[str]:
    boxes = {box.slot: box for box in scene.boxes}
    for wire in scene.wires:
        for slot, point in ((wire.tail, wire.points[0]), (wire.head, wire.points[-1])):
            left, bottom, right, top = around(boxes[slot], -1.0)
            if not (left <= point[0] <= right and bottom <= point[1] <= top):
                yield f"{wire.tail} -> {wire.head} does not reach {slot}"
        for (x1, y1), (x2, y2) in zip(wire.points, wire.points[1:], strict=False):
            if abs(x1 - x2) > 0.01 and abs(y1 - y2) > 0.01:
                yield f"{wire.tail} -> {wire.head} runs askew"


def words_in_the_way(scene: Scene) -> Iterator[str]:
    texts = [(words, extent(words)) for words in scene.words]
    for index, (words, place) in enumerate(texts):
        yield from (f"'{words.text}' lies over '{o.text}'" for o, other in texts[index + 1 :] if meet(place, other))
        for wire in scene.wires:
            if any(meet(segment, place) for segment in segments(wire)):
                yield f"{wire.tail} -> {wire.head} runs through '{words.text}'"
        for box in scene.boxes:
            if meet(place, around(box)) and words.text not in ("+", "−", "≠"):
                yield f"'{words.text}' lies over {box.slot}"


def strangers_in_plates(scene: Scene) -> Iterator[str]:
    plates = {plate.slot: plate for plate in scene.plates}
    for box in scene.boxes:
        for plate in (plate for plate in scene.plates if plate.title):
            own = plate.slot in enclosing(box.cluster, plates)
            if own and not inside(around(box, -2.0), edges(plate)):
                yield f"{box.slot} sticks out of {plate.slot}"
            if not own and meet(around(box), edges(plate)):
                yield f"{box.slot} stands in {plate.slot}"
    for plate in scene.plates:
        for other in scene.plates:
            if plate.slot < other.slot and meet(edges(plate), edges(other)):
                nested = plate.slot in enclosing(other.slot, plates) or other.slot in enclosing(plate.slot, plates)
                if not nested:
                    yield f"{plate.slot} lies over {other.slot}"


def enclosing(slot: str, plates: dict[str, Plate]) -> set[str]:
    found = set()
    while slot in plates:
        found.add(slot)
        slot = plates[slot].parent
    return found


def around(box: Box, inset: float = 0.6) -> Rectangle:
    return (
        box.x - box.width / 2 + inset, box.y - box.height / 2 + inset,
        box.x + box.width / 2 - inset, box.y + box.height / 2 - inset,
    )  # fmt: skip


def edges(plate: Plate) -> Rectangle:
    return plate.left, plate.bottom, plate.right, plate.top


def extent(words: Words) -> Rectangle:
    wide = width(words.text, words.size, words.bold)
    left = words.x - {"left": 0.0, "middle": 0.5, "right": 1.0}[words.anchor] * wide
    return left, words.y - 0.4 * words.size, left + wide, words.y + 0.4 * words.size


def lines(wire: Wire) -> list[tuple[float, float, float, float]]:
    return [(*a, *b) for a, b in zip(wire.points, wire.points[1:], strict=False)]


def segments(wire: Wire) -> list[Rectangle]:
    return [(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)) for x1, y1, x2, y2 in lines(wire)]


def meet(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def inside(one: Rectangle, other: Rectangle) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and one[2] <= other[2] and one[3] <= other[3]


def shared(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Length over which two segments lie on each other."""
    for axis in (0, 1):
        across = 1 - axis
        if all(abs(s[across] - one[across]) < 0.5 and abs(s[2 + across] - one[across]) < 0.5 for s in (one, other)):
            low, high = sorted((one[axis], one[2 + axis])), sorted((other[axis], other[2 + axis]))
            return min(low[1], high[1]) - max(low[0], high[0])
    return 0.0
