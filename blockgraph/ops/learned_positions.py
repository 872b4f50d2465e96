"""Learned positions (Gehring et al., arXiv 1705.03122). Axes: B batch, T tokens, D features."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import SizeField, normal
from blockgraph.op import MatrixOp, Param, Site, Style
from blockgraph.types import Type


class LearnedPositions(MatrixOp):
    """`y[b, t] = x[b, t] + weight[t]`: a trained vector for each position; a longer sequence is an error.

    [batch, T, D] -> [batch, T, D]; weight [rows, D], init normal 0.02, with weight decay.
    """

    name: ClassVar = "learned_positions"
    style: ClassVar = Style("position", "+ positions")
    paper: ClassVar = "https://arxiv.org/abs/1705.03122"
    incremental: ClassVar = True
    rounds: ClassVar = ("weight",)
    example: ClassVar = "positions: {op: learned_positions, in: x, rows: 64}"

    rows: SizeField = Field(description="positions that the table holds, the longest sequence")

    def infer(self, x: Type) -> Type:
        """The input's type; a sequence whose length is known has to fit in the table."""
        if len(x.sizes) < 2 or x.sizes[-2] == Size.symbol("batch"):
            raise OpError("expects [..., seq, features], found {}", x)
        length = x.sizes[-2].known
        if length is not None and length > (self.rows.known or 0):
            raise OpError("the table has {} positions, and the sequence {}", self.rows, x.sizes[-2])
        return x.real()

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """The table."""
        return (self.weight("weight", (self.rows, x.last), normal(0.02)),)

    def lower(self, site: Site, x: str, weight: str) -> str:
        """The rows of the table for these positions, in the activation's dtype."""
        return f"learned_positions({x}, {weight}{f', {site.start()}' if site.start() else ''})"

    def longest(self) -> Size:
        """As many as the table has rows."""
        return self.rows
