"""The common frame of several pictures: one row for each slot, so that the same node stands at the same place."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import networkx as nx

from blockgraph.figure.flat import Cluster
from blockgraph.figure.picture import Item, Link, Picture
from blockgraph.figure.rows import bounded, convex, numbered, ordered, standing

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Frame:
    """The union of pictures: every slot with its row, counted from the input upward, and the finest links.

    A link that another picture runs through further nodes has that path in `via`: baseline's `qkv -> rope_q` goes
    through the place of `ln_q`. `where` holds the pictures that run along a link, and `gone` what the first picture
    shows as removed. A cluster spans from its bottom row to its top row, which hold nothing else of it.
    """

    items: Mapping[str, Item]
    links: tuple[Link, ...]
    clusters: Mapping[str, Cluster]
    rows: Mapping[str, int]
    spans: Mapping[str, tuple[int, int]]
    sides: Mapping[str, str]
    via: Mapping[Key, tuple[Key, ...]]
    where: Mapping[Key, frozenset[int]]
    gone: frozenset[Key] = frozenset()
    notes: tuple[str, ...] = ()

    def around(self, slot: str) -> tuple[str, ...]:
        """Clusters round an item or a cluster, outermost first."""
        found: list[str] = []
        above = self.items[slot].cluster if slot in self.items else self.clusters[slot].parent
        while above:
            found.insert(0, above)
            above = self.clusters[above].parent
        return tuple(found)

    def finest(self, key: Key) -> tuple[Key, ...]:
        """The links of the frame that a link of a picture runs along."""
        return tuple(_fine(key, self.via))

    @cached_property
    def height(self) -> int:
        """Number of rows."""
        return 1 + max([*self.rows.values(), *(top for _, top in self.spans.values())])


def frame(pictures: Sequence[Picture]) -> Frame:
    """The frame that all pictures fit into; raises `nx.NetworkXUnfeasible` when they order their nodes differently."""
    items = _widest(item for picture in pictures for item in picture.items.values())
    clusters = {slot: cluster for picture in reversed(pictures) for slot, cluster in picture.clusters.items()}
    via = {key: path for picture in pictures for key, path in _detours(picture, pictures)}
    via = {key: path for key, path in via.items() if not _beside(key, path, pictures)}
    links = _finest(pictures, via)
    sides = _sides(items, links)
    order = ordered(items, links, sides)
    kept, notes = convex(items, clusters, links, sides, order)
    items = {slot: replace(item, cluster=standing(item.cluster, clusters, kept)) for slot, item in items.items()}
    kept = {slot: replace(c, parent=standing(c.parent, clusters, kept)) for slot, c in kept.items()}
    order = bounded(order, items, kept, links, sides)
    rows, spans = numbered(order, items, kept)
    rows |= {slot: rows[_owner(slot, sides)] for slot in sides}
    where = _where(pictures, via)
    gone = frozenset(link.key for link in pictures[0].links if link.status == "removed")
    return Frame(items, links, kept, rows, spans, sides, via, where, gone, notes)


def _widest(items: Iterable[Item]) -> dict[str, Item]:
    widest: dict[str, Item] = {}
    for item in items:
        if item.slot not in widest or item.width > widest[item.slot].width:
            widest[item.slot] = item
    return widest


def _detours(picture: Picture, pictures: Sequence[Picture]) -> Iterator[tuple[Key, tuple[Key, ...]]]:
    """Links that another picture runs through nodes that this one lacks, with that path."""
    for other in pictures:
        if other is picture:
            continue
        after: dict[str, list[Link]] = {}
        for link in other.links:
            if link.status != "removed":
                after.setdefault(link.tail, []).append(link)
        for link in picture.links:
            paths = [path for first in after.get(link.tail, ()) if first.port == link.port
                     for path in _paths(first, link, after, picture)]  # fmt: skip
            if paths:
                yield link.key, max(paths, key=len)


def _paths(step: Link, link: Link, after: Mapping[str, list[Link]], picture: Picture) -> Iterator[tuple[Key, ...]]:
    """Paths from `step` to the end of `link` through slots that the picture does not have."""
    pending: list[tuple[Link, tuple[Key, ...]]] = [(step, ())]
    while pending:
        step, before = pending.pop()
        path = (*before, step.key)
        if before and (step.head, step.into) == (link.head, link.into):
            yield path
        elif step.head not in picture.items:
            pending += [(following, path) for following in after.get(step.head, ())]


def _beside(key: Key, path: Sequence[Key], pictures: Sequence[Picture]) -> bool:
    """Whether some picture shows a link beside the nodes through which another one takes it."""
    inside = {step[2] for step in path[:-1]}
    return any(inside & set(p.items) and any(link.key == key for link in p.links) for p in pictures)


def _finest(pictures: Sequence[Picture], via: Mapping[Key, object]) -> tuple[Link, ...]:
    links: dict[Key, Link] = {}
    for picture in pictures:
        for link in picture.links:
            if link.key not in via and len(link.text) >= len(links.get(link.key, link).text):
                links[link.key] = link
    return tuple(links.values())


def _where(pictures: Sequence[Picture], via: Mapping[Key, tuple[Key, ...]]) -> dict[Key, frozenset[int]]:
    where: dict[Key, frozenset[int]] = {}
    for index, picture in enumerate(pictures):
        for link in picture.links:
            for key in _fine(link.key, via):
                where[key] = where.get(key, frozenset()) | {index}
    return where


def _fine(key: Key, via: Mapping[Key, tuple[Key, ...]]) -> Iterator[Key]:
    """A link's path with every step of it taken apart again."""
    if key not in via:
        yield key
    for step in via.get(key, ()):
        yield from _fine(step, via)


def _sides(items: Mapping[str, Item], links: Iterable[Link]) -> dict[str, str]:
    """Items that no input reaches, weights above all, with the item beside which they stand."""
    after: nx.DiGraph[str] = nx.DiGraph()
    after.add_nodes_from(items)
    after.add_edges_from((link.tail, link.head) for link in links if not link.tied)
    fed = {slot for slot, item in items.items() if item.kind == "input"}
    fed |= set().union(*(nx.descendants(after, slot) for slot in sorted(fed)))
    sides: dict[str, str] = {}
    for link in links:
        if link.tail not in fed and link.tail not in sides and not link.tied and _room(link, items, sides):
            sides[link.tail] = link.head
    return {slot: owner for slot, owner in sides.items() if _reaches(slot, sides, fed)}


def _room(link: Link, items: Mapping[str, Item], sides: Mapping[str, str]) -> bool:
    """Whether there is none beside the head yet; a weight stands in its owner's cluster."""
    alike = items[link.tail].cluster == items[link.head].cluster
    return alike and link.head not in sides.values() and items[link.head].kind != "output"


def _reaches(slot: str, sides: Mapping[str, str], fed: set[str]) -> bool:
    seen = {slot}
    while slot in sides and sides[slot] not in seen:
        slot = sides[slot]
        seen.add(slot)
    return slot in fed


def _owner(slot: str, sides: Mapping[str, str]) -> str:
    while slot in sides:
        slot = sides[slot]
    return slot
