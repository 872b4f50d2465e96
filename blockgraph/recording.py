"""Lines of a forward pass that record: gradients on their edges, values behind the nodes that give them."""

from collections.abc import Iterable
from string import Formatter
from typing import TYPE_CHECKING

from blockgraph.graph import Node
from blockgraph.layout import statement
from blockgraph.probes import Point

if TYPE_CHECKING:
    from blockgraph.classes import ClassText


class Recording:
    """The points of one class, each with its row of `self.records`; what is measured twice is written twice."""

    def __init__(self, text: "ClassText"):
        self.text = text
        self.rows = {point.key: row for row, point in enumerate(text.points)}
        self.measured: dict[str, str] = {}

    def line(self, node: Node) -> list[str]:
        """The line of a node with the gradients at its edges watched, and the lines that record its values."""
        points = [point for point in self.text.points if point.node and point.node.path == node.path]
        edges = {point.probe.gradient: self._row(point) for point in points if point.probe.gradient}
        ports = {
            port: f"watch({self.text.value(ref)}, {edges[port]})" for port, ref in node.data().items() if port in edges
        }
        expression = self.text.expression(node, ports=ports)
        result = f"watch({expression}, {edges['out']})" if "out" in edges else expression
        return [*self.text.assigned(node, result), *self._inside(node), *self._records(points)]

    def _inside(self, node: Node) -> list[str]:
        """The steps that a fused node replaces, taken once more as far as probes read them, apart from training."""
        steps = node.replaces[:-1]
        points = [
            [point for point in self.text.points if point.node and point.node.path == step.path] for step in steps
        ]
        needed = max((number for number, found in enumerate(points, 1) if found), default=0)
        lines = []
        for step, found in zip(steps[:needed], points, strict=False):
            outside = {port: ref for port, ref in step.data().items() if ref.owner not in {s.path for s in steps}}
            ports = {port: f"{self.text.value(ref)}.detach()" for port, ref in outside.items()}
            lines += [*self.text.assigned(step, self.text.expression(step, ports=ports)), *self._records(found)]
        return lines

    def outputs(self) -> list[str]:
        """The lines that record what the graph gives."""
        return self._records(point for point in self.text.points if not point.node)

    def _records(self, points: Iterable[Point]) -> list[str]:
        lines = []
        for point in points:
            if not point.probe.gradient:
                names = ", ".join(quantity.name for quantity in point.probe.quantities)
                about = ".".join(word for word in (point.place, point.probe.name, names) if word)
                measured = self._measured(point)
                lines += statement(self._row(point), self.measured.get(measured, measured), about)
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
