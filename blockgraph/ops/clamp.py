"""Clamp: values kept within bounds."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Number
from blockgraph.errors import OpError
from blockgraph.fields import Finite
from blockgraph.op import Op, Site, Style
from blockgraph.types import Flow, Type


class Clamp(Op):
    """`min(max(x, least), most)`, entry by entry; beyond a bound no gradient passes. [...] -> [...]."""

    name: ClassVar = "clamp"
    style: ClassVar = Style("activation")
    incremental: ClassVar = True
    example: ClassVar = "clamp: {op: clamp, in: x, least: -7, most: 7}"

    least: Finite | None = Field(None, description="lower bound; none when left out")
    most: Finite | None = Field(None, description="upper bound; none when left out")

    def infer(self, x: Type) -> Type:
        """The input's type; masked logits would not stay minus infinity, nor would zero weights stay zero."""
        if self.least is None and self.most is None:
            raise OpError("has neither least nor most, so it does nothing")
        return x.real().with_flow(Flow.PAIRS) if x.flow in (Flow.MASKED, Flow.WEIGHTS) else x.real()

    def lower(self, site: Site, x: str) -> str:
        """`torch.clamp`, as a method."""
        bounds = zip(("min", "max"), self.bounds, strict=True)
        words = [f"{word}={site.number(bound)}" for word, bound in bounds if bound is not None]
        return f"{x}.clamp({', '.join(words)})"

    def label(self) -> str:
        """The bounds."""
        least, most = (bound if bound is None or bound.value is None else f"{bound.value:g}" for bound in self.bounds)
        if least is None or most is None:
            return f"≤ {most}" if least is None else f"≥ {least}"
        return f"{least} … {most}"

    @property
    def bounds(self) -> tuple[Number | None, Number | None]:
        """The lower and the upper one."""
        return self.least, self.most
