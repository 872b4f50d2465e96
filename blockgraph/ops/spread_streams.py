"""A value added out to several residual streams (hyper-connections, arXiv 2409.19606). Axes: N streams, T tokens."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import SizeField, constant
from blockgraph.op import Param, Site, Style, WeightedOp
from blockgraph.ops.mix_streams import gains
from blockgraph.types import Flow, Type


class SpreadStreams(WeightedOp):
    """`y[b, n, t] = (weight[n] + gain * tanh(dynamic[b, n, t])) * x[b, t]`: one value into each stream.

    x [batch, T, D], and dynamic [batch, streams, T, 1] where it is wired -> [batch, streams, T, D]. weight [streams],
    init 1, no weight decay; gain [1], init 0.01, where there are dynamic weights. These are depth-connections (sections
    2.1 and 2.2). With `trained: false` every stream is a plain copy, as at the first layer.
    """

    name: ClassVar = "spread_streams"
    style: ClassVar = Style("scale", "into {streams}")
    paper: ClassVar = "https://arxiv.org/abs/2409.19606"
    incremental: ClassVar = True
    weights: ClassVar = ("weight", "gain")
    example: ClassVar = "spread: {op: spread_streams, in: x, streams: 3}"

    streams: SizeField = Field(description="count of the streams")
    trained: bool = Field(True, description="a trained weight for each stream; plain copies otherwise")

    def infer(self, x: Type, dynamic: Type | None = None) -> Type:
        """The streams; causal where all that is read is."""
        if len(x.sizes) != 3:
            raise OpError("expects [batch, T, features], found {}", x)
        batch, tokens, width = x.sizes
        wanted = Type((batch, self.streams, tokens, Size.constant(1)))
        if dynamic and dynamic.sizes != wanted.sizes:
            raise OpError("dynamic is {}, and {} is needed", dynamic, wanted)
        if dynamic and not self.trained:
            raise OpError("copies have no weights, so `trained: false` reads no dynamic ones")
        past = all(kind.real().flow is Flow.PAST for kind in (x, dynamic or x))
        return Type((batch, self.streams, tokens, width), flow=Flow.PAST if past else Flow.ALL)

    def parameters(self, x: Type, dynamic: Type | None = None) -> tuple[Param, ...]:
        """The static weights, and the gain of the dynamic ones."""
        weight = self.weight("weight", (self.streams,), constant(1.0), decay=False)
        return (weight, *gains(self, dynamic)) if self.trained else ()

    def lower(self, site: Site, x: str, dynamic: str = "", *, weight: str = "", gain: str = "") -> str:
        """One product with broadcasting; copies are a view."""
        if not self.trained:
            return f"{x}.unsqueeze(1).expand(-1, {site.size(self.streams)}, -1, -1)"
        return f"spread_streams({', '.join([x, weight, *[dynamic, gain] * bool(dynamic)])})"

    def label(self) -> str:
        """How many streams."""
        return f"spread into {self.streams.known}" if self.trained else f"copy into {self.streams.known}"
