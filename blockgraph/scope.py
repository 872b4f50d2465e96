"""The names of a spec: which node, group, port or parameter a word such as `heads.q` stands for."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from blockgraph.errors import Place, near_miss
from blockgraph.graph import Graph, Ref
from blockgraph.op import Op
from blockgraph.syntax import Mapping


@dataclass
class Entry:
    """A node before its inputs are resolved; `op` is None when its line has errors of its own.

    `kind` is the word after `op:`, `above` what it reads when it does not say, `blocks` and `plan` a stack's layers.
    """

    path: str
    text: Mapping
    place: Place
    scope: "Scope"
    kind: str = "?"
    op: Op | None = None
    outputs: tuple[str, ...] = ()
    home: str = ""
    above: "Entry | Scope | None" = None
    title: str = ""
    blocks: tuple[Graph, ...] = ()
    plan: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The node as errors call it."""
        return f"{self.path} ({self.kind})"


@dataclass
class Scope:
    """A group, or the whole graph: its members in the order of the text, and the group around it."""

    path: str
    parent: "Scope | None" = None
    title: str = ""
    place: Place = field(default_factory=lambda: Place(""))
    members: dict[str, "Entry | Scope"] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()

    def within(self, name: str) -> str:
        """Path of a member."""
        return f"{self.path}.{name}" if self.path else name

    def root(self) -> "Scope":
        """The whole graph."""
        return self if self.parent is None else self.parent.root()

    def entries(self) -> Iterator[Entry]:
        """Every node, in the order of the text."""
        for member in self.members.values():
            if isinstance(member, Scope):
                yield from member.entries()
            else:
                yield member

    def groups(self) -> Iterator["Scope"]:
        """Every group, the outer before the inner."""
        for member in self.members.values():
            if isinstance(member, Scope):
                yield member
                yield from member.groups()

    def last(self) -> "Entry | Scope | None":
        """The member whose value the group stands for."""
        return next(reversed(self.members.values()), None)

    def visible(self) -> list[str]:
        """Every name that can be written here, for near misses."""
        above = self.parent.visible() if self.parent else list(self.inputs)
        inner = [f"{n}.{i}" for n, m in self.members.items() if isinstance(m, Scope) for i in m.members]
        ports = [
            f"{name}.{port}"
            for name, member in self.members.items()
            if isinstance(member, Entry) and len(member.outputs) > 1
            for port in member.outputs
        ]
        return [*self.members, *inner, *ports, *above]


class Unresolved(ValueError):
    """A name that stands for nothing: the message and the near miss; both empty when told elsewhere already."""

    def __init__(self, message: str = "", hint: str = ""):
        super().__init__(message)
        self.message, self.hint = message, hint


def resolve(text: str, scope: Scope) -> Ref:
    """The value that `text` names; names of the group come first, then those around it. Raises `Unresolved`."""
    first, *rest = text.split(".")
    found = _look_up(first, scope)
    if found is None and text in scope.members:
        raise Unresolved()  # a name with dots is told where it is given
    if found is None:
        raise Unresolved(f"nothing is called '{text}'", near_miss(text, scope.visible()))
    if isinstance(found, str):
        if rest:
            raise Unresolved(f"the input '{first}' has no part '{'.'.join(rest)}'")
        return Ref("input", found)
    return _descend(found, rest, text)


def value_of(member: Entry | Scope) -> Ref:
    """The value that a node or a group stands for. Raises `Unresolved`."""
    return _descend(member, [], member.path)


def _look_up(name: str, scope: Scope | None) -> "Entry | Scope | str | None":
    while scope is not None:
        if name in scope.members and name in scope.inputs:
            raise Unresolved()  # told where the second is given
        if name in scope.members:
            return scope.members[name]
        if scope.parent is None and name in scope.inputs:
            return name
        scope = scope.parent
    return None


def _descend(found: "Entry | Scope", rest: list[str], text: str) -> Ref:
    while isinstance(found, Scope):
        if rest and rest[0] not in found.members:
            raise Unresolved(f"the group '{found.path}' has no node '{rest[0]}'", near_miss(rest[0], found.members))
        member = found.members[rest.pop(0)] if rest else found.last()
        if member is None:
            raise Unresolved()  # an empty group is told where it stands
        found = member
    return _port(found, ".".join(rest), text)


def _port(entry: Entry, port: str, text: str) -> Ref:
    if entry.op is None:
        return Ref("node", entry.path, port or "out")
    if not port:
        if len(entry.outputs) > 1 and not entry.blocks:
            ports = ", ".join(f"{entry.path}.{port}" for port in entry.outputs)
            raise Unresolved(f"'{text}' gives {len(entry.outputs)} values; name one of {ports}")
        return Ref("node", entry.path, entry.outputs[0])
    if port in entry.outputs:
        return Ref("node", entry.path, port)
    if port in entry.op.weights:
        return Ref("param", entry.path, port)
    known = [*(entry.outputs if len(entry.outputs) > 1 else ()), *entry.op.weights]
    hint = near_miss(port, known) or (f"it has {', '.join(known)}" if known else "it gives one value")
    raise Unresolved(f"'{entry.path}' has no port '{port}'", hint)
