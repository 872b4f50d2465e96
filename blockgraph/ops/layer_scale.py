"""LayerScale (2410.16682, section 4.5, Figure 4; Touvron et al., arXiv 2103.17239)."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.fields import constant
from blockgraph.op import Param, Site, Style, WeightedOp
from blockgraph.types import Flow, Type


class LayerScale(WeightedOp):
    """`weight * x`, one trained gain per channel on a sublayer's output, before the residual add.

    [..., D] -> [..., D]; weight [D], init 0.1, no weight decay. `shared` is one gain [1] for all channels; `absolute`
    takes `|weight|`, as the step sizes of arXiv 2410.01131, section 2.2.2.
    """

    name: ClassVar = "layer_scale"
    style: ClassVar = Style("scale", "LayerScale")
    paper: ClassVar = "https://arxiv.org/abs/2103.17239"
    incremental: ClassVar = True
    rounds: ClassVar = ("weight",)
    example: ClassVar = "scale: {op: layer_scale, in: x, init: 0.1}"

    shared: bool = Field(False, description="one gain for all channels")
    absolute: bool = Field(False, description="the gain's absolute value")

    def infer(self, x: Type) -> Type:
        """The input's type; a gain may be negative, so masked logits would not stay so."""
        return x.real().with_flow(Flow.PAIRS) if x.flow is Flow.MASKED else x.real()

    def parameters(self, x: Type) -> tuple[Param, ...]:
        """The gains."""
        return (self.weight("weight", (Size.constant(1) if self.shared else x.last,), constant(0.1), decay=False),)

    def lower(self, site: Site, x: str, weight: str) -> str:
        """One multiplication in the activation's dtype."""
        return f"layer_scale({x}, {weight}{'.abs()' if self.absolute else ''})"
