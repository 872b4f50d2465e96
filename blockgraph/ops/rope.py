"""Rotary position embedding (Su et al., arXiv 2104.09864)."""

from typing import ClassVar, Literal

from pydantic import Field

from blockgraph.dims import number_of
from blockgraph.errors import OpError
from blockgraph.fields import Positive, SizeField
from blockgraph.op import Op, Site, Style
from blockgraph.types import TOKENS, Type


class Rope(Op):
    """Rotates pairs (a, b) of features by `t * base**(-2i/K)`: `(a cos - b sin, a sin + b cos)`, in fp32.

    [..., seq, K] -> [..., seq, K]; t is the position from 0 on, i counts the pairs. `half` pairs the first half with
    the second, `interleaved` pairs neighbours.
    """

    name: ClassVar = "rope"
    style: ClassVar = Style("position", "RoPE")
    paper: ClassVar = "https://arxiv.org/abs/2104.09864"
    keeps_length: ClassVar = True
    example: ClassVar = "rope_q: {op: rope, in: q, base: 10000}"

    base: Positive = Field(number_of(10000.0), description="the longest wavelength is 2 pi times about this")
    pairs: Literal["half", "interleaved"] = Field("half", description="which features form a pair")
    width: SizeField | None = Field(None, description="rotate only the first so many features; all when left out")

    def infer(self, x: Type) -> Type:
        """The input's type; the rotated width has to be even."""
        if len(x.sizes) < 3 or x.sizes[-2] != TOKENS:
            raise OpError("expects [..., seq, features], found {}", x)
        width = self.width or x.last
        if width.known is not None and (width.known % 2 or width.known > (x.last.known or width.known)):
            raise OpError("rotates an even number of features up to {}, found {}", x.last, width)
        return x.mixed()

    def lower(self, site: Site, x: str) -> str:
        """The rotation; angles are made from the positions, so nothing has to be stored."""
        width = f", width={site.size(self.width)}" if self.width else ""
        pairs = ", interleaved=True" if self.pairs == "interleaved" else ""
        return f"rope({x}, {site.number(self.base)}{width}{pairs})"
