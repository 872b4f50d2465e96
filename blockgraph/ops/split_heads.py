"""Split into heads. Axes: B batch, T tokens, H heads, K features of a head."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import PartNames, SizeField
from blockgraph.op import Op, Site, Style
from blockgraph.types import Flow, Type


class SplitHeads(Op):
    """`part[p][b, h, t, k] = x[b, t, (p * heads + h) * K + k]`: parts side by side, each in head-major order.

    [batch, seq, n * heads * K] -> n values [batch, heads, seq, K], called as `into` says; so the features of QKV are
    [q | k | v]. Without `into` there is one output.
    """

    name: ClassVar = "split_heads"
    style: ClassVar = Style("reshape", "split heads", hidden=True)
    incremental: ClassVar = True
    example: ClassVar = """\
qkv: {op: linear, in: x, out: 3 * d_model}
heads: {op: split_heads, heads: n_heads, into: [q, k, v]}
sum: {op: add, in: [heads.q, heads.k, heads.v]}"""

    heads: SizeField = Field(description="count of the heads")
    into: PartNames = Field([], description="names of the parts, in the order of the features")

    def ports_out(self) -> tuple[str, ...]:
        """The parts by name."""
        return tuple(self.into) or ("out",)

    def infer(self, x: Type) -> dict[str, Type]:
        """Equal parts with a head axis."""
        if len(x.sizes) != 3:
            raise OpError("expects [batch, seq, features], found {}", x)
        parts = len(self.ports_out())
        width = x.last / (self.heads * parts)
        if width.fraction is not None and width.known is None:
            whole = f"{parts} x " if parts > 1 else ""
            raise OpError(f"heads do not divide: {{}} features over {whole}{{}} heads", x.last, self.heads)
        flow = Flow.PAST if x.flow is Flow.PAST else Flow.ALL
        part = Type((x.sizes[0], self.heads, x.sizes[1], width), x.kind, flow)
        return dict.fromkeys(self.ports_out(), part)

    def lower(self, site: Site, x: str) -> str:
        """Views, no copies."""
        parts = f", {len(self.into)}" if self.into else ""
        return f"split_heads({x}, {site.size(self.heads)}{parts})"

    def label(self) -> str:
        """The count of heads."""
        return f"split into {self.heads} heads" if isinstance(self.heads, Size) else ""
