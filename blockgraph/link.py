"""Placed text to a graph: ops made, names resolved, blocks of stacks found."""

from collections.abc import Iterable
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockgraph.dims import LAYER, RUNTIME, Dims, Size
from blockgraph.errors import OpError, Place, Problems, SpecError, near_miss
from blockgraph.graph import Graph, Group, Node, Ref
from blockgraph.header import Header, read_dims, read_header, read_inputs
from blockgraph.library import Library
from blockgraph.names import check_name
from blockgraph.op import Op
from blockgraph.schema import fill, word
from blockgraph.scope import Entry, Scope, Unresolved, resolve, value_of
from blockgraph.syntax import Mapping, Scalar, Sequence, Value, describe, plain

COMMON = ("op", "in", "title")
MAX_HOLDING = 4  # stacks inside blocks of stacks


@dataclass
class Linker:
    """What linking needs around a text: the op table, the library, and where blocks were asked for from."""

    ops: Table[str, type[Op]]
    library: Library
    problems: Problems
    slots: dict[str, tuple[str, Path, Place]] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    chain: tuple[str, ...] = ()

    def link(self, tree: Mapping, folder: Path) -> Graph | None:
        """The graph of a spec; None when its header is at fault, and then the problems say why."""
        header = read_header(tree, self.problems)
        if header is None:
            return None
        dims = read_dims(header, tree, self.given, self.problems)
        self.used |= set(header.dims)
        inputs, places = read_inputs(header, tree, dims, self.problems)
        root = self.scopes(tree, Scope("", inputs=tuple(inputs)), dims, None)
        nodes = self.nodes(root, header, tree, folder, dims)
        outputs = self.outputs(tree, root)
        groups = {group.path: self.group(group) for group in root.groups()}
        return Graph(
            header.kind, header.name, header.title, header.paper, header.causal, dims, inputs, nodes, groups, outputs,
            places | {name: tree.items["outputs"].items[name].place for name in outputs},
            self.resolved(header, tree, nodes),
        )  # fmt: skip

    def scopes(self, tree: Mapping, scope: Scope, dims: Dims, above: Entry | Scope | None) -> Scope:
        """Fill a scope with its nodes and groups; `above` is what its first node reads when it does not say."""
        body = tree.items.get("nodes")
        if not isinstance(body, Mapping) or not body.items:
            self.problems.add("'nodes' holds at least one `name: {op: ...}`", (body or tree).place)
            return scope
        for name, text in body.items.items():
            if check_name(name, "the name", body.keys[name], self.problems):
                above = self.member(name, text, body.keys[name], scope, dims, above) or above
        return scope

    def member(
        self, name: str, text: Value, place: Place, scope: Scope, dims: Dims, above: Entry | Scope | None
    ) -> Entry | Scope | None:
        """A node or a group, entered into its scope."""
        path = scope.within(name)
        if not isinstance(text, Mapping):
            self.problems.add(f"{path}: a node is written `{{op: ...}}`, found {describe(text)}", text.place)
            return None
        if "nodes" in text.items:
            group = Scope(path, scope, self.title(text), place)
            scope.members[name] = group
            self.refuse_unknown(text, ("nodes", "title"), f"{path}: ")
            return self.scopes(text, group, dims, above)
        entry = Entry(path, text, place, scope, home=path, above=above)
        entry.op = self.op(entry, dims)
        entry.outputs = entry.op.ports_out() if entry.op else ()
        scope.members[name] = entry
        return entry

    def op(self, entry: Entry, dims: Dims) -> Op | None:
        """The op of a node, its fields read and checked; None with problems where they do not fit."""
        if "op" not in entry.text.items:
            hint = "a group has `nodes`, a node has `op`"
            self.problems.add(f"{entry.path}: 'op' is missing", entry.text.place, hint)
            return None
        name = word(entry.text.items["op"], f"{entry.path}: an op", self.problems)
        if name is None:
            return None
        if name not in self.ops:
            hint = near_miss(name, self.ops) or "`blockgraph ops` lists the ops"
            self.problems.add(f"no op is called '{name}'", entry.text.items["op"].place, hint)
            return None
        kind = self.ops[name]
        about = f"{entry.path} ({name}): "
        fields = {key: value for key, value in entry.text.items.items() if key not in (*COMMON, *kind.weights)}
        text = Mapping(fields, entry.text.keys, entry.text.place)
        return fill(kind, text, self.problems, about=about, context={"dims": dims})

    def nodes(self, root: Scope, header: Header, tree: Mapping, folder: Path, dims: Dims) -> dict[str, Node]:
        """Every node with its inputs resolved; nodes written on ports stand right before their owner."""
        nodes: dict[str, Node] = {}
        for entry in root.entries():
            if entry.op is None:
                continue
            blocks, plan = self.blocks(entry, header, tree, folder, dims)
            if entry.op.layers() and not blocks:
                continue
            if blocks:
                names = [name for block in blocks for name in block.outputs]
                entry.outputs = tuple(dict.fromkeys(names))
            for node in self.wired(entry, blocks, plan, dims):
                nodes[node.path] = node
        return nodes

    def wired(self, entry: Entry, blocks: tuple[Graph, ...], plan: tuple[int, ...], dims: Dims) -> Iterable[Node]:
        """The node of an entry, after the nodes that its weight ports hold."""
        assert entry.op is not None
        inputs = self.data_inputs(entry, blocks[plan[0]] if blocks else None)
        for port in entry.op.weights:
            text = entry.text.items.get(port)
            if isinstance(text, Mapping):
                inner = Entry(f"{entry.path}@{port}", text, entry.text.keys[port], entry.scope, home=entry.home)
                inner.op = self.op(inner, dims)
                if inner.op is not None:
                    yield self.on_port(inner, Ref("param", entry.path, port))
                    inputs[port] = Ref("node", inner.path, "out")
            elif text is not None:
                inputs |= self.named(port, text, entry)
        title = self.title(entry.text)
        yield Node(entry.path, entry.op, inputs, entry.outputs, entry.place, title, entry.home, blocks, plan)

    def on_port(self, entry: Entry, owned: Ref) -> Node:
        """A node on a weight port; it reads the weight that the port's owner has."""
        assert entry.op is not None
        ports = entry.op.ports()
        inputs = {ports[0]: owned} if len(ports) == 1 and "in" not in entry.text.items else self.data_inputs(entry, None)
        return Node(entry.path, entry.op, inputs, entry.op.ports_out(), entry.place, self.title(entry.text), entry.home)

    def data_inputs(self, entry: Entry, first: Graph | None) -> dict[str, Ref]:
        """Values on the data ports: by `in`, or the node above."""
        assert entry.op is not None
        ports = tuple(first.inputs) if first else entry.op.ports()
        text = entry.text.items.get("in")
        if text is None:
            return self.default_input(entry, ports)
        if isinstance(text, Mapping):
            return self.by_port(entry, ports, text)
        items = text.items if isinstance(text, Sequence) else (text,)
        if not entry.op.variadic() and not first and len(items) != len(ports):
            wanted = f"{len(ports)} value{'s' * (len(ports) != 1)}" + (f" ({', '.join(ports)})" if ports else "")
            self.fault(entry, f"reads {wanted}, found {len(items)}", text.place)
            return {}
        names = [str(index) for index in range(len(items))] if entry.op.variadic() and not first else ports
        if len(items) > len(names):
            self.fault(entry, f"its first block reads {', '.join(ports)}; found {len(items)} values", text.place)
        inputs: dict[str, Ref] = {}
        for name, item in zip(names, items, strict=False):
            inputs |= self.named(name, item, entry)
        return inputs

    def by_port(self, entry: Entry, ports: tuple[str, ...], text: Mapping) -> dict[str, Ref]:
        """Values given by the names of the ports; a stack takes any name and carries it."""
        assert entry.op is not None
        inputs: dict[str, Ref] = {}
        for port, item in text.items.items():
            if port not in ports and not entry.op.layers():
                hint = near_miss(port, ports) or (f"ports are {', '.join(ports)}" if ports else "")
                self.fault(entry, f"no port is called '{port}'", text.keys[port], hint)
                continue
            inputs |= self.named(port, item, entry)
        for port in ports if not entry.op.layers() else ():
            if port not in text.items:
                self.fault(entry, f"nothing is wired to the port '{port}'", text.place)
        return inputs

    def default_input(self, entry: Entry, ports: tuple[str, ...]) -> dict[str, Ref]:
        """The node above, for an op that reads one value."""
        assert entry.op is not None
        if not ports and not entry.op.variadic():
            return {}
        if len(ports) != 1:
            wanted = f"{len(ports)} values ({', '.join(ports)})" if ports else "two or more values"
            self.fault(entry, f"reads {wanted}; write `in: [..., ...]`", entry.place)
            return {}
        above, inputs = entry.above, _root(entry.scope).inputs
        if above is None and len(inputs) == 1:
            return {ports[0]: Ref("input", inputs[0])}
        if above is None:
            self.fault(entry, "has no node above it to read; write `in: ...`", entry.place)
            return {}
        try:
            return {ports[0]: value_of(above)}
        except Unresolved as error:
            if error.message:
                self.fault(entry, f"the node above, {error.message}", entry.place)
            return {}

    def named(self, port: str, text: Value, entry: Entry) -> dict[str, Ref]:
        """The value that a word names, on this port."""
        name = word(text, f"{entry.path}: a value", self.problems)
        if name is None:
            return {}
        try:
            return {port: resolve(name, entry.scope)}
        except Unresolved as error:
            if error.message:
                self.problems.add(error.message, text.place, error.hint)
            return {}

    def outputs(self, tree: Mapping, root: Scope) -> dict[str, Ref]:
        """The values that the spec gives."""
        body = tree.items["outputs"]
        assert isinstance(body, Mapping)
        whole = Entry("outputs", body, body.place, root)
        outputs: dict[str, Ref] = {}
        for name, text in body.items.items():
            if check_name(name, "the output", body.keys[name], self.problems):
                outputs |= self.named(name, text, whole)
        return outputs

    def blocks(
        self, entry: Entry, header: Header, tree: Mapping, folder: Path, dims: Dims
    ) -> tuple[tuple[Graph, ...], tuple[int, ...]]:
        """The distinct blocks that a stack holds, and which of them each layer is."""
        assert entry.op is not None
        try:
            names = entry.op.layers()
        except OpError as error:
            self.fault(entry, str(error), entry.place)
            return (), ()
        found: dict[str, Graph] = {}
        for name in dict.fromkeys(names):
            block = self.block(name, entry, header, tree, folder, dims, len(names))
            if block is None:
                return (), ()
            found[name] = block
        order = list(found)
        return tuple(found.values()), tuple(order.index(name) for name in names)

    def block(
        self, name: str, entry: Entry, header: Header, tree: Mapping, folder: Path, dims: Dims, layers: int
    ) -> Graph | None:
        """One block of a stack, linked with the dims of the spec around it."""
        place = entry.text.items["of"].place if "of" in entry.text.items else entry.place
        slot = self.slots.get(name) or (header.slots.get(name, name), folder, _slot_place(tree, name, place))
        inner = self.embedded(slot[0], header, tree)
        if inner is None:
            path = self.library.find(*slot, self.problems)
            if path is None:
                return None
            inner, folder = self.library.open(path), path.parent
        if slot[0] in self.chain or len(self.chain) >= MAX_HOLDING:
            self.problems.add(f"the block '{slot[0]}' holds itself", slot[2])
            return None
        given = {key: size.known for key, size in dims.sizes.items() if key not in RUNTIME and size.known is not None}
        linker = Linker(
            self.ops, self.library, self.problems, self.slots, {**self.given, **given, "n_layers": layers}, self.used,
            (*self.chain, slot[0]),
        )  # fmt: skip
        return linker.link(inner, folder)

    def embedded(self, name: str, header: Header, tree: Mapping) -> Mapping | None:
        """A block written inside the model's own text."""
        bodies = tree.items.get("blocks")
        body = bodies.items.get(name) if isinstance(bodies, Mapping) else None
        return body if isinstance(body, Mapping) else None

    def group(self, scope: Scope) -> Group:
        """A group with the value it stands for."""
        try:
            return Group(scope.path, scope.title, scope.place, value_of(scope))
        except Unresolved:
            return Group(scope.path, scope.title, scope.place, None)

    def title(self, text: Mapping) -> str:
        """The figure's label for a node or a group; empty where none is given."""
        value = text.items.get("title")
        return "" if value is None else str(plain(value)) if isinstance(value, Scalar) else ""

    def refuse_unknown(self, text: Mapping, known: tuple[str, ...], about: str) -> None:
        """A problem for every key that has no meaning here."""
        for key in text.items:
            if key not in known:
                self.problems.add(f"{about}unknown key '{key}'", text.keys[key], near_miss(key, known))

    def fault(self, entry: Entry, message: str, place: Place, hint: str = "") -> None:
        """A problem of one node."""
        name = entry.op.name if entry.op else "?"
        self.problems.add(f"{entry.path} ({name}): {message}", place, hint)

    def resolved(self, header: Header, tree: Mapping, nodes: Table[str, Node]) -> dict[str, Any]:
        """The whole text with dims and slots as they are bound and the blocks of stacks inside it."""
        text = plain(tree)
        given = {name: self.given[name] for name in header.dims if name in self.given}
        text["dims"] = {**header.dims, **given}
        slots = {name: _bare(self.slots[name][0] if name in self.slots else block) for name, block in header.slots.items()}
        blocks = {block.name: dict(block.source) for node in nodes.values() for block in node.blocks}
        text |= {key: value for key, value in (("slots", slots), ("blocks", blocks)) if value}
        text.pop("sizes", None)
        return text


def _bare(name: str) -> str:
    return Path(name).stem


def _root(scope: Scope) -> Scope:
    while scope.parent is not None:
        scope = scope.parent
    return scope


def _slot_place(tree: Mapping, name: str, otherwise: Place) -> Place:
    slots = tree.items.get("slots")
    return slots.items[name].place if isinstance(slots, Mapping) and name in slots.items else otherwise
