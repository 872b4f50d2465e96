"""Weighted sum over the last axis but one: what a token's experts say, put together. Axes: C terms, D features."""

from typing import ClassVar

from blockgraph.errors import OpError
from blockgraph.op import Op, Site, Style
from blockgraph.types import Flow, Type


class WeightedSum(Op):
    """`y[..., d] = sum over c of weights[..., c] * x[..., c, d]`, in fp32. [..., C, D], [..., C] -> [..., D]."""

    name: ClassVar = "weighted_sum"
    style: ClassVar = Style("residual", "Σ")
    paper: ClassVar = "https://arxiv.org/abs/1701.06538"
    incremental: ClassVar = True
    example: ClassVar = """\
router: {op: linear, in: x, out: 6}
route: {op: route, top: 2}
up: {op: expert_linear, in: [x, route.chosen], experts: 6, out: d_ff}
sum: {op: weighted_sum, in: [up, route.weights]}"""

    def infer(self, x: Type, weights: Type) -> Type:
        """One axis less; causal where both are and no tokens are summed over."""
        if x.kind == "int" or weights.kind == "int" or len(x.sizes) < 2 or weights.sizes != x.sizes[:-1]:
            raise OpError("expects terms [..., C, D] and weights [..., C], found {} and {}", x, weights)
        past = (x.flow, weights.mixed().flow) == (Flow.PAST, Flow.PAST)
        return Type((*x.sizes[:-2], x.last), flow=Flow.PAST if past else Flow.ALL)

    def lower(self, site: Site, x: str, weights: str) -> str:
        """A product and a sum."""
        return f"weighted_sum({x}, {weights})"
