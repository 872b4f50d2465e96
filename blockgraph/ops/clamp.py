"""Clamp: values kept within bounds."""

from typing import ClassVar

from pydantic import Field

from blockgraph.errors import OpError
from blockgraph.fields import Finite
from blockgraph.op import Op, Site, Style
from blockgraph.types import Flow, Type


class Clamp(Op):
    """`min(max(x, least), most)`, entry by entry; beyond a bound no gradient passes. [...] -> [...]."""

    name: ClassVar = "clamp"
    style: ClassVar = Style("limit")
    example: ClassVar = "clamp: {op: clamp, in: x, least: -7, most: 7}"

    least: Finite | None = Field(None, description="lower bound; none when left out")
    most: Finite | None = Field(None, description="upper bound; none when left out")

    def infer(self, x: Type) -> Type:
        """The input's type; masked logits would not stay minus infinity, nor would zero weights stay zero."""
        if self.least is None and self.most is None:
            raise OpError("has neither least nor most, so it does nothing")
        if x.kind == "int":
            raise OpError("works on real numbers, found {}", x)
        return x.with_flow(Flow.PAIRS) if x.flow in (Flow.MASKED, Flow.WEIGHTS) else x

    def lower(self, site: Site, x: str) -> str:
        """`torch.clamp`, as a method."""
        bounds = {"min": self.least, "max": self.most}
        words = [f"{word}={site.number(bound)}" for word, bound in bounds.items() if bound is not None]
        return f"{x}.clamp({', '.join(words)})"

    def label(self) -> str:
        """The bounds."""
        if self.least is None or self.most is None:
            return f"≤ {self.most}" if self.least is None else f"≥ {self.least}"
        return f"{self.least} … {self.most}"
