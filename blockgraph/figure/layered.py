"""Plain layers, for a part of a graph that is neither a series nor a set of parallel branches."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from blockgraph.figure.lanes import WIRE, Column, Site, text_room
from blockgraph.figure.levels import Hop
from blockgraph.figure.style import GAP

SWEEPS, PULLS, LARGE = 12, 40, 150
STRAIGHT = 8  # how much more a line wants to be straight than boxes to be near


@dataclass
class Block:
    """A vertex, or a line that runs past several rows, as a thing that needs room in those rows."""

    low: int
    high: int
    left: float
    right: float
    order: float
    x: float = 0.0
    near: list["Block"] = field(default_factory=list)
    line: bool = False

    def beside(self, other: "Block") -> bool:
        """Whether both need room in one row."""
        return self.low <= other.high and other.low <= self.high


def layered(site: Site, inner: Sequence[str], hops: Sequence[Hop]) -> Column:
    """Vertices in their rows, ordered so that neighbours are near, none over another, lines on lanes of their own."""
    vertices = {v: Block(*site.rows(v), *site.rooms.get(v, (-WIRE, WIRE)), index) for index, v in enumerate(inner)}
    lines = {hop: block for index, hop in enumerate(hops) if (block := _line(site, hop, index))}
    for hop in hops:
        chain = [vertices.get(hop.tail), lines.get(hop), vertices.get(hop.head)]
        present = [block for block in chain if block]
        for one, other in itertools.pairwise(present):
            one.near.append(other)
            other.near.append(one)
    for hop in hops:
        beside = lines.get(hop) or vertices.get(hop.head) or vertices.get(hop.tail)
        if beside:
            beside.right = max(beside.right, text_room(site.road(hop)))
    blocks = [*vertices.values(), *lines.values()]
    _arrange(blocks)
    column = Column(plain=True)
    column.x = {vertex: block.x for vertex, block in vertices.items()}
    column.spans = [(b.low, b.high, b.x + b.left, b.x + b.right) for b in blocks]
    for hop in hops:
        near = vertices.get(hop.head) or vertices.get(hop.tail)
        lane = lines.get(hop) or near
        column.lanes[hop] = lane.x if lane else 0.0
        column.outward[hop] = 1
    return column


def _line(site: Site, hop: Hop, index: int) -> Block | None:
    low = site.level.rows.get(hop.tail, (0, -1))[1] + 1
    high = site.level.rows.get(hop.head, (low, low))[0] - 1
    return Block(low, high, -WIRE, WIRE, float(index), line=True) if high >= low else None


def _arrange(blocks: list[Block]) -> None:
    """Order by the mean place of neighbours, push apart from left to right, then pull each towards its own."""
    few = len(blocks) <= LARGE
    for _ in range(SWEEPS if few else 2):
        means = [sum(n.order for n in b.near) / len(b.near) if b.near else b.order for b in blocks]
        ranked = sorted(range(len(blocks)), key=lambda i: (0.5 * means[i] + 0.5 * blocks[i].order, i))
        for place, index in enumerate(ranked):
            blocks[index].order = float(place)
    blocks.sort(key=lambda b: b.order)
    for index, block in enumerate(blocks):
        edges = [other.x + other.right for other in blocks[:index] if other.beside(block)]
        block.x = max(edges) + GAP - block.left if edges else 0.0
    for _ in range(PULLS if few else 2):
        _pull(blocks)
    middle = (min(b.x + b.left for b in blocks) + max(b.x + b.right for b in blocks)) / 2
    for block in blocks:
        block.x -= middle


def _pull(blocks: list[Block]) -> None:
    for index, block in enumerate(blocks):
        if not block.near:
            continue
        weights = [STRAIGHT if block.line or near.line else 1 for near in block.near]
        wish = sum(weight * near.x for weight, near in zip(weights, block.near, strict=True)) / sum(weights)
        left = max((o.x + o.right for o in blocks[:index] if o.beside(block)), default=float("-inf"))
        right = min((o.x + o.left for o in blocks[index + 1 :] if o.beside(block)), default=float("inf"))
        block.x = max(left + GAP - block.left, min(wish, right - GAP - block.right))
