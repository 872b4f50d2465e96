"""Lines of the method that takes new tokens alone, with what it reads of earlier ones in a cache."""

from itertools import takewhile
from typing import TYPE_CHECKING

from blockgraph.caching import is_fixed, plan
from blockgraph.graph import Node, Ref
from blockgraph.layout import docstring, signature, statement
from blockgraph.types import TOKENS

if TYPE_CHECKING:
    from blockgraph.classes import ClassText

START = "past.length"  # position of the first new token
ABOUT = "`forward` for the tokens behind those of `past`; their rows alone are computed."


class Stepping:
    """The method `extend` of one class."""

    def __init__(self, text: "ClassText"):
        self.text, self.graph = text, text.graph.unfused()
        self.plan = plan(self.graph)
        self.first, self.narrowed = self._tail()
        self.everything = {ref: text.fresh(f"{text.variables[ref]}_all") for ref in self._read_whole()}

    def method(self) -> list[str]:
        """The lines, in running order; a value that is kept has a line behind the one that makes it.

        None where no input has tokens: what a block of another text gives is made once, by its `forward`.
        """
        if not self._has_tokens():
            return []
        inputs = [self.text.variables[Ref("input", name)] for name in self.graph.inputs]
        given = ["self", *(f"{name}: Tensor" for name in inputs), "past: Cache"]
        output = "Tensor" if len(self.graph.outputs) == 1 else "tuple[Tensor, ...]"
        head = [*signature("extend", given, output), *docstring(ABOUT, indent=8)]
        kept = [line for name in self.graph.inputs for line in self.kept(Ref("input", name), 8)]
        needed = self.plan.rows | self.plan.copied
        nodes = [node for node in self.graph.nodes.values() if node.path in needed]
        body = self.text.lines(nodes, self.line)
        results = ", ".join(self.text.value(ref) for ref in self.graph.outputs.values())
        return [*head, *self.text.sizes(), *kept, *body, f"        return {results}"]

    def line(self, node: Node, indent: int) -> list[str]:
        """The line of one node, for the new tokens, and those that give the rows of all tokens."""
        if node.blocks:
            return self._layers(node) if self._is_made_once(node) else self.text.loop(node, ".extend", "past")
        lines = self._asked(indent) if node.path == self.first else []
        if node.path in self.plan.rows:
            lines += self.text.assigned(node, self._rows(node), indent)
        for port in node.outputs:
            lines += self.kept(Ref("node", node.path, port), indent)
        if node.path in self.plan.copied:
            name = self.everything[Ref("node", node.path, node.outputs[0])]
            lines += statement(name, self._expression(node, tuple(node.data()), ""), indent=indent)
        return lines

    def kept(self, ref: Ref, indent: int) -> list[str]:
        """The line that keeps the new rows of a value and gives those of all tokens."""
        if ref not in self.plan.cached:
            return []
        call = f'past.keep(self, "{ref}", {self.text.variables[ref]}, axis={self.plan.cached[ref]})'
        return statement(self.everything[ref], call, indent=indent)

    def _rows(self, node: Node) -> str:
        """What a node computes for the new tokens, or once where it is the same for all."""
        if self._is_made_once(node):
            return f'past.once(self, "{node.path}", lambda: {self.text.expression(node)})'
        apart = node.op.whole(*(self.graph.type_of(ref) for ref in node.data().values()))
        return self._expression(node, apart, START if any(map(self._varies, node.inputs.values())) else "")

    def _layers(self, node: Node) -> list[str]:
        """The layers of a stack that are the same for all tokens, as a function that runs once."""
        results = ", ".join(self.text.variables[Ref("node", node.path, port)] for port in node.outputs)
        name = self.text.fresh(f"run_{node.name}")
        head = signature(name, [], "Tensor" if len(node.outputs) == 1 else "tuple[Tensor, ...]", indent=8)
        body = [f"    {line}" for line in [*self.text.loop(node), f"        return {results}"]]
        return ["", *head, *body, "", *statement(results, f'past.once(self, "{node.path}", {name})')]

    def _is_made_once(self, node: Node) -> bool:
        """Whether a node reads parameters, and inputs without tokens, beside which the graph has others."""
        values = [Ref("node", node.path, port) for port in node.outputs]
        alike = not any(map(self._varies, [*values, *node.inputs.values()]))
        return alike and bool(node.inputs) and self._has_tokens()

    def _has_tokens(self) -> bool:
        return any(self._varies(Ref("input", name)) for name in self.graph.inputs)

    def _expression(self, node: Node, whole: tuple[str, ...], start: str) -> str:
        read = {port: self.everything[ref] for port, ref in node.data().items() if port in whole and self._varies(ref)}
        return self.text.expression(node, ports=read, start=start)

    def _asked(self, indent: int) -> list[str]:
        """The line that leaves out rows of which no output is wanted."""
        (ref,) = self.narrowed
        kind = self.graph.type_of(ref)
        assert kind is not None
        name = self.text.variables[ref]
        return statement(name, f"past.asked({name}, axis={kind.sizes.index(TOKENS)})", indent=indent)

    def _tail(self) -> tuple[str, set[Ref]]:
        """The node from which on no row needs another, and the one value with rows that comes to it from before."""
        nodes = [node for node in self.graph.nodes.values() if node.path in self.plan.rows]
        tail = list(takewhile(self._is_alone, reversed(nodes)))
        made = {Ref("node", node.path, port) for node in tail for port in node.outputs}
        read = {ref for node in tail for ref in node.inputs.values() if self._varies(ref)} - made
        fits = len(read) == 1 and set(self.graph.outputs.values()) <= made | read
        return (tail[-1].path, read) if fits and self.graph.kind == "model" else ("", set())

    def _is_alone(self, node: Node) -> bool:
        """Whether each row of a node needs no other, nor its position."""
        kept = any(Ref("node", node.path, port) in self.plan.cached for port in node.outputs)
        if node.blocks or kept or node.path in self.plan.copied:
            return False
        whole = node.op.whole(*(self.graph.type_of(ref) for ref in node.data().values()))
        return not whole and START not in self._expression(node, (), START)

    def _varies(self, ref: Ref) -> bool:
        return not is_fixed(self.graph, ref)

    def _read_whole(self) -> list[Ref]:
        """Values of which the rows of all tokens have a variable."""
        copied = [Ref("node", path, self.graph.nodes[path].outputs[0]) for path in self.plan.copied]
        return [*self.plan.cached, *sorted(copied, key=str)]
