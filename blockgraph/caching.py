"""Checked graph to the values that a cache keeps, so that rows of new tokens are computed alone; or why it has none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from blockgraph.dims import Size
from blockgraph.errors import OpError, Problem
from blockgraph.graph import Graph, Node, Ref
from blockgraph.types import TOKENS, Flow, Type

UNSAID = "nothing says how rows of new tokens follow from earlier ones; where they do, its class has `incremental`"


@dataclass(frozen=True, slots=True)
class Plan:
    """How one graph takes new tokens.

    `cached` are the values whose rows are kept, with their axis of tokens; `copied` the nodes whose values of all
    tokens are made from cached ones, and `rows` those that are computed for the new tokens.
    """

    cached: Mapping[Ref, int]
    copied: frozenset[str]
    rows: frozenset[str]


@dataclass(frozen=True, slots=True)
class Edge:
    """A value that a cache keeps in each of some layers, and the ports that read all of its rows."""

    block: str
    value: str
    kind: Type
    readers: tuple[str, ...]
    layers: int

    @property
    def entries(self) -> int:
        """Numbers that a token takes, in all layers."""
        return _entries(self.kind) * self.layers

    def bytes(self, width: int) -> int:
        """Bytes that a token takes, where a real number has so many."""
        return self.entries * (8 if self.kind.kind == "int" else width)

    def __str__(self) -> str:
        times = f" in {self.layers} layers" if self.layers > 1 else ""
        return f"{self.block}.{self.value} {self.kind}{times}, read by {', '.join(self.readers)}"


def refusals(graph: Graph) -> list[Problem]:
    """Every reason for which a graph, or a block in it, can have no cache that is known to be right.

    A cache is right where the row of a token is the same number in a longer sequence. The flow of tokens says that it
    does not depend on later tokens, and the ops say that it does not depend on their count either.
    """
    graph = graph.unfused()
    if all(is_fixed(graph, Ref("input", name)) for name in graph.inputs):
        return [
            Problem("no input has an axis for tokens, so there are no new ones", graph.places[next(iter(graph.inputs))])
        ]
    return list(dict.fromkeys(_refusals(graph)))


def plan(graph: Graph) -> Plan:
    """What a graph without refusals keeps and computes: of each value that is read whole the cheapest that tells it."""
    graph = graph.unfused()
    cached: dict[Ref, int] = {}
    copied, rows = set[str](), set[str]()
    new, whole = set(graph.outputs.values()), set[Ref]()
    for node in reversed(list(graph.nodes.values())):
        made = {Ref("node", node.path, port) for port in node.outputs}
        if made & whole and _is_cheaper_before(node, graph):
            copied.add(node.path)
            whole |= set(node.data().values())
        else:
            cached |= {ref: _axis(graph, ref) for ref in made & whole}
        if made & new or made & cached.keys() or (made & whole and node.path not in copied):
            rows.add(node.path)
            apart = {ref for _, ref in _read_whole(node, graph)}
            whole |= apart
            new |= set(node.inputs.values()) - apart
    cached |= {ref: _axis(graph, ref) for ref in whole if ref.kind == "input"}
    return Plan(cached, frozenset(copied), frozenset(rows))


def edges(graph: Graph, layers: int = 1) -> Iterator[Edge]:
    """The values that the cache of a graph without refusals keeps."""
    graph = graph.unfused()
    chosen = plan(graph)
    for ref in chosen.cached:
        kind = graph.type_of(ref)
        assert kind is not None
        yield Edge(graph.name, str(ref), kind, tuple(_readers(graph, chosen, ref)), layers)
    for node in graph.nodes.values():
        for index, block in enumerate(node.blocks):
            yield from edges(block, layers * node.plan.count(index))


def explained(graph: Graph, precision: str) -> list[str]:
    """Lines that say what the cache keeps of each token, with its bytes, or every reason for which there is none."""
    if problems := refusals(graph):
        return ["no cache:", *(f"  {problem.line.replace(': error: ', ': ')}" for problem in problems)]
    width = 2 if precision == "bf16" else 4
    kept = list(edges(graph))
    total = sum(edge.bytes(width) for edge in kept)
    return [f"cache: {total:,} bytes a token in {precision}", *(f"  {edge.bytes(width):>9,}  {edge}" for edge in kept)]


def is_fixed(graph: Graph, ref: Ref) -> bool:
    """Whether a value is the same for all tokens, as a parameter is; `refusals` lets no other be without their axis."""
    kind = graph.type_of(ref)
    return ref.kind == "param" or (kind is not None and not _mentions_tokens(*kind.sizes))


def _refusals(graph: Graph) -> Iterator[Problem]:
    for name, kind in graph.inputs.items():
        if not is_fixed(graph, Ref("input", name)) and (told := _unfit(kind)):
            yield Problem(f"the input '{name}' {told}", graph.places[name])
    beside = graph.unread_losses()
    for node in graph.nodes.values():
        if node.blocks:
            for block in node.blocks:
                yield from _refusals(block)
        elif node.path not in beside and (told := _refused(node, graph)):
            yield Problem(f"{node.path} ({node.op.name}): {told}", node.place)


def _refused(node: Node, graph: Graph) -> str:
    """Why the rows of new tokens cannot be computed alone at a node; empty where they can."""
    fixed = all(is_fixed(graph, ref) for ref in node.inputs.values())
    if fixed and not any(_mentions_tokens(*kind.sizes) for kind in node.types.values()) and not _by_length(node):
        return ""
    if told := _by_length(node):
        return told
    if not node.op.grows():
        return UNSAID
    if any(_leaks(graph.type_of(ref)) for ref in node.inputs.values()):
        return ""  # told where it begins
    for kind in node.types.values():
        if told := _unfit(kind):
            return f"its value {told}"
    return _unread(node, graph)


def _unread(node: Node, graph: Graph) -> str:
    """Why all rows of what a node reads cannot be kept."""
    try:
        apart = _read_whole(node, graph)
    except OpError as error:
        return str(error)
    for port, ref in apart:
        kind = graph.type_of(ref)
        if kind is None or kind.sizes.count(TOKENS) != 1 or kind.flow is not Flow.PAST:
            return f"reads all rows of {port}, and {ref} {kind} has not one for each token"
    return ""


def _by_length(node: Node) -> str:
    """Which number or size of a node is another one in a longer sequence."""
    fields = {name: getattr(node.op, name) for name in type(node.op).model_fields}
    sizes = {name: str(size) for name, size in fields.items() if isinstance(size, Size) and _mentions_tokens(size)}
    numbers = {name: str(number) for name, number in node.op.numbers().items() if number.free & TOKENS.names}
    for name, text in (numbers | sizes).items():
        return f"{name} = {text} is another number for each length, and so are all rows behind it"
    return ""


def _unfit(kind: Type) -> str:
    """Why a value that depends on tokens has no row for a new one."""
    if kind.folded or not 1 <= kind.sizes.count(TOKENS) <= 2:
        return f"{kind} has no axis for tokens alone"
    if kind.sizes.count(TOKENS) == 2 and not kind.pairs:
        return f"{kind} has two axes of tokens that are not the last ones"
    return "may depend on later tokens" if _leaks(kind) else ""


def _leaks(kind: Type | None) -> bool:
    return kind is not None and kind.flow is Flow.ALL


def _mentions_tokens(*sizes: Size) -> bool:
    return any(size.unbound & TOKENS.names for size in sizes)


def _read_whole(node: Node, graph: Graph) -> list[tuple[str, Ref]]:
    """Ports of a node that read all tokens, with their values; what is the same for all is left out."""
    data = node.data()
    if node.blocks:
        return []
    whole = node.op.whole(*(graph.type_of(ref) for ref in data.values()))
    return [(port, ref) for port, ref in data.items() if port in whole and not is_fixed(graph, ref)]


def _is_cheaper_before(node: Node, graph: Graph) -> bool:
    """Whether a node only copies what its one input has, and that is less."""
    data = list(node.data().values())
    if not node.op.copies or len(data) != 1 or len(node.types) != 1 or is_fixed(graph, data[0]):
        return False
    before, (after,) = graph.type_of(data[0]), node.types.values()
    return before is not None and _entries(before) < _entries(after)


def _entries(kind: Type) -> int:
    """Numbers of one token; other sizes that are bound at run time count as one."""
    return kind.entries.at(**dict.fromkeys(kind.entries.unbound, 1))


def _axis(graph: Graph, ref: Ref) -> int:
    kind = graph.type_of(ref)
    assert kind is not None
    return kind.sizes.index(TOKENS)


def _readers(graph: Graph, chosen: Plan, ref: Ref) -> Iterator[str]:
    """Ports that read all rows of a cached value, past the nodes that copy it."""
    for node in graph.nodes.values():
        if node.path in chosen.copied and ref in node.inputs.values():
            for port in node.outputs:
                yield from _readers(graph, chosen, Ref("node", node.path, port))
        elif node.path in chosen.rows:
            yield from (f"{node.path}.{port}" for port, found in _read_whole(node, graph) if found == ref)
