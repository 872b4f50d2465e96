"""LayerScale (2410.16682, section 4.5, Figure 4; Touvron et al., arXiv 2103.17239)."""

from typing import ClassVar

from blockgraph.op import Param, Site, Style, WeightedOp, constant
from blockgraph.types import Type


class LayerScale(WeightedOp):
    """`weight * x`, one trained gain per channel on a sublayer's output; init 0.1, no weight decay. [..., D]."""

    name: ClassVar = "layer_scale"
    style: ClassVar = Style("scale", "LayerScale")
    paper: ClassVar = "https://arxiv.org/abs/2103.17239"
    weights: ClassVar = ("weight",)
    example: ClassVar = "scale: {op: layer_scale, in: x, init: 0.1}"

    def infer(self, x: Type) -> Type:
        """The input's type."""
        return x

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """The gains."""
        return (self.weight("weight", (x.last,), constant(0.1), decay=False),)

    def lower(self, site: Site, x: str, weight: str) -> str:
        """One multiplication in the activation's dtype."""
        return f"layer_scale({x}, {weight})"
