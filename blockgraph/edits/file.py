"""Edit files: a change in steps, each a verb with the places it goes to, and the places as patterns over a graph."""

from collections.abc import Iterable
from collections.abc import Mapping as Table
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from blockgraph.errors import Place, Problems, near_miss
from blockgraph.library import shared_places, shown
from blockgraph.names import check_name
from blockgraph.op import Op
from blockgraph.schema import Fields, fill
from blockgraph.syntax import Mapping, Scalar, Sequence, Value, read, scalars

Words = str | list[str]
VERBS = ("put", "remove", "replace", "set", "wrap")
NEEDS = {"replace": "by", "set": "at", "wrap": "weight"}  # what a verb cannot be without
OUTPUTS = "outputs"  # the place behind all nodes


class Pattern(Fields):
    """Nodes by what they are, and by the way that leads from them to other nodes."""

    kind: Words = Field([], alias="is", description="names or roles of the ops that may stand here; any when left out")
    isnt: Words = Field([], description="names or roles of the ops that may not stand here")
    feeds: "Words | Pattern | None" = Field(None, description="what the node's value goes to: places, or a pattern")
    reads: "Words | Pattern | None" = Field(None, description="where the node's value comes from: places, or a pattern")
    through: Words = Field([], description="names or roles of the ops that the way may lead through")


class Step(Fields):
    """One verb, where it goes to, and when it is not needed."""

    put: dict[str, Any] | None = Field(None, description="a node without `in`, put on an edge")
    name: str = Field("", alias="as", description="the node's name; {place} and {node} stand for where it is put")
    after: Words = Field([], description="places behind whose node it is put")
    before: Words = Field([], description="places in front of whose node it is put")
    unless: Words = Field([], description="ops that make it needless where they stand there already; else its own op")
    remove: Words = Field([], description="places whose node is passed by, and deleted when nothing else reads it")
    replace: Words = Field([], description="places whose node becomes another one")
    by: dict[str, Any] | None = Field(None, description="the op and the fields of the node that `replace` puts there")
    set: dict[str, Any] | None = Field(None, description="fields of the nodes at `at`, with their new values")
    at: Words = Field([], description="places whose nodes `set` changes")
    wrap: Words = Field([], description="places whose node's weight goes through another op")
    weight: dict[str, Any] | None = Field(None, description="the op that `wrap` puts on the weight")
    optional: bool = Field(False, description="whether a base may lack the places")


class Header(Fields):
    """The keys of an edit file."""

    edit: str = Field(description="name of the edit")
    title: str = Field(description="what it adds to the title of the base")
    paper: str = Field("", description="where it was published")
    places: dict[str, Any] = Field({}, description="patterns by name, beside those that all edits know")
    steps: list[Any] = Field(description="what is done, in order")


@dataclass(frozen=True)
class Action:
    """A step with its text, which knows where each word stands."""

    step: Step
    text: Mapping

    @property
    def verb(self) -> str:
        """What it does."""
        return next(verb for verb in VERBS if verb in self.text.items)

    @property
    def node(self) -> Mapping:
        """The node that it puts somewhere."""
        node = self.text.items[{"put": "put", "replace": "by", "set": "set", "wrap": "weight"}[self.verb]]
        assert isinstance(node, Mapping)
        return node

    @property
    def op(self) -> str:
        """Name of the op of that node."""
        op = self.node.items.get("op")
        return op.raw if isinstance(op, Scalar) else ""

    @property
    def place(self) -> Place:
        """Where the step stands."""
        return self.text.keys[self.verb]

    @property
    def targets(self) -> list[Scalar]:
        """The words that name its places."""
        keys = ("after", "before") if self.verb == "put" else ("at",) if self.verb == "set" else (self.verb,)
        return [word for key in keys if key in self.text.items for word in scalars(self.text.items[key])]


@dataclass(frozen=True)
class Edit:
    """A checked edit file; `places` are its own patterns over those that all edits know."""

    name: str
    title: str
    paper: str
    actions: tuple[Action, ...]
    places: Table[str, Pattern]
    path: Path


def words(value: "Words | Pattern | None") -> list[str]:
    """A word or a list of words as a list."""
    return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []


def edit_of(path: Path, ops: Table[str, type[Op]]) -> Edit:
    """A checked edit file. Raises `SpecError`."""
    problems = Problems()
    edit = read_edit(read(shown(path), problems), read(shared_places()), path, ops, problems)
    problems.stop_if_any()
    assert edit is not None
    return edit


def read_edit(tree: Mapping, shared: Mapping, path: Path, ops: Table[str, type[Op]], problems: Problems) -> Edit | None:
    """The edit of a file, None with problems; `shared` is the file of the places that all edits know."""
    header = fill(Header, tree, problems)
    if header is None:
        return None
    check_name(header.edit, "the edit", tree.items["edit"].place, problems)
    reader = _Reader(ops, problems)
    places = reader.patterns(shared) | reader.patterns(tree)
    steps = tree.items["steps"]
    assert isinstance(steps, Sequence)
    actions = [action for item in steps.items if (action := reader.action(item, places)) is not None]
    if not steps.items:
        problems.add("'steps' holds at least one verb", steps.place, f"verbs are {', '.join(VERBS)}")
    return Edit(header.edit, header.title, header.paper, tuple(actions), places, path)


@dataclass(frozen=True)
class _Reader:
    ops: Table[str, type[Op]]
    problems: Problems

    def patterns(self, tree: Mapping) -> dict[str, Pattern]:
        """The patterns of a file, with a problem for each word in them that means nothing."""
        body = tree.items.get("places")
        found = {}
        for name, text in body.items.items() if isinstance(body, Mapping) else ():
            pattern = fill(Pattern, text, self.problems, about=f"place {name}: ")
            if pattern is not None and isinstance(text, Mapping):
                self.pattern(text)
                found[name] = pattern
        return found

    def pattern(self, text: Mapping) -> None:
        """Problems of one pattern, and of those written in it."""
        if "feeds" in text.items and "reads" in text.items:
            self.problems.add("a pattern leads one way: `feeds` or `reads`", text.keys["reads"])
        for key in ("is", "isnt", "through"):
            self.kinds(text.items.get(key))
        for inner in text.items.values():
            if isinstance(inner, Mapping):
                self.pattern(inner)

    def kinds(self, value: Value | None) -> None:
        """A problem for each word that is neither an op nor a role."""
        known = {*self.ops, *(op.style.role for op in self.ops.values())}
        for word in scalars(value) if value is not None else ():
            if word.raw not in known:
                hint = near_miss(word.raw, known) or "`blockgraph ops` lists the ops"
                self.problems.add(f"no op and no role is called '{word.raw}'", word.place, hint)

    def action(self, text: Value, places: Iterable[str]) -> Action | None:
        """A step; None with problems where it is none."""
        if not isinstance(text, Mapping):
            self.problems.add("a step is a verb with its places", text.place, f"verbs are {', '.join(VERBS)}")
            return None
        verbs = [verb for verb in VERBS if verb in text.items]
        step = fill(Step, text, self.problems)
        if step is None:
            return None
        if len(verbs) != 1:
            self.problems.add(f"a step has one verb of {', '.join(VERBS)}", text.place)
            return None
        missing = self.missing(verbs[0], text)
        if missing:
            self.problems.add(f"'{verbs[0]}' goes with {missing}", text.keys[verbs[0]])
            return None
        action = Action(step, text)
        for word in action.targets:
            if word.raw.partition(".")[0] not in places:
                hint = near_miss(word.raw, places) or f"known are {', '.join(places)}"
                self.problems.add(f"no place is called '{word.raw}'", word.place, hint)
        self.kinds(text.items.get("unless"))
        if action.verb in ("put", "replace", "wrap"):
            self.node(action)
        return action

    def missing(self, verb: str, text: Mapping) -> str:
        """What a verb lacks, in words."""
        if verb == "put":
            ends = [end for end in ("after", "before") if end in text.items]
            return "" if len(ends) == 1 and "as" in text.items else "`as: NAME` and one of `after` and `before`"
        needed = NEEDS.get(verb)
        return f"`{needed}: ...`" if needed and needed not in text.items else ""

    def node(self, action: Action) -> None:
        """A problem where the op of a node is not known, and where it says what it reads, which the place says."""
        if "in" in action.node.items:
            told = "a node of an edit says nothing of what it reads"
            self.problems.add(told, action.node.keys["in"], "it reads what comes to its place")
        if action.op not in self.ops:
            place = action.node.items["op"].place if "op" in action.node.items else action.node.place
            told = f"no op is called '{action.op}'" if action.op else "'op' is missing"
            self.problems.add(told, place, near_miss(action.op, self.ops) or "`blockgraph ops` lists the ops")
