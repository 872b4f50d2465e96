"""Product of values, entry by entry: the gate of a gated linear unit."""

from typing import ClassVar

from blockgraph.op import Op, Site, Style
from blockgraph.ops.add import alike
from blockgraph.types import Type


class Multiply(Op):
    """`a * b * ...`; all inputs have the same sizes, nothing is broadcast. [...] -> [...]."""

    name: ClassVar = "multiply"
    style: ClassVar = Style("residual", "×")
    example: ClassVar = "gate: {op: multiply, in: [x, x]}"

    def infer(self, *x: Type) -> Type:
        """The common type."""
        return alike(x)

    def lower(self, site: Site, *x: str) -> str:
        """Plain multiplications, from left to right."""
        return " * ".join(x)
