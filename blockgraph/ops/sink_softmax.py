"""Softmax with sinks (StreamingLLM, arXiv 2309.17453; gpt-oss, arXiv 2508.10925). Axes: H heads, T queries, S keys."""

from typing import ClassVar

from blockgraph.errors import OpError
from blockgraph.fields import constant
from blockgraph.op import Param, Site, WeightedOp
from blockgraph.ops.softmax import Softmax
from blockgraph.types import Type


class SinkSoftmax(WeightedOp, Softmax):
    """`exp(x) / (exp(sink) + sum(exp(x)))` over the last axis, in fp32: a learned logit takes weight and gives nothing.

    [batch, heads, ..., S] -> [batch, heads, ..., S], whose rows sum to less than one; sink [heads], init 0, no weight
    decay.
    """

    name: ClassVar = "sink_softmax"
    paper: ClassVar = "https://arxiv.org/abs/2309.17453"
    incremental: ClassVar = True
    weights: ClassVar = ("sink",)
    example: ClassVar = """\
mask: {op: causal_mask, in: scores}
softmax: {op: sink_softmax}"""

    def infer(self, x: Type) -> Type:
        """The input's type; masked logits become weights that are zero ahead of the token."""
        if len(x.sizes) < 3:
            raise OpError("expects [batch, heads, ..., keys], found {}", x)
        return Softmax.infer(self, x)

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """A logit for each head."""
        return (self.weight("sink", (x.sizes[1],), constant(0.0), decay=False),)

    def lower(self, site: Site, x: str, sink: str = "") -> str:
        """`torch.softmax` with one more column."""
        return f"sink_softmax({x}, {sink})"
