"""Sigmoid-weighted linear unit (Elfwing et al., arXiv 1702.03118)."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import number_of
from blockgraph.fields import Positive
from blockgraph.op import Pointwise, Site, Style


class Silu(Pointwise):
    """`x * sigmoid(slope * x)`, entry by entry. [...] -> [...]; with a slope of 1.702 it is close to GELU."""

    name: ClassVar = "silu"
    style: ClassVar = Style("activation", "SiLU")
    paper: ClassVar = "https://arxiv.org/abs/1702.03118"
    incremental: ClassVar = True
    example: ClassVar = "act: {op: silu, in: x}"
    keeps_zero: ClassVar = True

    slope: Positive = Field(number_of(1.0), description="factor inside the sigmoid")

    def lower(self, site: Site, x: str) -> str:
        """Plain torch."""
        sloped = "slope" in self.model_fields_set
        return f"{x} * torch.sigmoid({site.number(self.slope)} * {x})" if sloped else f"F.silu({x})"
