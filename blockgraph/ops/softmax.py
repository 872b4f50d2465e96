"""Softmax over the last axis."""

from typing import ClassVar

from blockgraph.op import Op, Site, Style
from blockgraph.probe import Probe, average
from blockgraph.types import TOKENS, Flow, Type


class Softmax(Op):
    """`exp(x) / sum(exp(x))` over the last axis, in fp32, given back in the input's dtype. [..., S] -> [..., S]."""

    name: ClassVar = "softmax"
    style: ClassVar = Style("softmax", "Softmax")
    incremental: ClassVar = True
    example: ClassVar = """\
mask: {op: causal_mask, in: scores}
softmax: {op: softmax}"""

    def infer(self, x: Type) -> Type:
        """The input's type; masked logits become weights that are zero ahead of the token."""
        return x.real().with_flow(Flow.WEIGHTS) if x.flow is Flow.MASKED else x.mixed()

    def lower(self, site: Site, x: str) -> str:
        """`torch.softmax` in fp32."""
        return f"softmax({x})"

    def probes(self, x: Type) -> tuple[Probe, ...]:
        """How sharp the rows are."""
        rows = "last_rows({out})" if x.last == TOKENS else "{out}"
        return (
            average(f"row_entropy({rows})", "entropy", "mean entropy of a row", "nats"),
            average(f"one_hot({rows})", "one_hot", "rows with one entry above 0.9"),
        )
