"""Sigmoid-weighted linear unit (Elfwing et al., arXiv 1702.03118)."""

from typing import ClassVar

from blockgraph.op import Pointwise, Site, Style


class Silu(Pointwise):
    """`x * sigmoid(x)`, entry by entry. [...] -> [...]."""

    name: ClassVar = "silu"
    style: ClassVar = Style("activation", "SiLU")
    paper: ClassVar = "https://arxiv.org/abs/1702.03118"
    incremental: ClassVar = True
    example: ClassVar = "act: {op: silu, in: x}"
    keeps_zero: ClassVar = True

    def lower(self, site: Site, x: str) -> str:
        """Plain torch."""
        return f"F.silu({x})"
