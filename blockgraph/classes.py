"""Text of the class of one graph: a constructor that declares tensors, a forward whose lines name the nodes.

Each node has a variable of its own, so in eager mode the values of a block live until its forward returns: at the
peak those of one block, not of every layer. torch.compile frees each after its last use.
"""

import builtins
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

from blockgraph.acting import Acting
from blockgraph.constants import Constants
from blockgraph.declaring import Declaring
from blockgraph.dims import RUNTIME, Number, Size
from blockgraph.graph import Graph, Node, Ref
from blockgraph.layout import BODY, docstring, one_line, signature, statement
from blockgraph.loops import loops
from blockgraph.names import unique
from blockgraph.nodetext import text_of
from blockgraph.op import Site
from blockgraph.probes import Point
from blockgraph.recompute import NOTHING, again
from blockgraph.recording import Recording
from blockgraph.stepping import Stepping

Line = Callable[[Node, int], list[str]]  # the lines of a node, with their indent
NONE: Mapping[str, str] = MappingProxyType({})


@dataclass
class ClassText:
    """One class in the making.

    `blocks` names the classes of each stack's blocks, `shared` the paths that layers take from the first one, `carried`
    what the module defines elsewhere, `points` what it records where it is probed, and `recompute` what the backward
    pass computes again. One that is `cached` can also take new tokens alone.
    """

    graph: Graph
    name: str
    blocks: Mapping[str, tuple[str, ...]]
    shared: tuple[str, ...]
    carried: Iterable[str]
    points: tuple[Point, ...] = ()
    recompute: tuple[str, ...] = NOTHING
    cached: bool = False

    def __post_init__(self) -> None:
        inputs = {name for kind in self.graph.inputs.values() for size in kind.sizes for name in size.names}
        taken = {"self", "layer", "past", *RUNTIME, *inputs, *dir(builtins), *self.carried}
        self.variables: dict[Ref, str] = {}
        for ref in self.values():
            self.variables[ref] = unique(re.sub(r"[^A-Za-z0-9]+", "_", str(ref)), taken)
            taken.add(self.variables[ref])
        self.taken = taken
        self.constants = Constants()
        self.idle = self.graph.unread_losses() - {point.node.path for point in self.points if point.node}

    def text(self) -> str:
        """The whole class."""
        graph = self.graph
        title = f": {graph.title}" if graph.title else ""
        paper = f" ({graph.paper})" if graph.paper else ""
        extend = Stepping(self).method() if self.cached else []
        methods = [self.forward(), self.probed(), extend, *map(Acting(self).method, ("finish_init", "finish_step"))]
        parts = [docstring(f"{graph.name}{title}{paper}.", indent=4), Declaring(self).method(), *methods]
        return "\n".join([f"class {self.name}(GraphModule):", "\n\n".join("\n".join(part) for part in parts if part)])

    def values(self) -> Iterable[Ref]:
        """Everything that is held in a variable."""
        yield from (Ref("input", name) for name in self.graph.inputs)
        for node in self.graph.nodes.values():
            steps = (*node.replaces[:-1], node)  # a probe may read what a fused node does not keep
            yield from (Ref("node", step.path, port) for step in steps for port in step.outputs)

    def forward(self) -> list[str]:
        """The forward pass, a line for each node; where it is probed, `probed` takes its place."""
        lines = self.body(self.line, list)
        inputs = [self.variables[Ref("input", name)] for name in self.graph.inputs]
        chosen = [f"{BODY}if self.records is not None:", f"{BODY}    return self.probed({', '.join(inputs)})"]
        return [*self.head("forward"), *chosen * bool(self.points), *self.sizes(), *lines]

    def probed(self) -> list[str]:
        """The forward pass again, with what each point records."""
        if not self.points:
            return []
        recording = Recording(self)
        lines = self.body(recording.line, recording.outputs)
        about = docstring("`forward`, with a row of `records` written for each value and gradient.", indent=8)
        return [*self.head("probed"), *about, *self.sizes(), *lines]

    def head(self, name: str) -> list[str]:
        """The signature of a forward pass."""
        inputs = [f"{self.variables[Ref('input', name)]}: Tensor" for name in self.graph.inputs]
        return signature(name, ["self", *inputs], _given(self.graph.outputs))

    def body(self, line: Line, last: Callable[[], list[str]]) -> list[str]:
        """The lines of all nodes, `line` for each, with the last ones and the results."""
        lines: list[str] = []
        for repeated, found in groupby(self.graph.nodes.values(), key=partial(again, names=self.recompute)):
            nodes = list(found)
            lines += self.part(nodes, line) if repeated else self.lines(nodes, line)
        results = [self.value(ref) for ref in self.graph.outputs.values()]
        return [*lines, *last(), f"{BODY}return {', '.join(results)}"]

    def lines(self, nodes: Iterable[Node], line: Line, indent: int = len(BODY)) -> list[str]:
        """The lines of some nodes, those of a group under its title."""
        lines: list[str] = []
        for group, members in groupby(nodes, key=self.group):
            title = self.graph.groups[group].title if group else ""
            lines += [f"{' ' * indent}# {group}: {one_line(title)}"] if title else []
            for node in members:
                lines += line(node, indent) if node.path not in self.idle else []
        return lines

    def part(self, nodes: list[Node], line: Line) -> list[str]:
        """Nodes as a function that the backward pass calls again; what it reads and gives is all that is kept."""
        inside = {node.path for node in nodes}
        read = {ref: None for node in nodes for ref in node.inputs.values() if ref.owner not in inside}
        users = [node.inputs.values() for node in self.graph.nodes.values() if node.path not in inside]
        wanted = {ref for refs in (*users, self.graph.outputs.values()) for ref in refs}
        made = [Ref("node", node.path, port) for node in nodes for port in node.outputs]
        names = [self.variables[ref] for ref in read if ref.kind != "param"]
        results = [self.variables[ref] for ref in made if ref in wanted]
        name = self.fresh("part")
        head = signature(name, [f"{word}: Tensor" for word in names], _given(results), len(BODY))
        body = [*self.lines(nodes, line, len(BODY) + 4), f"{BODY}    return {', '.join(results)}"]
        call = statement(", ".join(results), f"recomputed({', '.join([name, *names])})")
        return ["", *head, *body, "", *call]

    def fresh(self, word: str) -> str:
        """A name that nothing else in the class has."""
        name = unique(word, self.taken)
        self.taken.add(name)
        return name

    def group(self, node: Node) -> str:
        """Path of the group that a node, or the owner of the port it is written on, stands in."""
        return node.path.partition("@")[0].rpartition(".")[0]

    def sizes(self) -> list[str]:
        """Lines that read from the inputs the sizes that numbers depend on."""
        lines, wanted = [], set(self.constants.sizes)
        for name, kind in self.graph.inputs.items():
            for axis, size in enumerate(kind.sizes):
                if str(size) in wanted:
                    wanted.discard(str(size))
                    lines.append(f"{BODY}{size} = {self.variables[Ref('input', name)]}.shape[{axis}]")
        assert not wanted, wanted
        return lines

    def line(self, node: Node, indent: int = len(BODY)) -> list[str]:
        """The line of one node, or those of a stack."""
        if node.blocks:
            return self.loop(node)
        return self.assigned(node, self.expression(node), indent)

    def assigned(self, node: Node, expression: str, indent: int = len(BODY)) -> list[str]:
        """The line that gives an expression to a node's variables."""
        targets = ", ".join(self.variables[Ref("node", node.path, port)] for port in node.outputs)
        return statement(targets, expression, self.place(node), indent)

    def expression(self, node: Node, form: str = "{}", ports: Mapping[str, str] = NONE, start: str = "") -> str:
        """What a node computes; `form` is put round its parameters, and `ports` stand for values it reads.

        `start` is the position of the first token where that is not 0.
        """
        read = [ports.get(port) or self.value(ref) for port, ref in node.data().items()]
        wired = {port: self.value(ref) for port, ref in node.inputs.items() if port in node.op.weights}
        tensors = {name: form.format(text) for name, text in self.owned(node).items()} | wired
        return text_of(node, self.site(node, start), read, tensors)

    def site(self, node: Node, start: str = "") -> Site:
        """The place of a node's text."""
        return _NodeSite(self, node, start)

    def owned(self, node: Node) -> dict[str, str]:
        """Texts of the tensors that a node keeps, by name."""
        names = [*(param.name for param in node.params), *(state.name for state in node.states)]
        return {name: f"self.{node.home}.{name}" for name in names}

    def place(self, node: Node) -> str:
        """Where a node stands in its spec, as a comment says it."""
        place = (node.replaces or (node,))[0].place
        names = f": {', '.join(inner.name for inner in node.replaces)}" if node.replaces else ""
        return one_line(f"{Path(place.file).name}:{place.line}{names}")

    def value(self, ref: Ref) -> str:
        """Text of a value."""
        return f"self.{self.graph.nodes[ref.owner].home}.{ref.port}" if ref.kind == "param" else self.variables[ref]

    def loop(self, node: Node, method: str = "", *more: str) -> list[str]:
        """The layers of a stack, or a `method` of theirs, called in order on the carried values, and on `more`."""
        lines = []
        carried = {name: self.variables[Ref("node", node.path, name)] for name in node.outputs}
        for name, ref in node.inputs.items():
            if name in carried:
                lines.append(f"{BODY}{carried[name]} = {self.value(ref)}")
            carried.setdefault(name, self.value(ref))
        calls: list[tuple[str, str]] = []
        given = "".join(f", {word}" for word in more)
        for layer, index in enumerate(node.plan):
            outputs, inputs = (self.keys(node, layer, names) for names in _ends(node.blocks[index]))
            for key in outputs:
                carried.setdefault(key, self.apart(node, key) if key not in carried else "")
            calls.append((_joined(carried, outputs), _joined(carried, inputs) + given))
        return [*lines, *(BODY + line for line in loops(f"self.{node.path}", calls, self.place(node), method))]

    def keys(self, node: Node, layer: int, names: Iterable[str]) -> list[str]:
        """What the values of a layer are called among those that a stack carries."""
        return [node.op.carried(name, layer) for name in names]

    def apart(self, node: Node, key: str) -> str:
        """A new variable for a value that is carried apart."""
        return self.fresh(re.sub(r"[^A-Za-z0-9]+", "_", f"{node.path}_{key}").strip("_"))


@dataclass(frozen=True)
class _NodeSite(Site):
    """A node's place in the forward pass."""

    text: ClassText
    node: Node
    first: str

    def number(self, number: Number) -> str:
        """A literal, a constant of the layer, or an expression."""
        name = next((name for name, known in self.node.op.numbers().items() if known is number), "number")
        return self.text.constants.text(number, self.node.dotted, name)

    def size(self, size: Size) -> str:
        """A literal."""
        return str(size.known)

    def start(self) -> str:
        """The position of the first token, in a method that takes later ones."""
        return self.first


def _ends(block: Graph) -> tuple[Collection[str], Collection[str]]:
    return block.outputs, block.inputs


def _given(results: Collection[str]) -> str:
    return "Tensor" if len(results) == 1 else "tuple[Tensor, ...]"


def _joined(carried: Mapping[str, str], names: Iterable[str]) -> str:
    return ", ".join(carried[name] for name in names)
