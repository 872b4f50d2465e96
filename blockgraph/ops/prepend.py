"""Trained tokens in front of a sequence (class token: Dosovitskiy et al., arXiv 2010.11929). Axes: T tokens, N new."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import SizeField, normal
from blockgraph.op import Param, Site, Style, WeightedOp
from blockgraph.types import Type


class Prepend(WeightedOp):
    """`y[b] = [weight; x[b]]`: the same trained tokens in front of every sequence, as a class token or registers.

    [batch, T, D] -> [batch, T + count, D]; weight [count, D], init normal 0.02, no weight decay.
    """

    name: ClassVar = "prepend"
    style: ClassVar = Style("embedding")
    paper: ClassVar = "https://arxiv.org/abs/2010.11929"
    example: ClassVar = "class_token: {op: prepend, in: x}"

    count: SizeField = Field(Size.constant(1), description="tokens put in front")

    def infer(self, x: Type) -> Type:
        """More tokens."""
        if len(x.sizes) != 3:
            raise OpError("expects tokens [batch, T, features], found {}", x)
        batch, tokens, width = x.sizes
        return Type((batch, tokens + self.count, width), flow=x.real().flow)

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """The tokens."""
        return (self.weight("weight", (self.count, x.last), normal(0.02), decay=False),)

    def lower(self, site: Site, x: str, weight: str) -> str:
        """One concatenation in the dtype of the sequence."""
        return f"prepend({x}, {weight})"
