"""A spec's text while it is edited: nodes put on edges, taken off them and changed, and every other wire as it was."""

from collections.abc import Mapping as Table
from dataclasses import dataclass, replace
from pathlib import Path

from blockgraph.edits.layout import Keys, Layout, flowed
from blockgraph.edits.places import Edge
from blockgraph.errors import Problems
from blockgraph.graph import Graph, Node, Ref
from blockgraph.library import Library
from blockgraph.link import Linker
from blockgraph.members import Members
from blockgraph.names import unique
from blockgraph.op import Op
from blockgraph.scope import Entry, Scope, Unresolved, resolve
from blockgraph.syntax import Mapping, parse

PASSES = 3  # of writing names out; one mends what reads, a second what that moved

Wires = dict[tuple[str, str], Ref]  # what each port of each node reads, and under "" what the outputs give


@dataclass(frozen=True)
class Around:
    """What a text is linked with: the op table, the library, the folder it lies in and the name of its file."""

    ops: Table[str, type[Op]]
    library: Library
    folder: Path
    file: str


@dataclass(frozen=True)
class Draft:
    """A block of a text, `where` it stands in it, with its graph; `known` are dims of the model around it.

    Changes give a new draft; they raise `SpecError` where the new text cannot be linked.
    """

    layout: Layout
    where: Keys
    around: Around
    known: Table[str, int]
    graph: Graph
    scope: Scope

    @staticmethod
    def of(layout: Layout, where: Keys, around: Around, known: Table[str, int]) -> "Draft":
        """A text with its graph."""
        problems = Problems()
        tree = parse(layout.text, around.file, problems)
        for key in where:
            inner = tree.items[key]
            assert isinstance(inner, Mapping)
            tree = inner
        own = tree.items.get("dims")
        layers = {} if isinstance(own, Mapping) and "n_layers" in own.items else _LAYERS
        linker = Linker(around.ops, around.library, problems, given={**layers, **known}, around=known.keys())
        graph = linker.link(tree, around.folder)
        problems.stop_if_any()
        assert graph is not None
        scope = Members(around.ops, graph.dims, problems).read(tree, tuple(graph.inputs))
        for entry in scope.entries():
            entry.blocks, entry.outputs = graph.nodes[entry.path].blocks, graph.nodes[entry.path].outputs
        return Draft(layout, where, around, known, graph, scope)

    def keys(self, path: str) -> Keys:
        """Keys that lead to a node."""
        owner, _, port = path.partition("@")
        names = [key for name in owner.split(".") for key in ("nodes", name)]
        return (*self.where, *names, *([port] if port else []))

    def put(self, name: str, node: Mapping, edges: tuple[Edge, ...], beside: tuple[str, str]) -> "Draft":
        """With a node on edges of one value; its line stands `after` or `before` that of another node."""
        side, path = beside
        value, scope = edges[0].value, self.scope_of(path)
        made = Ref("node", scope.within(name), "out")
        wires = self.wires() | {(edge.reader, edge.port): made for edge in edges}
        place = self.layout.put_after if side == "after" else self.layout.put_before
        above = self.above(path) if side == "before" else scope.members[path.rpartition(".")[2]]
        reads = {} if above is not None and self.quietly(above) == value else {"in": self.word(value, scope)}
        return self.again(place(self.keys(path), name, flowed(node, reads))).wired(wires)

    def bypass(self, path: str, edges: tuple[Edge, ...] | None) -> "Draft":
        """With the edges behind a node, or all of them, reading what it reads; it goes when nothing else reads it."""
        node = self.graph.nodes[path]
        (source,) = node.data().values()
        made = Ref("node", path, node.outputs[0])
        passed = {(edge.reader, edge.port) for edge in edges} if edges is not None else None
        before = self.wires()
        wires = {at: source if ref == made and (passed is None or at in passed) else ref for at, ref in before.items()}
        if made in (ref for at, ref in wires.items() if at[0] != path):
            return self.wired(wires)
        new = replace(self, layout=self.layout)
        says = self.layout.has((*self.keys(path), "in"))  # what says where it reads leaves that to those behind it
        for at in (at for at, ref in before.items() if ref == made and (says or self.is_written(at))):
            new = new.written(at, source)
        gone = {at: ref for at, ref in wires.items() if at[0].partition("@")[0] != path}
        return new.again(new.layout.without(self.keys(path))).wired(gone)

    def keyed(self, fields: Table[tuple[str, str], str]) -> "Draft":
        """With fields of nodes set; one that is new stands behind `op`, `in` and what its op requires."""
        layout = self.layout
        for (path, name), text in fields.items():
            keys, op = (*self.keys(path), name), type(self.graph.nodes[path].op)
            required = tuple(field for field, info in op.model_fields.items() if info.is_required())
            new = not layout.has(keys)
            layout = layout.keyed(keys, text, ("op", "in", *required)) if new else layout.replaced(keys, text)
        return self.again(layout) if fields else self

    def replaced(self, path: str, node: Mapping) -> "Draft":
        """With another line for a node, which reads what it read."""
        keys = self.keys(path)
        reads = {"in": self.layout.written((*keys, "in"))} if self.layout.has((*keys, "in")) else {}
        return self.again(self.layout.replaced(keys, flowed(node, reads))).wired(self.wires())

    def again(self, layout: Layout) -> "Draft":
        """Another text, linked."""
        return Draft.of(layout, self.where, self.around, self.known)

    def wires(self) -> Wires:
        """What every port reads."""
        wires = {(node.path, port): ref for node in self.graph.nodes.values() for port, ref in node.inputs.items()}
        return wires | {("", name): ref for name, ref in self.graph.outputs.items()}

    def wired(self, wanted: Wires) -> "Draft":
        """With names written out wherever something would read another value than it has to."""
        draft = self
        for _ in range(PASSES):
            wrong = {at: wanted[at] for at, ref in draft.wires().items() if at in wanted and wanted[at] != ref}
            if not wrong:
                return draft
            for at, ref in wrong.items():
                draft = draft.written(at, ref)
            draft = draft.again(draft.layout)
        raise AssertionError(wrong)

    def written(self, at: tuple[str, str], ref: Ref) -> "Draft":
        """With the name of a value written where something reads it; the graph stays that of before."""
        path, port = at
        if not path:
            return replace(
                self, layout=self.layout.replaced((*self.where, "outputs", port), self.word(ref, self.scope))
            )
        node, keys = self.graph.nodes[path], self.keys(path)
        word = self.word(ref, self.scope_of(path.partition("@")[0]))
        if port in node.op.weights:
            return replace(self, layout=self.layout.replaced((*keys, port), word))
        if not self.layout.has((*keys, "in")):
            return replace(self, layout=self.layout.keyed((*keys, "in"), word, ("op",)))
        return replace(self, layout=self.rewritten((*keys, "in"), node, port, word))

    def rewritten(self, keys: Keys, node: Node, port: str, word: str) -> Layout:
        """Another word for one port of an `in` that is a word, a list or a mapping."""
        written = self.layout.written(keys)
        if written.startswith("{"):
            return self.layout.replaced((*keys, port), word)
        index = list(node.data()).index(port)
        return self.layout.replaced(keys, word, index if written.startswith("[") else None)

    def is_written(self, at: tuple[str, str]) -> bool:
        """Whether a port says what it reads."""
        return not at[0] or self.layout.has((*self.keys(at[0]), "in"))

    def scope_of(self, path: str) -> Scope:
        """The group in which a node stands."""
        scope = self.scope
        for name in path.split(".")[:-1]:
            inner = scope.members[name]
            assert isinstance(inner, Scope)
            scope = inner
        return scope

    def above(self, path: str) -> Entry | Scope | None:
        """The member above a node, in its group or in front of that."""
        scope, name = self.scope_of(path), path.rpartition(".")[2]
        names = list(scope.members)
        index = names.index(name)
        if index > 0:
            return scope.members[names[index - 1]]
        return self.above(scope.path) if scope.parent is not None else None

    def quietly(self, member: Entry | Scope) -> Ref | None:
        """The value of a member, if it is one."""
        scope = member.scope if isinstance(member, Entry) else member.parent
        try:
            return resolve(member.path.rpartition(".")[2], scope) if scope else None
        except Unresolved:
            return None

    def word(self, ref: Ref, scope: Scope) -> str:
        """The shortest name of a value in a group."""
        names = [ref.owner]
        if ref.kind != "input":
            port = ref.port if ref.kind == "param" or len(self.graph.nodes[ref.owner].outputs) > 1 else ""
            names = list(_names(ref.owner, port, scope))
        for name in names:
            try:
                if resolve(name, scope) == ref:
                    return name
            except Unresolved:
                continue
        raise AssertionError(ref)

    def free(self, name: str, scope: Scope) -> str:
        """A name that means nothing yet in a group or around it."""
        taken: set[str] = {*self.graph.inputs}
        around: Scope | None = scope
        while around is not None:
            taken |= around.members.keys()
            around = around.parent
        return unique(name, taken)


_LAYERS: Table[str, int] = {"n_layers": 1}  # of a block by itself, for numbers that depend on it


def _names(path: str, port: str, scope: Scope) -> list[str]:
    """Ways to name a value in a group, the nearest first: from this group or one around it, by a group or in full."""
    found: list[str] = []
    around: Scope | None = scope
    while around is not None:
        prefix = f"{around.path}." if around.path else ""
        if path.startswith(prefix):
            parts = path[len(prefix) :].split(".")
            found += [".".join(parts[:count]) for count in range(1, len(parts))]
            found.append(".".join([*parts, *([port] if port else [])]))
        around = around.parent
    return found
