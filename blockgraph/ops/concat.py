"""Features of several values side by side."""

from typing import ClassVar

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.op import Op, Site, Style
from blockgraph.types import Flow, Type


class Concat(Op):
    """`y = [a | b | ...]` along the last axis; the axes in front are the same. [..., A], [..., B] -> [..., A + B]."""

    name: ClassVar = "concat"
    style: ClassVar = Style("reshape", "concat")
    incremental: ClassVar = True
    example: ClassVar = "both: {op: concat, in: [q, k]}"

    def infer(self, *x: Type) -> Type:
        """All features; causal where all are."""
        if len(x) < 2:
            raise OpError("combines two or more values, found one")
        for other in x[1:]:
            if other.sizes[:-1] != x[0].sizes[:-1] or other.kind != x[0].kind:
                raise OpError("sizes differ in front of the features: {} and {}", x[0], other)
        total = Size.constant(0)
        for value in x:
            total = total + value.last
        past = all(value.flow is Flow.PAST for value in x)
        return Type((*x[0].sizes[:-1], total), x[0].kind, Flow.PAST if past else Flow.ALL)

    def lower(self, site: Site, *x: str) -> str:
        """One copy."""
        return f"torch.cat(({', '.join(x)}), dim=-1)"
