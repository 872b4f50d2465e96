"""Relative position bias (Raffel et al., arXiv 1910.10683, section 2.1). Axes: H heads, T queries, S keys."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from blockgraph.errors import OpError
from blockgraph.fields import SizeField, normal
from blockgraph.op import MatrixOp, Param, Site, Style
from blockgraph.types import Flow, Type


class RelativeBias(MatrixOp):
    """`y[b, h, t, s] = x[b, h, t, s] + weight[bucket(s - t), h]`: a trained bias for each head and each distance.

    Scores [batch, heads, T, T] -> [batch, heads, T, T]; weight [buckets, heads], init normal 0.02, with weight decay.
    Half of the buckets hold one distance each, the others ever longer ranges up to `distance`, and all beyond. With
    `both_sides` half of them are for later keys; otherwise later keys count as distance 0, to be masked. The layers of
    a stack that name it in `share` have one table, as in T5.
    """

    name: ClassVar = "relative_bias"
    style: ClassVar = Style("position", "relative bias")
    paper: ClassVar = "https://arxiv.org/abs/1910.10683"
    incremental: ClassVar = True
    example: ClassVar = "bias: {op: relative_bias, in: scores, buckets: 8, distance: 6}"

    buckets: SizeField = Field(description="rows of the table")
    distance: SizeField = Field(description="distance from which on all are one bucket")
    both_sides: bool = Field(False, description="tells keys after the query from those before it")

    @model_validator(mode="after")
    def _growing(self) -> Self:
        side = (self.buckets.known or 0) // (2 if self.both_sides else 1)
        if side < 2 or (self.distance.known or 0) <= side // 2:
            raise ValueError(
                f"{side} buckets on a side hold the distances up to {side // 2} one by one, so there have to be two or"
                f" more, and distance has to be greater, found {self.distance.known}"
            )
        return self

    def infer(self, x: Type) -> Type:
        """The scores' type; what the mask put to minus infinity stays there."""
        if len(x.sizes) != 4 or x.sizes[2] != x.sizes[3]:
            raise OpError("expects scores [batch, heads, T, T] of one sequence with itself, found {}", x)
        if x.flow is Flow.WEIGHTS:
            raise OpError("is added to logits, and these are weights already; put it before the softmax")
        return x.real()

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """The table."""
        return (self.weight("weight", (self.buckets, x.sizes[1]), normal(0.02), rows=True),)

    def lower(self, site: Site, x: str, weight: str) -> str:
        """One look-up for each pair of positions, added to every sequence."""
        sides = ", both_sides=True" if self.both_sides else ""
        return f"relative_bias({x}, {weight}, {site.size(self.distance)}{sides})"
