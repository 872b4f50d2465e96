"""Pictures with too much in them, told in fewer boxes: a box for each group, or one for everything."""

from collections import Counter
from dataclasses import replace

import networkx as nx

from blockgraph.figure.picture import Item, Link, Picture

MAX_ITEMS = 600  # more cannot be read, and would take long to lay out


def readable(drawn: Picture) -> Picture:
    """The picture itself, or one of its groups, or a single box, whichever is the first that can be read."""
    if len(drawn.items) <= MAX_ITEMS:
        return drawn
    groups = _groups(drawn)
    order = nx.DiGraph((link.tail, link.head) for link in groups.links if not link.tied)
    fits = len(groups.items) <= MAX_ITEMS and nx.is_directed_acyclic_graph(order)
    return groups if fits else _whole(drawn)


def _groups(drawn: Picture) -> Picture:
    """Every outermost group as one box."""
    homes = {slot: _outermost(drawn, item.cluster) or slot for slot, item in drawn.items.items()}
    sizes = Counter(home for slot, home in homes.items() if home != slot)
    items = {slot: item for slot, item in drawn.items.items() if homes[slot] == slot}
    items |= {home: _box(home, drawn.clusters[home].title, number) for home, number in sizes.items()}
    links = (
        replace(link, tail=homes[link.tail], head=homes[link.head], into=f"{link.head} {link.into}", weight=False)
        for link in drawn.links
    )
    between = {(link.tail, link.port, link.head): link for link in links if link.tail != link.head}
    note = f"more than {MAX_ITEMS} nodes, so each group is one box"
    return Picture(items, tuple(between.values()), {}, (*drawn.notes, note))


def _whole(drawn: Picture) -> Picture:
    """Inputs, one box with the number of nodes, outputs."""
    ends = {slot: item for slot, item in drawn.items.items() if item.kind in ("input", "output")}
    inputs = [slot for slot, item in ends.items() if item.kind == "input"]
    outputs = [slot for slot, item in ends.items() if item.kind == "output"]
    links = [Link(slot, "", "all", slot, (0, index)) for index, slot in enumerate(inputs)]
    links += [Link("all", slot, slot, "", (index, 0)) for index, slot in enumerate(outputs)]
    box = _box("all", "All of it", len(drawn.items) - len(ends))
    note = f"more than {MAX_ITEMS} nodes, so they are drawn as one box"
    return Picture({**ends, "all": box}, tuple(links), {}, (*drawn.notes, note))


def _outermost(drawn: Picture, cluster: str) -> str:
    while cluster and drawn.clusters[cluster].parent:
        cluster = drawn.clusters[cluster].parent
    return cluster


def _box(slot: str, title: str, number: int) -> Item:
    return Item(slot, "stack", title, about=f"{slot}: {number} nodes", sub=f"{number:,} nodes")
