"""Patches of an image as tokens (Dosovitskiy et al., arXiv 2010.11929, section 3.1). Axes: C channels, P side."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import SizeField
from blockgraph.op import Op, Site, Style
from blockgraph.types import TOKENS, Flow, Type


class Patches(Op):
    """`y[b, r * (W / P) + s, (c * P + i) * P + j] = x[b, c, r * P + i, s * P + j]`: squares of an image, row by row.

    [batch, channels, height, width] -> [batch, (height / P) * (width / P), channels * P * P]. A linear behind it is a
    convolution whose stride is the side of its kernel.
    """

    name: ClassVar = "patches"
    style: ClassVar = Style("reshape", "patches")
    paper: ClassVar = "https://arxiv.org/abs/2010.11929"
    example: ClassVar = "patches: {op: patches, in: image, side: 4}"

    side: SizeField = Field(description="rows and columns of a patch")

    def infer(self, x: Type) -> Type:
        """A token for each patch."""
        if len(x.sizes) != 4:
            raise OpError("expects an image [batch, channels, height, width], found {}", x)
        batch, channels, height, width = x.sizes
        rows, columns = (self._parts(size, x) for size in (height, width))
        tokened = any(TOKENS.names & size.names for size in x.sizes)
        sizes = (batch, rows * columns, channels * self.side * self.side)
        return Type(sizes, x.kind, Flow.ALL if tokened else x.flow)

    def _parts(self, size: Size, x: Type) -> Size:
        parts = size / self.side
        if parts.fraction is not None and parts.known is None:
            raise OpError("patches of {} do not divide the image {}", self.side, x)
        return parts

    def lower(self, site: Site, x: str) -> str:
        """One copy."""
        return f"patches({x}, {site.size(self.side)})"

    def label(self) -> str:
        """The side in pixels."""
        return f"patches {self.side.known} × {self.side.known}"
