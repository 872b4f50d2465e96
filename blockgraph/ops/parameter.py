"""Parameter: a trained tensor as a node of its own, for weights that several nodes share."""

from typing import ClassVar

from blockgraph.op import Param, Site, SizeField, Style, WeightedOp, normal
from blockgraph.types import Type


class Parameter(WeightedOp):
    """`value`: a tensor of the given shape, init normal 0.02; wire it into a `weight` port by its name."""

    name: ClassVar = "parameter"
    style: ClassVar = Style("weight", "W")
    weights: ClassVar = ("weight",)
    example: ClassVar = """\
shared: {op: parameter, shape: [d_model, d_model]}
one: {op: linear, in: x, out: d_model, weight: shared}
two: {op: linear, in: one, out: d_model, weight: shared}"""

    shape: list[SizeField]

    def infer(self) -> Type:
        """The shape as given."""
        return Type(tuple(self.shape))

    def parameters(self) -> tuple[Param, ...]:
        """The tensor itself."""
        return (self.weight("weight", tuple(self.shape), normal(0.02)),)

    def lower(self, site: Site, weight: str) -> str:
        """The parameter as it is."""
        return weight
