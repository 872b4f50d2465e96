"""A constant term."""

from typing import ClassVar

from pydantic import Field

from blockgraph.fields import Finite
from blockgraph.op import Op, Site, Style
from blockgraph.types import Flow, Type


class Shift(Op):
    """`x + by`, entry by entry. [...] -> [...]."""

    name: ClassVar = "shift"
    style: ClassVar = Style("scale", "+ {by}")
    incremental: ClassVar = True
    example: ClassVar = "shift: {op: shift, in: x, by: 1}"

    by: Finite = Field(description="the term")

    def infer(self, x: Type) -> Type:
        """The input's type; weights that were zero are so no more."""
        return x.real().with_flow(Flow.PAIRS) if x.flow is Flow.WEIGHTS else x.real()

    def lower(self, site: Site, x: str) -> str:
        """One addition."""
        return f"{x} + {site.number(self.by)}"
