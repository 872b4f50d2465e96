"""Gaussian error linear unit (Hendrycks and Gimpel, arXiv 1606.08415)."""

from typing import ClassVar

from blockgraph.op import Pointwise, Site, Style


class Gelu(Pointwise):
    """`x * Phi(x)`, entry by entry. [...] -> [...]."""

    name: ClassVar = "gelu"
    style: ClassVar = Style("activation", "GELU")
    paper: ClassVar = "https://arxiv.org/abs/1606.08415"
    example: ClassVar = "act: {op: gelu, in: x}"
    keeps_zero: ClassVar = True

    def lower(self, site: Site, x: str) -> str:
        """Plain torch."""
        return f"F.gelu({x})"
