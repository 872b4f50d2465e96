"""One step of an edit in one block: nodes put on edges, removed and replaced, fields set, weights wrapped."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from blockgraph.edits.draft import Draft
from blockgraph.edits.file import Action, words
from blockgraph.edits.layout import flowed
from blockgraph.edits.places import Edge, Finder, Lacking, Spot, is_one_of
from blockgraph.errors import Problem, SpecError
from blockgraph.graph import Graph


@dataclass
class Outcome:
    """What an edit has done in a base, and what it found done, as sentences; `lacking` are steps without a place."""

    base: str
    done: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    found: set[int] = field(default_factory=set)
    lacking: dict[int, tuple[str, Lacking]] = field(default_factory=dict)


@dataclass(frozen=True)
class Put:
    """A node that is to be put on edges of one value, in the name of a spot."""

    spot: Spot
    edges: tuple[Edge, ...]


@dataclass
class Verbs:
    """The verbs that the step of an edit may be, in one block; each gives the text with it."""

    draft: Draft
    action: Action
    finder: Finder
    about: str
    outcome: Outcome

    def spots(self) -> list[Spot]:
        """The spots of the step's places, in the order in which these are written."""
        return [spot for word in self.action.targets for spot in self.finder.spots(word.raw)]

    def put(self) -> Draft:
        """A node on the edges of each spot."""
        puts = [put for spot in self.spots() if not self.needless(put := Put(spot, self.edges(spot)))]
        draft, places = self.draft, self.places(puts)
        for put, beside in zip(puts, places, strict=True):
            name = self.action.step.name.replace("{place}", put.spot.place)
            name = name.replace("{node}", put.spot.node.rpartition(".")[2])
            scope = draft.scope_of(beside[1])
            name = draft.free(name, scope)
            draft = draft.put(name, self.action.node, put.edges, beside)
            self.done(f"{scope.within(name)} ({self.action.op}) put {beside[0]} {beside[1]}")
        return draft

    def edges(self, spot: Spot) -> tuple[Edge, ...]:
        """The edges that a node is put on: those behind the spot, or the one in front of it."""
        if "after" in self.action.text.items:
            return spot.out if spot.out is not None else tuple(self.finder.edges(spot.value))
        if spot.into is not None:
            return (spot.into,)
        data = self.draft.graph.nodes[spot.node].data()
        if len(data) != 1:
            raise self.refuse(f"{spot.node} reads {len(data)} values; a place found by what it `reads` says which")
        return tuple(Edge(ref, spot.node, port) for port, ref in data.items())

    def needless(self, put: Put) -> bool:
        """Whether what a step brings stands beside its edges already."""
        near = [put.spot.node, *put.spot.passed, *(edge.reader for edge in put.edges)]
        near += [edge.value.owner for edge in put.edges]
        kinds = words(self.action.step.unless) or [self.action.op]
        nodes = self.draft.graph.nodes
        there = next((nodes[path] for path in near if path in nodes and is_one_of(nodes[path], kinds)), None)
        if there is not None:
            self.there(f"{there.path} ({there.op.name}) stands there already")
        return there is not None

    def places(self, puts: list[Put]) -> list[tuple[str, str]]:
        """Beside which node each line stands.

        Behind the one that gives the value, or in front of the one that reads it; several of one group stand together
        in front of the first that reads one of them.
        """
        found = []
        for put in puts:
            group = _group(put.edges[0].value.owner)
            others = [other for other in puts if _group(other.edges[0].value.owner) == group]
            if put.edges[0].value.kind == "input":
                found.append(("before", put.spot.node))
            elif len(others) > 1 or "before" in self.action.text.items:
                found.append(self.together(others, group) or ("after", put.edges[0].value.owner))
            else:
                found.append(("after", put.edges[0].value.owner))
        return found

    def together(self, puts: list[Put], group: str) -> tuple[str, str] | None:
        """In front of the first node that reads one of some values, if it stands behind all that give them."""
        nodes, rank = self.draft.graph.nodes, _ranks(self.draft.graph)
        readers = {edge.reader for put in puts for edge in put.edges if edge.reader in nodes}
        if not readers or len({edge.reader for put in puts for edge in put.edges}) > len(readers):
            return None
        first = min(readers, key=lambda path: rank[path])
        last = max(rank[put.edges[0].value.owner] for put in puts)
        return ("before", first) if _group(first) == group and rank[first] > last else None

    def remove(self) -> Draft:
        """Nodes passed by."""
        draft = self.draft
        for spot in self.spots():
            node = draft.graph.nodes[spot.node]
            if len(node.data()) != 1 or len(node.outputs) != 1:
                raise self.refuse(f"{spot.node} ({node.op.name}) does not give one value for one, so it stays")
            draft = draft.bypass(spot.node, spot.out)
            gone = spot.node not in draft.graph.nodes
            self.done(f"{spot.node} ({node.op.name}) {'removed' if gone else 'passed by'}")
        return draft

    def replace(self) -> Draft:
        """Other nodes in the place of some."""
        draft = self.draft
        for path, name in self.named():
            if name == self.action.op:
                self.there(f"{path} ({name}) stands there already")
            else:
                draft = draft.replaced(path, self.action.node)
                self.done(f"{path}: {name} replaced by {self.action.op}")
        return draft

    def set(self) -> Draft:
        """Fields with other values."""
        draft, fields = self.draft, {}
        for path, name in self.named():
            for key, value in self.action.node.items.items():
                keys, text = (*draft.keys(path), key), flowed(value)
                if draft.layout.has(keys) and draft.layout.written(keys) == text:
                    self.there(f"{path} ({name}) has {key}: {text} already")
                else:
                    fields[path, key] = text
                    self.done(f"{path} ({name}): {key}: {text}")
        return draft.keyed(fields)

    def wrap(self) -> Draft:
        """Weights through an op."""
        draft, fields = self.draft, {}
        for path, name in self.named():
            if "weight" not in draft.graph.nodes[path].op.weights:
                raise self.refuse(f"{path} ({name}) has no weight")
            if draft.layout.has((*draft.keys(path), "weight")):
                self.there(f"{path} ({name}) has its weight from another node already")
            else:
                fields[path, "weight"] = flowed(self.action.node)
                self.done(f"{path} ({name}): weight through {self.action.op}")
        return draft.keyed(fields)

    def named(self) -> Iterable[tuple[str, str]]:
        """Each node of the places once, with its op."""
        return {spot.node: self.draft.graph.nodes[spot.node].op.name for spot in self.spots()}.items()

    def done(self, told: str) -> None:
        """Note what was done."""
        self.outcome.done.append(f"{self.about}{told}")

    def there(self, told: str) -> None:
        """Note what was there."""
        self.outcome.there.append(f"{self.about}{told}")

    def refuse(self, message: str) -> SpecError:
        """The error of a step that cannot be taken."""
        return SpecError([Problem(message, self.action.place)])


def _group(path: str) -> str:
    return path.rpartition(".")[0]


def _ranks(graph: Graph) -> dict[str, tuple[int, int]]:
    """Where every node stands in the text."""
    return {path: (node.place.line, node.place.column) for path, node in graph.nodes.items()}
