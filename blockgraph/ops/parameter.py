"""Parameter: a trained tensor as a node of its own, for weights that several nodes share."""

from typing import ClassVar

from pydantic import Field

from blockgraph.errors import OpError
from blockgraph.fields import SizeField, normal
from blockgraph.op import MatrixOp, Param, Site, Style
from blockgraph.types import Type


class Parameter(MatrixOp):
    """`W`: a tensor of its own; wire it by its name into the `weight` ports of several nodes.

    nothing -> [shape], init normal 0.02, with weight decay. Its name in the state dict is `NAME.weight`.
    """

    name: ClassVar = "parameter"
    style: ClassVar = Style("weight", "W")
    example: ClassVar = """\
shared: {op: parameter, shape: [d_model, d_model]}
one: {op: linear, in: x, out: d_model, weight: shared}
two: {op: linear, in: one, out: d_model, weight: shared}"""

    shape: list[SizeField] = Field(min_length=1, description="sizes of the axes")

    def infer(self) -> Type:
        """The shape as given."""
        if self.after_step and len(self.shape) != 2:
            raise OpError(f"{self.after_step} needs a matrix [rows, columns], found {{}}", Type(tuple(self.shape)))
        return Type(tuple(self.shape))

    def parameters(self) -> tuple[Param, ...]:
        """The tensor itself."""
        return (self.weight("weight", tuple(self.shape), normal(0.02)),)

    def lower(self, site: Site, weight: str) -> str:
        """The parameter as it is."""
        return weight
