"""Two graphs in one picture: what stayed, and what a comparison says of the rest."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from blockgraph.compare import Diff
from blockgraph.figure.flat import Cluster
from blockgraph.figure.picture import PLAIN, THROUGH, Detail, Item, Link, Picture, picture
from blockgraph.figure.text import clean

MOVED = "\n"  # ends the slot of a node of the first graph where the second has another of that path


def overlay(diff: Diff, detail: Detail = PLAIN) -> Picture:
    """The second graph with its changes marked, and beside it what only the first one had."""
    before, after = _renamed(diff, detail), _marked(diff, detail)
    removed = {slot: replace(i, status="removed") for slot, i in before.items.items() if slot not in after.items}
    present = {link.key for link in after.links}
    lost = [
        replace(link, status="removed") for link in before.links
        if link.key not in present and (link.tail in removed or link.head in removed or link.head in diff.rewired)
    ]  # fmt: skip
    items = {**after.items, **removed}
    return Picture(items, (*after.links, *lost), {**before.clusters, **after.clusters}, after.notes)


def panels(diff: Diff, detail: Detail = PLAIN) -> tuple[Picture, Picture]:
    """Both graphs, what only the first has and what is new in the second marked."""
    before, after = _renamed(diff, detail), _marked(diff, detail)
    stayed = {*diff.match.values()}
    items = {s: i if s in stayed or ":" in s else replace(i, status="removed") for s, i in before.items.items()}
    items |= {s: replace(items[s], status="changed") for s in diff.changed if s in items}
    return replace(before, items=items), after


def _marked(diff: Diff, detail: Detail) -> Picture:
    """The second graph, with old and new values in the boxes of what changed."""
    drawn = picture(diff.b, detail)
    items = dict(drawn.items)
    for slot in diff.added:
        if slot in items:
            items[slot] = replace(items[slot], status="added")
    for slot, texts in diff.changed.items():
        if slot in items:
            items[slot] = replace(items[slot], status="changed", sub=clean(texts[0], 36))
    fresh = {f"in:{name}" for name in diff.b.inputs if name not in diff.a.inputs}
    fresh |= {f"out:{name}" for name in diff.b.outputs if name not in diff.a.outputs}
    items |= {slot: replace(items[slot], status="added") for slot in fresh}
    links = tuple(replace(e, status="rewired") if _rewired(diff, e) else e for e in drawn.links)
    return replace(drawn, items=items, links=links)


def _rewired(diff: Diff, link: Link) -> bool:
    """Whether a link is one by which a node reads something else than before."""
    texts = diff.rewired.get(link.head, ())
    return any(text.startswith((f"{link.into} reads", "reads")) for text in texts) and link.tail not in diff.added


def _renamed(diff: Diff, detail: Detail) -> Picture:
    """The first graph, its nodes and clusters under the slots that the second one gives them."""
    drawn = picture(diff.a, detail)
    now = diff.sides[1].entries
    names = {s: diff.match.get(s, s + MOVED if s in now else s) for s in diff.sides[0].entries}
    clusters = _cluster_names(diff, drawn)

    def item(old: Item) -> Item:
        return replace(old, slot=names.get(old.slot, old.slot), cluster=clusters.get(old.cluster, ""))

    def link(old: Link) -> Link:
        port = THROUGH.join(names.get(part, part) for part in old.port.split(THROUGH))
        return replace(old, tail=names.get(old.tail, old.tail), head=names.get(old.head, old.head), port=port)

    items = {(new := item(old)).slot: new for old in drawn.items.values()}
    around = {
        clusters[slot]: Cluster(clusters[slot], c.title, clusters.get(c.parent, ""), c.repeat, c.note)
        for slot, c in drawn.clusters.items()
    }
    return replace(drawn, items=items, links=tuple(link(old) for old in drawn.links), clusters=around)


def _cluster_names(diff: Diff, drawn: Picture) -> Mapping[str, str]:
    """Clusters by the names of those in which most of their nodes are now."""
    now = diff.sides[1]
    names = {}
    for slot in drawn.clusters:
        inside = (diff.match.get(item.slot) for item in drawn.items.values() if item.cluster == slot)
        homes = Counter(now.entries[new].cluster for new in inside if new)
        homes.pop("", None)
        names[slot] = slot if slot in now.clusters or not homes else homes.most_common(1)[0][0]
    return names
