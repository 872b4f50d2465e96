"""Split of the features into parts."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import PartNames, SizeField
from blockgraph.op import Op, Site, Style
from blockgraph.types import Flow, Type


class Split(Op):
    """`a = x[..., :A]`, `b = x[..., A:A + B]`, ...: the last axis in parts of the given sizes.

    [..., A + B + ...] -> [..., A], [..., B], ..., called as `into` says.
    """

    name: ClassVar = "split"
    style: ClassVar = Style("reshape", "split", hidden=True)
    incremental: ClassVar = True
    example: ClassVar = """\
parts: {op: split, in: q, sizes: [d_head - 2, 2], into: [a, b]}"""

    sizes: list[SizeField] = Field(min_length=2, description="features of the parts, in order")
    into: PartNames = Field(min_length=2, description="names of the parts, in order")

    def ports_out(self) -> tuple[str, ...]:
        """The parts by name."""
        return tuple(self.into)

    def infer(self, x: Type) -> dict[str, Type]:
        """Parts whose sizes sum to the features there are."""
        if len(self.sizes) != len(self.into):
            raise OpError(f"sizes are {len(self.sizes)} and names are {len(self.into)}")
        total = Size.constant(0)
        for size in self.sizes:
            total = total + size
        if x.last != total:
            raise OpError("parts of {} features in all, found {}", total, x)
        whole = x if x.flow is Flow.PAST else x.with_flow(Flow.ALL)
        return {name: whole.with_last(size) for name, size in zip(self.into, self.sizes, strict=True)}

    def lower(self, site: Site, x: str) -> str:
        """Views, no copies."""
        return f"torch.split({x}, [{', '.join(site.size(size) for size in self.sizes)}], dim=-1)"
