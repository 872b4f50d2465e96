"""Softmax temperature (2410.16682, section 4.2; Hinton et al., arXiv 1503.02531)."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import number_of
from blockgraph.fields import Positive
from blockgraph.op import Op, Site, Style
from blockgraph.types import Type


class SoftTemp(Op):
    """`beta * x`, on logits already divided by sqrt(d_head); beta is an inverse temperature. [..., S] -> [..., S]."""

    name: ClassVar = "soft_temp"
    style: ClassVar = Style("limit", "temp {beta}")
    paper: ClassVar = "https://arxiv.org/abs/2410.16682"
    incremental: ClassVar = True
    example: ClassVar = "temp: {op: soft_temp, in: scores, beta: 0.5}"

    beta: Positive = Field(number_of(0.5), description="factor on the logits, the inverse of the temperature")

    def infer(self, x: Type) -> Type:
        """The input's type; a positive factor keeps a mask."""
        return x.real()

    def lower(self, site: Site, x: str) -> str:
        """One multiplication."""
        return f"{x} * {site.number(self.beta)}"
