"""Text of one node in torch, as its op gives it; where an op of a user's own gives none, that is told at the node."""

import ast
from collections.abc import Mapping, Sequence

from blockgraph.errors import Problem, SpecError
from blockgraph.graph import Node
from blockgraph.op import Site


def text_of(node: Node, site: Site, read: Sequence[str], tensors: Mapping[str, str]) -> str:
    """The expression for a node's value; raises `SpecError` where what the op gives is none."""
    try:
        text = node.op.lower(site, *read, **tensors)
    except TypeError as error:
        inside = error.__traceback__ and error.__traceback__.tb_next
        if inside:
            raise
        takes = ", ".join(["site", *(f"'{name}'" for name in node.data()), *tensors])
        raise _fault(node, f"`lower` cannot be called: {error}", f"it is given {takes}") from None
    fault = _unsound(text)
    if fault:
        raise _fault(node, f"`lower` gives {fault}", "it returns the text of an expression in torch")
    return text


def _unsound(text: object) -> str:
    if not isinstance(text, str):
        return f"{text!r}, which is no text"
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:
        return f"'{text}', which is no expression of Python"
    return ""


def _fault(node: Node, message: str, hint: str) -> SpecError:
    return SpecError([Problem(f"{node.path} ({node.op.name}): {message}", node.place, hint)])
