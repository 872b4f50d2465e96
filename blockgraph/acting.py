"""Lines of the methods in which nodes act on parameters: once these have their initial values, and after every step."""

from typing import TYPE_CHECKING

from blockgraph.graph import Node
from blockgraph.layout import BODY, statement

if TYPE_CHECKING:
    from blockgraph.classes import ClassText


class Acting:
    """The methods `finish_init` and `finish_step` of one class."""

    def __init__(self, text: "ClassText"):
        self.text = text

    def method(self, name: str) -> list[str]:
        """The method of this name, with what the nodes do after initialisation, or after the optimiser's step."""
        acting = {node.path: lines for node in self.text.graph.nodes.values() if (lines := self.action(node, name))}
        if not acting:
            return []
        needed = set().union(*(self.before(self.text.graph.nodes[path]) for path in acting))
        lines = [f"    def {name}(self) -> None:"]
        for path, node in self.text.graph.nodes.items():
            lines += acting.get(path, [])
            lines += self.text.assigned(node, self.text.expression(node, "full({})")) if path in needed else []
        return lines

    def action(self, node: Node, method: str) -> list[str]:
        """What one node does, on the parameters themselves; of layers that share them the first acts."""
        apart = (*node.op.weights, *node.op.changes)
        ports = {port: ref for port, ref in node.inputs.items() if port in apart or node.renews}
        tensors = {port: self.text.value(ref) for port, ref in ports.items()} | self.text.owned(node)
        call = node.op.on_init if method == "finish_init" else node.op.on_step
        statements = call(self.text.site(node), **tensors).splitlines()
        indent, guard = len(BODY), []
        if statements and any(_within(node.home, path) for path in self.text.shared):
            first = f"{node.home}.{next(iter(self.text.owned(node)))}"
            indent, guard = len(BODY) + 4, [f'{BODY}if "{first}" in self.table:  # the first layer owns what all share']
        return [*guard, *(line for text in statements for line in statement("", text, self.text.place(node), indent))]

    def before(self, node: Node) -> set[str]:
        """Paths of the nodes whose values an action reads; all of them come from parameters alone."""
        found: set[str] = set()
        waiting = list(node.inputs.values()) if node.renews else []
        while waiting:
            ref = waiting.pop()
            if ref.kind == "node" and ref.owner not in found:
                found.add(ref.owner)
                waiting.extend(self.text.graph.nodes[ref.owner].inputs.values())
        return found


def _within(home: str, path: str) -> bool:
    return home == path or home.startswith(f"{path}.")
