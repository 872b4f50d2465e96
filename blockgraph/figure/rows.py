"""Rows: which item stands above which, within the bottoms and tops of their clusters."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import networkx as nx

from blockgraph.figure.flat import Cluster
from blockgraph.figure.picture import Item, Link

Edge = tuple[str, str]


def ordered(items: Mapping[str, Item], links: Iterable[Link], sides: Mapping[str, str]) -> "nx.DiGraph[str]":
    """Which item stands below which."""
    below: nx.DiGraph[str] = nx.DiGraph()
    below.add_nodes_from(slot for slot in items if slot not in sides)
    below.add_edges_from(_flow(links, sides))
    if not nx.is_directed_acyclic_graph(below):
        raise nx.NetworkXUnfeasible("the pictures order their nodes differently")
    return below


def _flow(links: Iterable[Link], sides: Mapping[str, str]) -> list[Edge]:
    return [(e.tail, e.head) for e in links if not e.tied and e.tail not in sides and e.head not in sides]


def convex(
    items: Mapping[str, Item], clusters: Mapping[str, Cluster], links: Sequence[Link], sides: Mapping[str, str],
    order: "nx.DiGraph[str]",
) -> tuple[dict[str, Cluster], tuple[str, ...]]:  # fmt: skip
    """The clusters that can be framed: no path leaves one and comes back."""
    kept: dict[str, Cluster] = {}
    for slot, cluster in clusters.items():
        members = {s: replace(i, cluster=standing(i.cluster, clusters, {**kept, slot: cluster}))
                   for s, i in items.items()}  # fmt: skip
        trial = {**kept, slot: replace(cluster, parent=standing(cluster.parent, clusters, kept))}
        if nx.is_directed_acyclic_graph(bounded(order, members, trial, links, sides)):
            kept[slot] = cluster
    left_out = tuple(
        f"no frame round {clusters[slot].title}: a path leaves it and comes back"
        for slot in clusters
        if slot not in kept and any(i.cluster == slot for i in items.values())
    )
    return {slot: cluster for slot, cluster in kept.items() if _used(slot, clusters, items)}, left_out


def _used(slot: str, clusters: Mapping[str, Cluster], items: Mapping[str, Item]) -> bool:
    return any(slot == inner or slot in _parents(inner, clusters) for inner in {i.cluster for i in items.values()})


def _parents(slot: str, clusters: Mapping[str, Cluster]) -> Iterator[str]:
    while slot:
        yield slot
        slot = clusters[slot].parent


def standing(slot: str, clusters: Mapping[str, Cluster], kept: Mapping[str, Cluster]) -> str:
    """The innermost framed cluster round a place."""
    return next((s for s in _parents(slot, clusters) if s in kept), "")


def bounded(
    order: "nx.DiGraph[str]", items: Mapping[str, Item], clusters: Mapping[str, Cluster], links: Iterable[Link],
    sides: Mapping[str, str],
) -> "nx.DiGraph[str]":  # fmt: skip
    """The order with a bottom and a top for each cluster, below and above all that it holds."""
    bounded = order.copy()
    for slot, cluster in clusters.items():
        bounded.add_edge(_bottom(slot), _top(slot))
        if cluster.parent:
            bounded.add_edges_from([(_bottom(cluster.parent), _bottom(slot)), (_top(slot), _top(cluster.parent))])
    for slot, item in items.items():
        if item.cluster and slot not in sides:
            bounded.add_edges_from([(_bottom(item.cluster), slot), (slot, _top(item.cluster))])
    for tail, head in _flow(links, sides):
        left, entered = _parents(items[tail].cluster, clusters), [*_parents(items[head].cluster, clusters)]
        out = [*_parents(items[tail].cluster, clusters)]
        steps = [_top(s) for s in left if s not in entered] + [_bottom(s) for s in reversed(entered) if s not in out]
        path = [tail, *steps, head]
        bounded.add_edges_from(itertools.pairwise(path))
    return bounded


def _bottom(cluster: str) -> str:
    return f"{cluster}\n0"  # no slot holds a line break


def _top(cluster: str) -> str:
    return f"{cluster}\n1"


def numbered(
    order: "nx.DiGraph[str]", items: Mapping[str, Item], clusters: Mapping[str, Cluster]
) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """Rows by longest path; outputs share the last one, and inputs the first."""
    sequence = list(nx.lexicographical_topological_sort(order))
    rows: dict[str, int] = {}
    for name in sequence:
        rows[name] = max((rows[before] + 1 for before in order.predecessors(name)), default=0)
    last = max(rows.values())
    for name in reversed(sequence):
        if name in items and items[name].kind == "output":
            rows[name] = last
        elif name in items and items[name].kind != "input":
            rows[name] = _beside_its_like(name, rows, order, items)
    used = {row: index for index, row in enumerate(sorted(set(rows.values())))}
    rows = {name: used[row] for name, row in rows.items()}
    spans = {slot: (rows[_bottom(slot)], rows[_top(slot)]) for slot in clusters}
    return {slot: row for slot, row in rows.items() if slot in items}, spans


def _beside_its_like(name: str, rows: Mapping[str, int], order: "nx.DiGraph[str]", items: Mapping[str, Item]) -> int:
    """The row of a node that could stand higher: that of a node of its kind, such as the other RoPE, or its own.

    A node that reads nothing stands right below the first that reads it.
    """
    row, bound = rows[name], min((rows[after] for after in order.successors(name)), default=rows[name] + 1)
    if bound <= row + 1:
        return row
    if not any(before in items for before in order.predecessors(name)):
        return bound - 1
    alike = {rows[s] for s, item in items.items() if s != name and s in rows and item.kind == items[name].kind}
    return next((candidate for candidate in range(row, bound) if candidate in alike), row)
