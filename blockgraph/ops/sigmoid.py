"""Sigmoid, as a gate or in the place of the softmax (Ramapuram et al., arXiv 2409.04431)."""

from typing import ClassVar

from pydantic import Field

from blockgraph.dims import number_of
from blockgraph.fields import Finite
from blockgraph.op import Pointwise, Site, Style


class Sigmoid(Pointwise):
    """`1 / (1 + exp(-(x + shift)))`, entry by entry, in fp32. [...] -> [...].

    On masked logits it gives attention weights that need not sum to one; with `shift: -log(seq)` they start out as
    small as a softmax's (section 3.1 there).
    """

    name: ClassVar = "sigmoid"
    style: ClassVar = Style("activation", "Sigmoid")
    paper: ClassVar = "https://arxiv.org/abs/2409.04431"
    incremental: ClassVar = True
    example: ClassVar = "gate: {op: sigmoid, in: x}"
    masks_to_zero: ClassVar = True

    shift: Finite = Field(number_of(0.0), description="added before; it may depend on `seq`")

    def lower(self, site: Site, x: str) -> str:
        """The sigmoid in fp32."""
        shift = f", {site.number(self.shift)}" if "shift" in self.model_fields_set else ""
        return f"sigmoid({x}{shift})"
