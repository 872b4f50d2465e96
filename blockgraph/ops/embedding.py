"""Embedding: a row of a table for every token. Axes: B batch, T tokens, D features."""

from typing import ClassVar

from pydantic import Field

from blockgraph.errors import OpError
from blockgraph.fields import SizeField, normal
from blockgraph.op import MatrixOp, Param, Site, Style
from blockgraph.types import Flow, Type


class Embedding(MatrixOp):
    """`y[b, t] = weight[tokens[b, t]]`; its output decides the dtype that the model computes in.

    tokens [batch, seq] of int64 -> [batch, seq, width]; weight [rows, width], init normal 0.02, with weight decay.
    """

    name: ClassVar = "embedding"
    style: ClassVar = Style("embedding")
    incremental: ClassVar = True
    rounds: ClassVar = ("weight",)
    example: ClassVar = "embed: {op: embedding, in: tokens, rows: 256, width: d_model}"

    rows: SizeField = Field(description="rows of the table, the size of the vocabulary")
    width: SizeField = Field(description="features of the output")

    def infer(self, tokens: Type) -> Type:
        """One more axis, the features."""
        if tokens.kind != "int":
            raise OpError("expects token ids [batch, seq], found real numbers {}", tokens)
        return Type((*tokens.sizes, self.width), flow=Flow.PAST if tokens.flow is Flow.PAST else Flow.ALL)

    def parameters(self, tokens: Type) -> tuple[Param, ...]:
        """The table."""
        return (self.weight("weight", (self.rows, self.width), normal(0.02)),)

    def lower(self, site: Site, tokens: str, weight: str) -> str:
        """`F.embedding`, cast to the compute dtype where the run sets one."""
        return f"self.cast(F.embedding({tokens}, {weight}))"
