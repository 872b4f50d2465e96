"""The nodes of two graphs that are one node: by path, else by op, name and neighbours."""

from collections.abc import Iterator, Mapping

import networkx as nx

from blockgraph.figure.flat import Entry, Flat

MAX_UNMATCHED = 200  # nodes on either side for which partners of other names are looked for
SAME_NAME, NEIGHBOUR, ENOUGH = 2, 1, 2  # what speaks for two nodes being one, and how much has to
ROUNDS = 50


def align(first: Flat, second: Flat) -> dict[str, str]:
    """Slots in the second graph for slots in the first."""
    return _acyclic(first, second, _matched(first, second))


def _matched(first: Flat, second: Flat) -> dict[str, str]:
    """Nodes of one path, then those of one op between partners, as many as go together."""
    match = {slot: slot for slot in first.entries if slot in second.entries}
    for _ in range(ROUNDS):
        free = [e for e in first.entries.values() if e.slot not in match]
        taken = set(match.values())
        open_ = [e for e in second.entries.values() if e.slot not in taken]
        if not free or not open_ or max(len(free), len(open_)) > MAX_UNMATCHED:
            break
        found = _partners(first, second, free, open_, match)
        if not found:
            break
        match |= found
    return match


def _partners(
    first: Flat, second: Flat, free: list[Entry], open_: list[Entry], match: Mapping[str, str]
) -> dict[str, str]:
    """The heaviest pairing of nodes without partners, by name and by neighbours that are partners already."""
    near, far = _neighbours(first), _neighbours(second)
    # Numbers, because pairings of one weight are told apart by the nodes' hashes, and those of texts change every time.
    likely: nx.Graph[int] = nx.Graph()
    for number, old in enumerate(free):
        known = {(way, match.get(slot, slot)) for way, slot in near[old.slot] if slot in match or ":" in slot}
        for other, new in enumerate(open_, len(free)):
            shared = len({way for way, slot in known & far[new.slot]})
            weight = SAME_NAME * (old.node.name == new.node.name) + NEIGHBOUR * shared
            if shared and weight >= ENOUGH and old.node.op.name == new.node.op.name:
                likely.add_edge(number, other, weight=weight)
    pairs = sorted(sorted(pair) for pair in nx.max_weight_matching(likely))
    return {free[number].slot: open_[other - len(free)].slot for number, other in pairs}


def _neighbours(graph: Flat) -> dict[str, set[tuple[str, str]]]:
    """For every node the slots it reads and those that read it."""
    near: dict[str, set[tuple[str, str]]] = {slot: set() for slot in graph.entries}
    for entry in graph.entries.values():
        for value in entry.inputs.values():
            near[entry.slot].add(("reads", value.slot))
            if value.slot in near:
                near[value.slot].add(("read by", entry.slot))
    for name, value in graph.outputs.items():
        if value.slot in near:
            near[value.slot].add(("read by", f"out:{name}"))
    return near


def _acyclic(first: Flat, second: Flat, match: dict[str, str]) -> dict[str, str]:
    """The pairs that let both graphs be drawn in one order; a node that changed sides is two nodes."""
    while True:
        kept = {slot: match.get(slot, f"{slot}\n") for slot in first.entries}
        order: nx.DiGraph[str] = nx.DiGraph(_edges(second, {}))
        order.add_edges_from(_edges(first, kept))
        try:
            cycle = nx.find_cycle(order)
        except nx.NetworkXNoCycle:
            return match
        on_cycle = {edge[0] for edge in cycle}
        moved = [old for old, new in match.items() if new in on_cycle]
        loose = max(moved, key=lambda old: _turned(first, second, match, old))
        match = {old: new for old, new in match.items() if old != loose}


def _edges(graph: Flat, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What runs before what, under other names."""
    for entry in graph.entries.values():
        for value in entry.inputs.values():
            if not value.owned:
                yield names.get(value.slot, value.slot), names.get(entry.slot, entry.slot)


def _turned(first: Flat, second: Flat, match: Mapping[str, str], slot: str) -> int:
    """How many of a node's inputs come from elsewhere."""
    old = {match.get(v.slot, v.slot) for v in first.entries[slot].inputs.values()}
    return len(old ^ {v.slot for v in second.entries[match[slot]].inputs.values()})
