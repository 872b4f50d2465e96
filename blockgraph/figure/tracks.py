"""Tracks in the corridors between rows, and the heights that rows and corridors get from them."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx

from blockgraph.figure.approach import Token
from blockgraph.figure.frame import Frame
from blockgraph.figure.picture import Picture
from blockgraph.figure.route import Height, InCorridor, InRow, Route, Touch
from blockgraph.figure.style import HEIGHT, LOOKS, TALL, Shape, edge_of

TRACK, CLEAR = 8.0, 6.0  # between tracks, and between the ends of two lines on one
LANDING, SHORT, LIFT, BAND = 9.0, 4.0, 4.0, 9.0  # parts of a corridor: below a box, below none, lowest, text
FRAME_ROW, PLATE_ROW, TITLE_ROW = 6.0, 20.0, 17.0
TEXT_ROW = 15.0

Corridors = Mapping[tuple[int, Token], int]


@dataclass
class Line:
    """What runs level in one corridor: from where to where, and at which x it goes on below and above."""

    left: float
    right: float
    below: set[float] = field(default_factory=set)
    above: set[float] = field(default_factory=set)


@dataclass(frozen=True)
class Heights:
    """Middle and height of every row, and the height of the lowest track of every corridor."""

    middle: tuple[float, ...]
    height: tuple[float, ...]
    floor: tuple[float, ...]
    count: tuple[int, ...]

    @property
    def total(self) -> float:
        """Height of everything."""
        return self.middle[-1] + self.height[-1] / 2

    def band(self, corridor: int) -> float:
        """Middle of the strip for text, above a corridor's tracks."""
        return self.floor[corridor] + TRACK * self.count[corridor] + 1.5


def tracks(routes: Iterable[Route]) -> dict[tuple[int, Token], int]:
    """A track for each line of each corridor, so that no two run over each other."""
    corridors: dict[int, dict[Token, Line]] = {}
    for route in routes:
        points = route.points
        for index, ((x1, h1), (x2, h2)) in enumerate(itertools.pairwise(points)):
            if isinstance(h1, InCorridor) and h1 == h2:
                line = corridors.setdefault(h1.corridor, {}).setdefault(h1.token, Line(x1, x1))
                line.left, line.right = min(line.left, x1, x2), max(line.right, x1, x2)
                _note(line, x1, points[index - 1][1], h1)
                _note(line, x2, points[index + 2][1], h1)
    return {(c, token): track for c, lines in corridors.items() for token, track in _packed(lines).items()}


def _note(line: Line, x: float, towards: Height, here: InCorridor) -> None:
    """Whether a line goes on below or above at its end."""
    if isinstance(towards, Touch):
        (line.below if towards.above else line.above).add(x)
    elif isinstance(towards, InRow):
        (line.below if towards.row <= here.corridor else line.above).add(x)
    elif towards.corridor != here.corridor:
        (line.below if towards.corridor < here.corridor else line.above).add(x)


def _packed(lines: Mapping[Token, Line]) -> dict[Token, int]:
    """Tracks from below: first whatever must be lower because it comes from where another one goes up."""
    order: nx.DiGraph[Token] = nx.DiGraph()
    leftmost = sorted(lines, key=lambda token: (lines[token].left, token))
    order.add_nodes_from(leftmost)
    for low, one in lines.items():
        order.add_edges_from(
            (low, high) for high, other in lines.items() if low != high and _meet(one.below, other.above)
        )
    while not nx.is_directed_acyclic_graph(order):  # two values that change places have to cross
        first, second, *_ = nx.find_cycle(order)[0]
        order.remove_edge(first, second)
    taken: dict[Token, int] = {}
    for token in nx.topological_sort(order):
        least = max((taken[before] + 1 for before in order.predecessors(token)), default=0)
        crossed = {taken[t] for t in taken if _overlap(lines[t], lines[token])}
        taken[token] = next(track for track in range(least, len(lines) + least + 1) if track not in crossed)
    return taken


def _meet(one: set[float], other: set[float]) -> bool:
    return any(abs(x - y) < CLEAR / 2 for x in one for y in other)


def _overlap(one: Line, other: Line) -> bool:
    return one.left < other.right + CLEAR and other.left < one.right + CLEAR


def heights(frame: Frame, pictures: Sequence[Picture], drawn: Sequence[tuple[list[Route], Corridors]]) -> Heights:
    """Heights that suit every picture of the frame, from the bottom upward."""
    tall = any(item.sub for picture in pictures for item in picture.items.values())
    rows = _row_heights(frame, TALL if tall else HEIGHT)
    count = [0] * frame.height
    text = [False] * frame.height
    for routes, used in drawn:
        for (corridor, _), track in used.items():
            count[corridor] = max(count[corridor], track + 1)
        for route in routes:
            if route.text_at:
                text[route.text_at[0]] = True
    landing = {frame.rows[slot] for slot in frame.items}
    middle, floor, y = [], [], 0.0
    for row in range(frame.height):
        middle.append(y + rows[row] / 2)
        y += rows[row]
        floor.append(y + LIFT + 2)
        lines = TRACK * count[row] + (BAND if text[row] else 0)
        y += LIFT + lines + (LANDING if row + 1 in landing else SHORT)
    return Heights(tuple(middle), tuple(rows), tuple(floor), tuple(count))


def _row_heights(frame: Frame, box: float) -> list[float]:
    rows = [0.0] * frame.height
    for slot, row in frame.rows.items():
        shape = LOOKS[frame.items[slot].kind].shape
        rows[row] = max(rows[row], {"circle": 20.0, "text": TEXT_ROW}.get(shape, box))
    for slot, (low, high) in frame.spans.items():
        rows[low] = max(rows[low], PLATE_ROW if frame.clusters[slot].repeat else FRAME_ROW)
        rows[high] = max(rows[high], TITLE_ROW if frame.clusters[slot].title else FRAME_ROW)
    return rows


def settled(
    route: Route, used: Corridors, levels: Heights, boxes: Mapping[str, tuple[float, float, float, float, Shape]]
) -> list[tuple[float, float]]:
    """A route's bends as points; `boxes` gives each item's middle, size and shape."""

    def y(x: float, height: Height) -> float:
        if isinstance(height, InRow):
            return levels.middle[height.row] + height.dy
        if isinstance(height, InCorridor):
            return levels.floor[height.corridor] + TRACK * used[height.corridor, height.token]
        at, middle, wide, high, shape = boxes[height.slot]
        low, top = edge_of(shape, wide, high, x - at)
        return middle + (top if height.above else low)

    points = [(x, y(x, height)) for x, height in route.points]
    return _straightened(points)


def _straightened(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points at which the line turns, and its two ends."""
    kept = points[:1]
    for index, point in enumerate(points[1:-1], 1):
        before, after = kept[-1], points[index + 1]
        across = abs(before[0] - point[0]) < 0.01 and abs(point[0] - after[0]) < 0.01
        along = abs(before[1] - point[1]) < 0.01 and abs(point[1] - after[1]) < 0.01
        if point != before and not across and not along:
            kept.append(point)
    return [*kept, points[-1]]
