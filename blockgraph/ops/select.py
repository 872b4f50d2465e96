"""One token of a sequence. Axes: T tokens, D features."""

from typing import ClassVar

from pydantic import Field

from blockgraph.errors import OpError
from blockgraph.op import Op, Site, Style
from blockgraph.types import TOKENS, Flow, Type


class Select(Op):
    """`y[b] = x[b, at]`: one token of each sequence, such as the class token that a classifier reads.

    [batch, T, D] -> [batch, D]; `at` counts from 0, or from -1 at the end.
    """

    name: ClassVar = "select"
    style: ClassVar = Style("reshape", "token {at}")
    example: ClassVar = "last: {op: select, in: x, at: -1}"

    at: int = Field(0, description="which token")

    def infer(self, x: Type) -> Type:
        """The type without tokens; a token has seen more than those that it is given to might."""
        if len(x.sizes) != 3 or x.kind == "int":
            raise OpError("expects tokens [batch, T, features], found {}", x)
        batch, tokens, width = x.sizes
        if tokens.known is not None and not -tokens.known <= self.at < tokens.known:
            raise OpError(f"there is no token {self.at} among {{}}", tokens)
        return Type((batch, width), flow=Flow.ALL if TOKENS.names & tokens.names else x.flow)

    def lower(self, site: Site, x: str) -> str:
        """A view."""
        return f"{x}.select(1, {self.at})"
