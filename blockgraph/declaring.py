"""Lines of the constructor of a class: its parameters, states, constants and layers, declared by their paths."""

from typing import TYPE_CHECKING

from blockgraph.constants import python
from blockgraph.fields import Init
from blockgraph.graph import Node
from blockgraph.layout import BODY, statement
from blockgraph.loops import listed
from blockgraph.op import Param, State

if TYPE_CHECKING:
    from blockgraph.classes import ClassText


class Declaring:
    """The constructor of one class; constants are known once the other methods are written."""

    def __init__(self, text: "ClassText"):
        self.text = text

    def method(self) -> list[str]:
        """The declarations, in running order."""
        lines = ["    def __init__(self, layer: int = 0) -> None:", f"{BODY}super().__init__()"]
        for node in self.text.graph.nodes.values():
            lines += self.stack(node) if node.blocks else self.tensors(node)
        return [*lines, *[f"{BODY}self.records: Tensor | None = None"] * bool(self.text.points)]

    def tensors(self, node: Node) -> list[str]:
        """The declarations of one node."""
        calls = [self.declaration(node, param, _group(param)) for param in node.params]
        calls += [self.declaration(node, state, _kept(state)) for state in node.states]
        for step in (*node.replaces[:-1], node):
            numbers = self.text.constants.by_owner.get(step.dotted, {})
            calls += [f'self.declare_constant("{path}", {number})' for path, number in numbers.items()]
        return [line for call in calls for line in statement("", call)]

    def declaration(self, node: Node, tensor: Param | State, group: list[str]) -> str:
        """One call of `declare`."""
        shape = repr(tuple(size.known for size in tensor.sizes))
        words = [f'"{node.home}.{tensor.name}"', shape, *_start(tensor.init), *group]
        return f"self.declare({', '.join(words)})"

    def stack(self, node: Node) -> list[str]:
        """The layers of a stack; each class is named once where it can be."""
        kinds = [self.text.blocks[node.path][index] for index in node.plan]
        made = f"[{kinds[0]}(layer) for layer in range({len(kinds)})]"
        if len(set(kinds)) > 1:
            made = f"[kind(layer) for layer, kind in enumerate({listed(kinds)})]"
        shared = "".join(f"{_quoted(path)}, " for path in node.op.sharing())
        share = [f"share=({shared.rstrip() if shared.count(',') == 1 else shared[:-2]})"] * bool(shared)
        return statement("", f"self.declare_layers({', '.join([_quoted(node.path), made, *share])})")


def _quoted(path: str) -> str:
    return f'"{path}"'


def _group(param: Param) -> list[str]:
    lr = [f"lr={python(param.lr)}"] * (param.lr.value != 1.0)
    return ["decay=False"] * (not param.decay) + lr + ["rows=True"] * param.rows


def _kept(state: State) -> list[str]:
    return ["trained=False"] + ["measured=True"] * state.measured + ["total=True"] * state.total


def _start(init: Init) -> tuple[str, str]:
    return f'"{init.kind}"', python(init.number)
