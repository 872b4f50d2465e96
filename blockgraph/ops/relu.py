"""Rectified linear unit."""

from typing import ClassVar

from blockgraph.op import Pointwise, Site, Style


class Relu(Pointwise):
    """`max(x, 0)`, entry by entry. [...] -> [...]."""

    name: ClassVar = "relu"
    style: ClassVar = Style("activation", "ReLU")
    incremental: ClassVar = True
    example: ClassVar = "act: {op: relu, in: x}"
    keeps_zero: ClassVar = True
    masks_to_zero: ClassVar = True

    def lower(self, site: Site, x: str) -> str:
        """Plain torch."""
        return f"F.relu({x})"
