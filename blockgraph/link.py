"""Placed text to a graph: ops made, names resolved, blocks of stacks found."""

from collections.abc import Iterator, Set
from collections.abc import Mapping as Table
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blockgraph.dims import Dims
from blockgraph.errors import Place, Problems
from blockgraph.faulty import Faulty
from blockgraph.graph import LOST, Graph, Group, Node, Ref
from blockgraph.header import Header, read_dims, read_header, read_inputs
from blockgraph.holding import Shelf, Slot, layer_names, tell_unknown_shares, tell_unknown_values
from blockgraph.library import Library
from blockgraph.members import Members
from blockgraph.names import check_name
from blockgraph.op import Op
from blockgraph.scope import Entry, Scope, Unresolved, value_of
from blockgraph.syntax import Mapping, plain
from blockgraph.wiring import Wiring

MAX_LAYERS = 10_000  # of one stack, those of the stacks in its blocks included


@dataclass
class Linker:
    """What linking needs around a text: the op table, the library, and what is set for it from outside.

    `slots` and `given` are what is set for it, `used` collects the dims that can be set and `lost` the blocks whose
    dims are not known, `chain` are the texts around this one and `around` the dims of the one that it is written in.
    """

    ops: Table[str, type[Op]]
    library: Library
    problems: Problems
    slots: Table[str, Slot] = field(default_factory=dict)
    given: Table[str, int | None] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    chain: tuple[object, ...] = ()
    around: Set[str] = frozenset()

    def link(self, tree: Mapping, folder: Path) -> Graph | None:
        """The graph of a spec; None when its header is at fault, and then the problems say why."""
        header = read_header(tree, self.problems)
        if header is None:
            return None
        dims = read_dims(header, tree, self.given, self.around, self.problems)
        self.used |= set(header.dims)
        inputs, places = read_inputs(header, tree, dims, self.problems)
        members = Members(self.ops, dims, self.problems)
        root = members.read(tree, tuple(places))
        shelf = Shelf(tree, folder, self.slots, self.library, self.problems, self.chain)
        self.hold(root, shelf, dims)
        nodes = {node.path: node for entry in root.entries() for node in self.wired(entry, members)}
        groups = {group.path: _group(group) for group in root.groups()}
        outputs, ends = self.outputs(tree, root)
        return Graph(
            header.kind, header.name, header.title, header.paper, header.causal, dims, inputs, nodes, groups, outputs,
            places | ends, self.whole_text(header, tree, shelf),
        )  # fmt: skip

    def hold(self, root: Scope, shelf: Shelf, dims: Dims) -> None:
        """Give every stack its blocks; one that cannot have them counts as faulty."""
        stacks = [entry for entry in root.entries() if entry.op is not None and _holds(type(entry.op))]
        self.lost |= {entry.path for entry in root.entries() if entry.op is None and self.may_hold(entry)}
        for entry in stacks:
            op = entry.op
            assert op is not None
            names = layer_names(entry, self.problems)
            blocks = {name: self.block(name, entry, shelf, dims, len(names)) for name in dict.fromkeys(names)}
            linked = {name: block for name, block in blocks.items() if block is not None}
            if not names or len(linked) < len(blocks):
                self.lost |= set(names)
                entry.op = None
                continue
            order = {name: index for index, name in enumerate(linked)}
            entry.blocks, entry.plan = tuple(linked.values()), tuple(order[name] for name in names)
            given = dict.fromkeys(name for block in entry.blocks for name in block.outputs)
            entry.outputs = tuple(name for name in given if op.carried(name, 0) == name)
            tell_unknown_shares(entry, self.problems)
            tell_unknown_values(entry, self.problems)
            self.refuse_too_many(entry)
            if not entry.outputs:
                entry.op = None
        if all(entry.op is not None for entry in root.entries()):
            shelf.tell_unused()

    def block(self, name: str, entry: Entry, shelf: Shelf, dims: Dims, layers: int) -> Graph | None:
        """One block of a stack, linked with the dims of the spec around it."""
        found = shelf.find(name, entry)
        if found is None:
            self.lost.add(name)
            return None
        known = {name: size.known for name, size in dims.sizes.items() if size.known is not None}
        given = {**self.given, **known, **dict.fromkeys(dims.broken), "n_layers": layers}
        around = known.keys() | dims.broken if found.inside else frozenset()
        inner = replace(self, slots={}, given=given, chain=(*self.chain, found.identity), around=around)
        found.graph = graph = inner.link(found.text, found.folder)
        return graph if graph is not None and _has_ends(graph) else None

    def may_hold(self, entry: Entry) -> bool:
        """Whether a node at fault may have been meant to hold blocks."""
        return entry.kind not in self.ops or _holds(self.ops[entry.kind])

    def refuse_too_many(self, entry: Entry) -> None:
        """A problem for a stack whose layers, with those of the stacks inside them, are more than can be built."""
        counts = [1 + _layers(block) for block in entry.blocks]
        total = sum(counts[index] for index in entry.plan)
        if total > MAX_LAYERS:
            told = f"holds {total:,} layers with those of the stacks inside it; {MAX_LAYERS:,} are the most"
            self.problems.add(f"{entry.label}: {told}", entry.place)
            entry.op = None

    def wired(self, entry: Entry, members: Members, owned: Ref | None = None) -> Iterator[Node]:
        """The node of an entry, after the nodes that its weight ports hold; `owned` is the weight it stands on."""
        wiring = Wiring(self.problems)
        if entry.op is None:
            outputs = entry.outputs or ("out",)
            yield Node(entry.path, Faulty(), wiring.loose(entry), outputs, entry.place, entry.title, entry.home)
            return
        alone = owned is not None and "in" not in entry.text.items and len(entry.op.required()) == 1
        inputs = {entry.op.ports()[0]: owned} if owned and alone else wiring.data(entry)
        for port in entry.op.weights:
            text = entry.text.items.get(port)
            if isinstance(text, Mapping):
                inner = members.on_port(entry, port, text)
                yield from self.wired(inner, members, Ref("param", entry.path, port))
                inputs[port] = Ref("node", inner.path, "out")
            elif text is not None:
                inputs[port] = wiring.named(text, entry)
        yield Node(
            entry.path, entry.op, inputs, entry.outputs, entry.place, entry.title, entry.home, entry.blocks, entry.plan
        )  # fmt: skip

    def outputs(self, tree: Mapping, root: Scope) -> tuple[dict[str, Ref], dict[str, Place]]:
        """The values that the spec gives, and where each is named."""
        body = tree.items.get("outputs")
        if not isinstance(body, Mapping):
            return {"?": LOST}, {}  # told with the header
        if not body.items:
            self.problems.add("'outputs' names at least one value", body.place)
        whole = Entry("outputs", body, body.place, root)
        for name in body.items:
            check_name(name, "the output", body.keys[name], self.problems)
        values = {name: Wiring(self.problems).named(text, whole) for name, text in body.items.items()}
        return values or {"?": LOST}, {f"outputs.{name}": text.place for name, text in body.items.items()}

    def whole_text(self, header: Header, tree: Mapping, shelf: Shelf) -> dict[str, Any]:
        """The text with dims and slots as they are bound and the blocks of stacks inside it."""
        text: dict[str, Any] = plain(tree)
        given = {name: self.given[name] for name in header.dims if name in self.given}
        names = shelf.names()
        slots = {asked: name for asked, name in names.items() if asked in header.slots}
        linked = {names[asked]: found.graph for asked, found in shelf.found.items()}
        blocks = {name: dict(graph.source) for name, graph in linked.items() if graph is not None}
        text |= {key: value for key, value in (("dims", {**header.dims, **given}), ("slots", slots)) if value}
        text |= {"blocks": blocks} if blocks else {}
        text.pop("sizes", None)
        return text


def _has_ends(graph: Graph) -> bool:
    """Whether all that comes in and goes out is known, at least by name."""
    inputs = [name for name in graph.places if not name.startswith("outputs.")]
    return len(graph.inputs) == len(inputs) and "?" not in graph.outputs


def _holds(op: type[Op]) -> bool:
    return op.layers is not Op.layers


def _layers(graph: Graph) -> int:
    counts = {id(block): 1 + _layers(block) for node in graph.nodes.values() for block in node.blocks}
    return sum(counts[id(node.blocks[index])] for node in graph.nodes.values() for index in node.plan)


def _group(scope: Scope) -> Group:
    try:
        return Group(scope.path, scope.title, scope.place, value_of(scope))
    except Unresolved:
        return Group(scope.path, scope.title, scope.place, None)
