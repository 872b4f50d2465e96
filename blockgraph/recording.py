"""Lines of a forward pass that record: gradients on their edges, values behind the nodes that give them."""

from collections.abc import Iterable, Sequence
from string import Formatter
from typing import TYPE_CHECKING

from blockgraph.fusion import Fusion
from blockgraph.graph import Node
from blockgraph.layout import statement
from blockgraph.probes import Point

if TYPE_CHECKING:
    from blockgraph.classes import ClassText

INDENT = 8  # of the lines of a method


class Recording:
    """The points of one class, each with its row of `self.records`; what is measured twice is copied from there."""

    def __init__(self, text: "ClassText"):
        self.text = text
        self.rows = {point.key: row for row, point in enumerate(text.points)}
        self.measured: dict[str, str] = {}
        self.some = tuple(map(text.fresh, ("queries", "keys")))

    def line(self, node: Node, indent: int) -> list[str]:
        """The line of a node with the gradients at its edges watched, and the lines that record its values."""
        if node.blocks:
            return self.text.loop(node)
        points = self._at([node])
        edges = {point.probe.gradient: self._row(point) for point in points if point.probe.gradient}
        reads = {port: self.text.value(ref) for port, ref in node.data().items()}
        watched = {port: f"watch({reads[port]}, {edges[port]})" for port in reads.keys() & edges.keys()}
        expression = self._recorded(node) or self.text.expression(node, ports=watched)
        result = f"watch({expression}, {edges['out']})" if "out" in edges else expression
        lines = self.text.assigned(node, result, indent)
        return [*lines, *self._records(points, indent), *self._inside(node, indent)]

    def outputs(self) -> list[str]:
        """The lines that record what the graph gives."""
        return self._records([point for point in self.text.points if not point.node], INDENT)

    def _recorded(self, node: Node) -> str:
        """A fused node that gives what is recorded of every query of its first node, if it can."""
        every = [point for point in self._at(node.replaces[:1]) if point.probe.every_query]
        if not every or not self.text.graph.causal:
            return ""
        assert isinstance(node.op, Fusion)
        reads = map(self.text.value, node.data().values())
        return node.op.recording(self.text.site(node), node.replaces[0], self._row(every[0]), *reads)

    def _inside(self, fused: Node, indent: int) -> list[str]:
        """Lines that compute again the values that a fused node does not give, and record them."""
        chain = fused.replaces[:-1]
        points = self._at(chain)
        every = [point for point in points if point.probe.every_query and not self._recorded(fused)]
        some = [point for point in points if not point.probe.every_query]
        if not every and not some:
            return []
        names = ", ".join(node.name for node in chain)
        lines = [f"{' ' * indent}with torch.no_grad():  # {names}, which the kernel above does not give"]
        last = self._rows(fused, some, indent + 4) or self._last(fused, some, indent + 4)
        return [*lines, *self._parts(fused, every, indent + 4), *last]

    def _parts(self, fused: Node, points: Sequence[Point], indent: int) -> list[str]:
        """The first node of the chain for some queries at a time, for what is recorded of all of them."""
        if not points:
            return []
        first, read = fused.replaces[0], self._read(fused)
        given = ", ".join(read.values())
        loop = f"{' ' * indent}for {', '.join(self.some)} in query_parts({given}, {self.text.graph.causal}):"
        part = self.text.expression(first, ports=dict(zip(read, self.some, strict=True)))
        lines = [loop, *self.text.assigned(first, part, indent + 4)]
        for point in points:
            record = f"torch.fmax({self._row(point)}, {self._measured(point)})"
            lines += statement(self._row(point), record, _about(point), indent + 4)
        return lines

    def _rows(self, fused: Node, points: Sequence[Point], indent: int) -> list[str]:
        """What reads parameters alone, and the call that records the rest where the op itself knows one."""
        assert isinstance(fused.op, Fusion)
        inner = [point for point in points if not point.probe.name]
        rows = {point.probe.quantities[0].name: self._row(point) for point in inner}
        call = fused.op.recording_rows(self.text.site(fused), rows, *self._read(fused).values()) if rows else ""
        if not call:
            return []
        about = "; ".join(map(_about, inner))
        return [
            *self._records([point for point in points if point.probe.name], indent),
            *statement("", call, about, indent),
        ]

    def _read(self, fused: Node) -> dict[str, str]:
        """Text of the queries and the keys, by the ports of the chain's first node."""
        return {port: self.text.value(fused.replaces[0].inputs[port]) for port in _ports(fused)}

    def _last(self, fused: Node, points: Sequence[Point], indent: int) -> list[str]:
        """The chain for the last queries, as far as something of it is recorded."""
        lines: list[str] = []
        (queries, q), (keys, k) = self._read(fused).items()
        # A product would copy heads that lie apart with rows and columns swapped, which takes longer than it does.
        part = {queries: f"last_rows({q})", keys: f"{k}.contiguous()"}
        for node in fused.replaces[:-1]:
            if points:
                here = [point for point in points if point in self._at([node])]
                lines += self.text.assigned(node, self.text.expression(node, ports=part), indent)
                lines += self._records(here, indent)
                points, part = [point for point in points if point not in here], {}
        return lines

    def _at(self, nodes: Iterable[Node]) -> list[Point]:
        paths = {node.path for node in nodes}
        return [point for point in self.text.points if point.node and point.node.path in paths]

    def _records(self, points: Iterable[Point], indent: int) -> list[str]:
        lines = []
        for point in points:
            if not point.probe.gradient:
                measured = self._measured(point)
                lines += statement(self._row(point), self.measured.get(measured, measured), _about(point), indent)
                self.measured[measured] = self._row(point)
        return lines

    def _row(self, point: Point) -> str:
        return f"self.records[{self.rows[point.key]}]"

    def _measured(self, point: Point) -> str:
        """The text of a probe with its values, and those of the op's numbers that it names."""
        named = {name for _, name, *_ in Formatter().parse(point.probe.text) if name}
        words = {name: self.text.value(ref) for name, ref in point.values.items() if name in named}
        numbers = point.node.op.numbers() if point.node else {}
        for name in named & numbers.keys():
            assert point.node
            words[name] = self.text.site(point.node).number(numbers[name])
        return point.probe.text.format(**words, causal=self.text.graph.causal)


def _ports(fused: Node) -> tuple[str, str]:
    """The ports of a chain's first node that read the queries and the keys."""
    assert isinstance(fused.op, Fusion)
    wanted = [fused.inputs[port] for port in (fused.op.queries, fused.op.keys)]
    ports = list(fused.replaces[0].inputs)
    queries = next(port for port in ports if fused.replaces[0].inputs[port] == wanted[0])
    keys = next(port for port in ports if fused.replaces[0].inputs[port] == wanted[1] and port != queries)
    return queries, keys


def _about(point: Point) -> str:
    """What a line records, in a comment."""
    names = ", ".join(quantity.name for quantity in point.probe.quantities)
    return ".".join(word for word in (point.place, point.probe.name, names) if word)
