"""Edits applied to the text of a spec, step by step, in every block that it holds."""

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from pathlib import Path

from blockgraph.edits.draft import Around, Draft
from blockgraph.edits.file import Action, Edit, edit_of, words
from blockgraph.edits.layout import Keys, Layout, flowed, quoted
from blockgraph.edits.moving import JOIN, held, relocated
from blockgraph.edits.places import Edge, Finder, Lacking, Spot, is_one_of
from blockgraph.errors import Problem, Problems, SpecError
from blockgraph.graph import Graph
from blockgraph.library import parts, shown
from blockgraph.link import Linker
from blockgraph.names import unique
from blockgraph.syntax import Mapping, Scalar, parse


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


def applied(text: str, edit: Edit, around: Around, name: str) -> tuple[str, list[str]]:
    """The text of a spec with an edit in every block that it holds, and what was done; `name` stands in messages.

    Raises `SpecError` at the edit's words where the base lacks a place, or has all that the edit would bring.
    """
    outcome = Outcome(name)
    layout = Layout(text)
    for where, known in _blocks(text, around):
        layout = _in_block(layout, where, known, edit, around, outcome)
    layout = _in_slots(layout, text, edit, around, outcome)
    _refuse(edit, outcome)
    return _headed(layout, edit).text, outcome.done + outcome.there


def _blocks(text: str, around: Around) -> Iterator[tuple[Keys, Table[str, int]]]:
    """Where the blocks of a text stand, each with the dims that it knows from around it."""
    problems = Problems()
    tree = parse(text, around.file, problems)
    if "model" not in tree.items:
        problems.stop_if_any()
        yield (), {}
        return
    graph = Linker(around.ops, around.library, problems).link(tree, around.folder)
    problems.stop_if_any()
    assert graph is not None
    known = {name: size.known for name, size in graph.dims.sizes.items() if size.known is not None}
    blocks = tree.items.get("blocks")
    for key in blocks.items if isinstance(blocks, Mapping) else ():
        yield ("blocks", key), known


def _in_block(
    layout: Layout, where: Keys, known: Table[str, int], edit: Edit, around: Around, outcome: Outcome
) -> Layout:
    draft = Draft.of(layout, where, around, known)
    about = f"{where[-1]}: " if where else ""
    for number, action in enumerate(edit.actions):
        try:
            step = _Step(draft, action, Finder(draft.graph, edit.places), about, outcome)
            draft = getattr(step, action.verb)()
            outcome.found.add(number)
        except Lacking as lacking:
            outcome.lacking.setdefault(number, (where[-1] if where else draft.graph.name, lacking))
        except SpecError as error:
            first = error.problems[0]
            told = f"{edit.name} does not fit {outcome.base}: {first.message}"
            raise SpecError([Problem(told, action.place, first.hint)]) from None
    return draft.layout


def _in_slots(layout: Layout, text: str, edit: Edit, around: Around, outcome: Outcome) -> Layout:
    """With the edit in each block that a slot names and that stands in a file of its own, whose text moves inside."""
    tree = parse(text, around.file)
    slots, blocks = tree.items.get("slots"), tree.items.get("blocks")
    names = slots.items if isinstance(slots, Mapping) else {}
    inside = set(blocks.items) if isinstance(blocks, Mapping) else set()
    moved: dict[str, str] = {}
    for slot, block in names.items():
        if isinstance(block, Scalar) and block.raw not in inside:
            if block.raw not in moved:
                layout, moved[block.raw] = _taken_in(layout, block, edit, around, outcome, {*names, *inside})
                inside.add(moved[block.raw])
            layout = layout.replaced(("slots", slot), quoted(moved[block.raw], "k: {{v: {}}}"))
            outcome.found |= set(range(len(edit.actions)))
    return layout


def _taken_in(
    layout: Layout, block: Scalar, edit: Edit, around: Around, outcome: Outcome, taken: set[str]
) -> tuple[Layout, str]:
    """With the edited text of a block inside, and its name there; a text in braces names the file and the edit."""
    text, folder, done = _edited_block(block, edit, around)
    layout_of = Layout(text)
    name = unique(layout_of.pairs(())["block"][1].value, taken)
    found = held(layout, name, relocated(renamed(text, name), folder, around.folder))
    outcome.done += [f"{block.raw}: {told}" for told in done]
    if found is None:
        return layout, f"{block.raw}{JOIN}{around.library.word_for(edit.path, around.folder)}"
    return found, name


def _edited_block(block: Scalar, edit: Edit, around: Around) -> tuple[str, Path, list[str]]:
    """The text of a block's file with the edits that are named behind it, and with this one; what this one did."""
    base, *before = parts(block.raw)
    problems, library = Problems(), around.library
    path = library.find(base, around.folder, block.place, problems)
    files = [library.find_edit(word, around.folder, block.place, problems) for word in before]
    problems.stop_if_any()
    assert path is not None
    edits = [*(edit_of(file, around.ops) for file in files if file is not None), edit]
    library.open(path, problems)  # so that a text at fault is told as it lies there
    problems.stop_if_any()
    text, names, done = path.read_text(encoding="utf-8").removeprefix("\ufeff"), list[str](), list[str]()
    for one in edits:
        inner = Around(around.ops, library, path.parent, shown_name(shown(path), names))
        text, done = applied(text, one, inner, inner.file)
        names.append(one.name)
    return text, path.parent, done


def _refuse(edit: Edit, outcome: Outcome) -> None:
    """Raise where a place is in no block, or nothing was left to do."""
    problems = Problems()
    for number, (block, lacking) in outcome.lacking.items():
        action = edit.actions[number]
        if number in outcome.found or action.step.optional:
            continue
        word = next((word for word in action.targets if word.raw == lacking.place), action.targets[0])
        asked = f"'{word.raw}'" if word.raw == lacking.place else f"'{word.raw}', because it has no '{lacking.place}'"
        told = f"{outcome.base}: the block {block} has no {asked}: {lacking.looked}"
        problems.add(told, word.place)
    if not problems.found and not outcome.done:
        first = edit.actions[0]
        there = ", ".join(outcome.there) or "it holds no block that an edit can go to"
        problems.add(f"{outcome.base}: nothing to do: {there}", first.place)
    problems.stop_if_any()


@dataclass
class _Step:
    """One step in one block."""

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


def _headed(layout: Layout, edit: Edit) -> Layout:
    """With name, title and paper of the edit behind those of the base."""
    pairs = layout.pairs(())
    kind = "model" if "model" in pairs else "block"
    name = f"{pairs[kind][1].value}_{edit.name}"
    layout = layout.replaced((kind,), name)
    within = "k: [{}]" if layout.flows(()) else "k: {}"
    for key, new in (("title", edit.title), ("paper", edit.paper)):
        old = pairs[key][1].value if key in pairs else ""
        both = (JOIN if key == "title" else "; ").join(filter(None, dict.fromkeys((old or name, new))))
        if key in pairs:
            layout = layout.replaced((key,), quoted(both, within))
        elif new and key == "paper":
            layout = layout.keyed(("paper",), quoted(new, within), (kind, "title"))
        elif new:
            layout = layout.keyed(("title",), quoted(both, within), (kind,))
    return layout


def renamed(text: str, name: str) -> str:
    """A spec's text under another name."""
    layout = Layout(text)
    return layout.replaced(("model" if "model" in layout.pairs(()) else "block",), name).text


def _group(path: str) -> str:
    return path.rpartition(".")[0]


def _ranks(graph: Graph) -> dict[str, tuple[int, int]]:
    """Where every node stands in the text."""
    return {path: (node.place.line, node.place.column) for path, node in graph.nodes.items()}


def shown_name(path: Path, edits: Iterable[str]) -> str:
    """A base and its edits, as errors call the text that they make."""
    return JOIN.join((str(path), *edits))
