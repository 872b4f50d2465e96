"""The sum of residual streams (hyper-connections, arXiv 2409.19606)."""

from typing import ClassVar

from blockgraph.errors import OpError
from blockgraph.op import Op, Site, Style
from blockgraph.types import TOKENS, Flow, Type


class SumStreams(Op):
    """`y[b, t] = sum over n of x[b, n, t]`: all streams as one value, behind the last layer (section 2.1).

    [batch, streams, T, D] -> [batch, T, D].
    """

    name: ClassVar = "sum_streams"
    style: ClassVar = Style("residual", "+")
    paper: ClassVar = "https://arxiv.org/abs/2409.19606"
    incremental: ClassVar = True
    example: ClassVar = "whole: {op: sum_streams, in: q}"

    def infer(self, x: Type) -> Type:
        """The streams' type without them."""
        if len(x.sizes) != 4 or TOKENS.names & x.sizes[1].names:
            raise OpError("expects streams [batch, streams, T, features], found {}", x)
        batch, _, tokens, width = x.sizes
        return Type((batch, tokens, width), flow=Flow.PAST if x.real().flow is Flow.PAST else Flow.ALL)

    def lower(self, site: Site, x: str) -> str:
        """One sum."""
        return f"{x}.sum(dim=1)"
