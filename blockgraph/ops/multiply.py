"""Product of values, entry by entry: the gate of a gated linear unit."""

from typing import ClassVar

from blockgraph.op import Op, Site, Style
from blockgraph.ops.add import alike
from blockgraph.types import Flow, Type


class Multiply(Op):
    """`a * b * ...`; all inputs have the same sizes, nothing is broadcast. [...] -> [...]."""

    name: ClassVar = "multiply"
    style: ClassVar = Style("residual", "×")
    incremental: ClassVar = True
    example: ClassVar = "gate: {op: multiply, in: [x, x]}"

    def infer(self, *x: Type) -> Type:
        """The common type; the product of two masked logits is plus infinity, so it is masked no longer."""
        kind = alike(x)
        return kind.with_flow(Flow.PAIRS) if kind.flow is Flow.MASKED else kind

    def lower(self, site: Site, *x: str) -> str:
        """Plain multiplications, from left to right."""
        return " * ".join(x)
