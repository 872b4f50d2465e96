"""Numbers as text in a forward pass: literals, constants of a layer, expressions over the sizes of the inputs."""

import ast
from dataclasses import dataclass, field
from functools import reduce

from blockgraph.dims import LAYER, Number

BOUNDS = {"min": ("torch.minimum", "max"), "max": ("torch.maximum", "min")}  # of two tensors, of a tensor and a number


@dataclass
class Constants:
    """What the numbers of one class need: constants by owner and path, as text over `layer`, and run-time sizes."""

    by_owner: dict[str, dict[str, str]] = field(default_factory=dict)
    sizes: set[str] = field(default_factory=set)

    def text(self, number: Number, owner: str, name: str) -> str:
        """Text of a number; what depends on the layer in it becomes a 0-d tensor at `self.constants.OWNER.NAME`."""
        sizes = number.free - {LAYER}
        self.sizes |= sizes
        tree: ast.AST = ast.parse(python(number), mode="eval")
        if LAYER in number.free:
            tree = _LayerOut(self.by_owner.setdefault(owner, {}), f"{owner}.{name}", sizes).visit(tree)
        return f"({ast.unparse(tree)})" if sizes else ast.unparse(tree)


def python(number: Number) -> str:
    """Plain Python over `layer` and run-time sizes, with no more parentheses than it needs."""
    return ast.unparse(ast.parse(number.source({name: name for name in number.free}), mode="eval"))


class _LayerOut(ast.NodeTransformer):
    """Puts a constant in the place of all that depends on the layer alone, and tensor functions around the rest."""

    def __init__(self, constants: dict[str, str], path: str, sizes: frozenset[str]):
        self.constants, self.path, self.sizes = constants, path, sizes
        self.count = 0

    def visit(self, node: ast.AST) -> ast.AST:
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        if not isinstance(node, ast.expr) or LAYER not in names:
            return node if isinstance(node, ast.expr) else self.generic_visit(node)
        if not names & self.sizes:
            return self._constant(node)
        return self._call(node) if isinstance(node, ast.Call) else self.generic_visit(node)

    def _constant(self, node: ast.expr) -> ast.expr:
        self.count += 1
        path = self.path if self.count == 1 else f"{self.path}_{self.count}"
        self.constants[path] = ast.unparse(node)
        return _expression(f"self.constants.{path}")

    def _call(self, node: ast.Call) -> ast.expr:
        layered = [_names_layer(argument) for argument in node.args]
        texts = [ast.unparse(self.visit(argument)) for argument in node.args]
        if isinstance(node.func, ast.Attribute):
            return _expression(f"torch.{node.func.attr}({texts[0]})")
        assert isinstance(node.func, ast.Name)
        both, bound = BOUNDS[node.func.id]
        tensors = [text for text, known in zip(texts, layered, strict=True) if known]
        numbers = [text for text, known in zip(texts, layered, strict=True) if not known]
        whole = reduce(lambda a, b: f"{both}({a}, {b})", tensors)
        return _expression(reduce(lambda a, b: f"torch.clamp({a}, {bound}={b})", numbers, whole))


def _names_layer(node: ast.expr) -> bool:
    return any(isinstance(inner, ast.Name) and inner.id == LAYER for inner in ast.walk(node))


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
