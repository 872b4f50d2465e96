"""A constant factor."""

from typing import ClassVar

from pydantic import Field

from blockgraph.fields import Finite
from blockgraph.op import Op, Site, Style
from blockgraph.types import Flow, Type


class Scale(Op):
    """`by * x`. [...] -> [...]; `by` may depend on `layer`, as in LayerNorm scaling."""

    name: ClassVar = "scale"
    style: ClassVar = Style("scale", "× {by}")
    incremental: ClassVar = True
    example: ClassVar = "scale: {op: scale, in: x, by: 1 / sqrt(layer + 1)}"

    by: Finite = Field(description="the factor")

    def infer(self, x: Type) -> Type:
        """The input's type; only a positive factor leaves minus infinity where the mask put it."""
        masked_kept = self.by.value is not None and self.by.value > 0
        return x.real().with_flow(Flow.PAIRS) if x.flow is Flow.MASKED and not masked_kept else x.real()

    def lower(self, site: Site, x: str) -> str:
        """One multiplication."""
        return f"{x} * {site.number(self.by)}"
