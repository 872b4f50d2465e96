"""Squared ReLU (2410.16682, section 2; So et al., arXiv 2109.08668)."""

from typing import ClassVar

from blockgraph.op import Pointwise, Site, Style


class SquaredRelu(Pointwise):
    """`max(x, 0)**2`, entry by entry. [...] -> [...]."""

    name: ClassVar = "squared_relu"
    style: ClassVar = Style("activation", "Squared ReLU")
    paper: ClassVar = "https://arxiv.org/abs/2109.08668"
    incremental: ClassVar = True
    example: ClassVar = "act: {op: squared_relu, in: x}"
    keeps_zero: ClassVar = True
    masks_to_zero: ClassVar = True

    def lower(self, site: Site, x: str) -> str:
        """Plain torch."""
        return f"F.relu({x}).square()"
