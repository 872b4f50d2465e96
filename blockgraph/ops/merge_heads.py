"""Merge the heads. Axes: B batch, T tokens, H heads, K features of a head."""

from typing import ClassVar

from blockgraph.errors import OpError
from blockgraph.op import Op, Site, Style
from blockgraph.types import Flow, Type


class MergeHeads(Op):
    """`y[b, t, h * K + k] = x[b, h, t, k]`: the features of all heads side by side, in head-major order.

    [batch, heads, seq, K] -> [batch, seq, heads * K].
    """

    name: ClassVar = "merge_heads"
    style: ClassVar = Style("reshape", "merge heads", hidden=True)
    incremental: ClassVar = True
    example: ClassVar = "merge: {op: merge_heads, in: q}"

    def infer(self, x: Type) -> Type:
        """The head axis folded into the features."""
        if len(x.sizes) != 4:
            raise OpError("expects [batch, heads, seq, features], found {}", x)
        batch, heads, tokens, width = x.sizes
        return Type((batch, tokens, heads * width), x.kind, Flow.PAST if x.flow is Flow.PAST else Flow.ALL)

    def lower(self, site: Site, x: str) -> str:
        """One transpose and one copy."""
        return f"merge_heads({x})"
