"""Repeat the heads. Axes: B batch, T tokens, G heads of keys and values, H heads of queries, K features of a head."""

from typing import ClassVar

from pydantic import Field

from blockgraph.errors import OpError
from blockgraph.fields import SizeField
from blockgraph.op import Op, Site, Style
from blockgraph.types import Type


class RepeatHeads(Op):
    """`y[b, h, t] = x[b, h // times, t]`: each head of keys or values serves several neighbouring heads of queries.

    [batch, heads, seq, K] -> [batch, times * heads, seq, K]; grouped-query attention (Ainslie et al., section 2.2).
    """

    name: ClassVar = "repeat_heads"
    style: ClassVar = Style("reshape", "repeat heads", hidden=True)
    paper: ClassVar = "https://arxiv.org/abs/2305.13245"
    incremental: ClassVar = True
    copies: ClassVar = True
    example: ClassVar = "groups: {op: repeat_heads, in: k, times: 2}"

    times: SizeField = Field(description="heads of queries that share one head of keys and values")

    def infer(self, x: Type) -> Type:
        """More heads."""
        if len(x.sizes) != 4:
            raise OpError("expects [batch, heads, seq, features], found {}", x)
        batch, heads, *rest = x.sizes
        return Type((batch, heads * self.times, *rest), x.kind, x.flow)

    def lower(self, site: Site, x: str) -> str:
        """A copy of each head beside it."""
        return f"{x}.repeat_interleave({site.size(self.times)}, dim=1)"

    def label(self) -> str:
        """How often."""
        return f"repeat heads × {self.times.known}"
