"""Residual streams mixed into others (hyper-connections, arXiv 2409.19606). Axes: N streams, M new ones, T tokens."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import SizeField, constant, normal
from blockgraph.op import Param, Site, Style, WeightedOp
from blockgraph.types import TOKENS, Flow, Type

GAIN = 0.01  # of the dynamic weights at the start (section 2.2)


class MixStreams(WeightedOp):
    """`y[b, m, t] = sum over n of (weight[n, m] + gain * tanh(dynamic[b, n, t, m])) * x[b, n, t]`.

    Streams [batch, N, T, D], and dynamic [batch, N, T, streams] where it is wired -> [batch, streams, T, D]. weight
    [N, streams], init normal 0.02, no weight decay; gain [1], init 0.01, where there are dynamic weights. These are
    width-connections (sections 2.1 and 2.2): `streams: 1` makes what a sublayer reads, and as many as there are what
    goes past it.
    """

    name: ClassVar = "mix_streams"
    style: ClassVar = Style("scale", "mix into {streams}")
    paper: ClassVar = "https://arxiv.org/abs/2409.19606"
    incremental: ClassVar = True
    weights: ClassVar = ("weight", "gain")
    example: ClassVar = """\
by: {op: linear, in: q, out: 2}
mix: {op: mix_streams, in: [q, by], streams: 2}"""

    streams: SizeField = Field(description="count of the new streams")

    def infer(self, x: Type, dynamic: Type | None = None) -> Type:
        """The new streams; causal where all that is read is."""
        if len(x.sizes) != 4 or TOKENS.names & x.sizes[1].names:
            raise OpError("expects streams [batch, streams, T, features], found {}", x)
        batch, before, tokens, width = x.sizes
        wanted = (batch, before, tokens, self.streams)
        if dynamic and dynamic.sizes != wanted:
            raise OpError("dynamic is {}, and {} is needed", dynamic, Type(wanted))
        past = all(kind.real().flow is Flow.PAST for kind in (x, dynamic or x))
        return Type((batch, self.streams, tokens, width), flow=Flow.PAST if past else Flow.ALL)

    def flops(self, x: Type, dynamic: Type | None = None) -> Size:
        """Two for every multiply-add."""
        return x.entries * self.streams * 2

    def parameters(self, x: Type, dynamic: Type | None = None) -> tuple[Param, ...]:
        """The static weights, and the gain of the dynamic ones."""
        weight = self.weight("weight", (x.sizes[1], self.streams), normal(0.02), decay=False)
        return (weight, *gains(self, dynamic))

    def lower(self, site: Site, x: str, dynamic: str = "", *, weight: str, gain: str = "") -> str:
        """One batched product."""
        return f"mix_streams({', '.join([x, weight, *[dynamic, gain] * bool(dynamic)])})"

    def label(self) -> str:
        """How many there will be."""
        return f"mix into {self.streams.known}"


def gains(op: WeightedOp, dynamic: Type | None) -> tuple[Param, ...]:
    """The one gain of dynamic weights, where there are any."""
    return (Param("gain", (Size.constant(1),), constant(GAIN), decay=False, lr=op.lr),) if dynamic else ()
